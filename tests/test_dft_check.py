"""Bookkeeping of the check with DFT, springs in the place of GPAW: nothing is lost, nothing calculated twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from springs import A_A, HEIGHT_A, Springs
from test_dft_frames import HERE, Counted

from definet.dft import SET_ASIDE, Frame, RELAXED_eV_A, Settings, read_frames, to_atoms
from definet.hessian import stiffness

NAME = "MoS2-V_S2"


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    import check

    monkeypatch.setattr(check, "FOLDER", tmp_path)
    monkeypatch.setattr(check, "RESULTS", tmp_path / "check.json")


def calculated(frame: Frame, positions_A: np.ndarray) -> Frame:
    """The frame at other positions."""
    return Counted(frame).at(positions_A, "potential", 0)


@pytest.fixture
def truth() -> Frame:
    """A divacancy among springs, at its minimum."""
    from ase.optimize import BFGS
    from plan import Defect
    from starts import built, with_thickness

    defect = Defect(NAME, "MoS2", (3, 3), (("V_S2", None, "top"),))
    crystal = built(defect, with_thickness("MoS2", 1.02 * HEIGHT_A / 2), 1.01 * A_A, 14.0)
    here, nodes = crystal.occupied, crystal.nodes_A
    frame = Frame(
        crystal.numbers[here], nodes[here], nodes[here].round(8), crystal.marker[here],
        crystal.structure.lattice.matrix, np.zeros((int(here.sum()), 3)), 0.0, 0.0, "MoS2", NAME, crystal.label,
        (3, 3), (), "potential", 0, Settings("springs", "none", "none", "1x1", 0.05, 1e-4), True, 1, 0.0,
    )  # fmt: skip
    atoms = to_atoms(frame)
    atoms.calc = Springs()
    BFGS(atoms, logfile=None).run(fmax=1e-3)
    return calculated(frame, atoms.get_positions())


@pytest.fixture
def trial(truth: Frame, tmp_path: Path):
    """Three starts, each worse than the next, with the springs' own stiffness; stored as `make_starts` does."""
    from check import STARTS, load_trial

    wanted = truth.positions_A - truth.ideal_A
    shares = dict(zip(STARTS, (0.0, 0.4, 0.8), strict=True))
    arrays = {}
    for start, share in shares.items():
        positions = truth.ideal_A + share * wanted
        atoms = to_atoms(replace(truth, positions_A=positions))
        atoms.calc = Springs()
        arrays |= {f"positions {start}": positions, f"hessian {start}": stiffness(atoms).astype(np.float32)}
    notes = {"potential": "springs", "weights": "none", "outside": ""}
    np.savez_compressed(tmp_path / f"{NAME}.npz", notes=json.dumps(notes), **arrays)
    return load_trial(tmp_path / f"{NAME}.npz", truth)


def test_a_run_that_is_killed_at_every_frame_ends_where_one_that_is_not_does(trial, truth, tmp_path) -> None:
    from check import HESSIANS, STARTS, named, run

    run([NAME], [truth], Counted)
    whole = read_frames(tmp_path / f"{NAME}.extxyz")
    results = json.loads((tmp_path / "check.json").read_text())
    for path in (f"{NAME}.extxyz", "check.json"):
        (tmp_path / path).unlink()
    for _ in range(len(whole) + 1):
        try:
            run([NAME], [truth], lambda frame: Counted(frame, 1))
            break
        except KeyboardInterrupt:
            continue
    again = read_frames(tmp_path / f"{NAME}.extxyz")
    assert [(f.trajectory, f.step) for f in again] == [(f.trajectory, f.step) for f in whole]
    for one, other in zip(whole, again, strict=True):
        np.testing.assert_array_equal(one.positions_A, other.positions_A)
    assert json.loads((tmp_path / "check.json").read_text()) == results
    assert {f.trajectory for f in whole} == {named(s, h) for s in STARTS for h in HESSIANS}
    for start in STARTS:
        taken = results[NAME]["starts"][start]["descents"]
        quick, plain = (taken[hessian] for hessian in HESSIANS)
        assert quick["at_rest"] and plain["at_rest"] and quick["steps"] < plain["steps"]
        assert quick["fmax_eV_A"][0] == plain["fmax_eV_A"][0] == results[NAME]["starts"][start]["fmax_eV_A"]
        assert quick["fmax_eV_A"][-1] <= RELAXED_eV_A < quick["fmax_eV_A"][-2]


def test_nothing_is_calculated_twice(trial, truth, tmp_path) -> None:
    from check import run

    made = []

    class Seen(Counted):
        def at(self, positions_A, *rest):
            made.append(np.round(positions_A, 6).tobytes())
            return super().at(positions_A, *rest)

    known = calculated(truth, trial.positions_A["unrelaxed"])
    run([NAME], [truth, known], Seen)
    stored = read_frames(tmp_path / f"{NAME}.extxyz")
    assert len(set(made)) == len(made) < len(stored)
    assert np.round(known.positions_A, 6).tobytes() not in made, "the frame that was known"
    count = len(made)
    run([NAME], [truth], Seen)
    assert len(made) == count, "what has ended stays"
    # Another way to treat the electrons is another calculation.
    (tmp_path / f"{NAME}.extxyz").unlink()
    run([NAME], [truth, replace(known, settings=replace(known.settings, waves="PW 400"))], Seen)
    assert np.round(known.positions_A, 6).tobytes() in made[count:]


def test_errors_are_shares_of_doing_nothing(trial, truth) -> None:
    from check import errors

    found = {start: errors(truth, positions) for start, positions in trial.positions_A.items()}
    assert found["unrelaxed"] == pytest.approx((1, 1))
    assert found["potential"] == pytest.approx((0.6, 0.6)) and found["definet"] == pytest.approx((0.2, 0.2))
    floated = truth.positions_A + np.array([0.3, -0.2, 0.5])
    assert errors(truth, floated) == pytest.approx((0, 0), abs=1e-6)
    lifted = truth.positions_A + 0.01 * np.arange(len(truth.numbers))[:, None] * [0, 0, 1]
    assert errors(truth, lifted)[0] == pytest.approx(0, abs=1e-6) and errors(truth, lifted)[1] > 0.1


def test_minima_are_of_defects_set_aside_and_at_rest(truth) -> None:
    from check import truths

    high = calculated(truth, truth.positions_A + 0.0005 * np.random.default_rng(0).normal(size=(len(truth.numbers), 3)))
    far = calculated(truth, truth.ideal_A)
    learnt = replace(truth, defect="MoS2-V_S")
    assert far.fmax_eV_A > RELAXED_eV_A > high.fmax_eV_A and high.free_energy_eV > truth.free_energy_eV
    assert truths([far, high, truth, learnt]) == {NAME: truth} and truths([far, learnt]) == {}


def test_the_table_tells_what_has_not_ended(trial, truth, tmp_path) -> None:
    from check import HEAD, STARTS, rows, run

    with pytest.raises(KeyboardInterrupt):
        run([NAME], [truth], lambda frame: Counted(frame, 1))
    found = rows(json.loads((tmp_path / "check.json").read_text()))
    assert [row[1] for row in found] == list(STARTS) and all(len(row) == len(HEAD) for row in found)
    assert found[0][5].startswith("> 0 (at ") and found[0][8] == "-" and found[1][2:4] == ("-", "-")


def test_stored_results_are_those_of_stored_frames() -> None:
    """What is committed: steps, forces and energies as in the frames of the same folder."""
    results = json.loads((HERE / "check.json").read_text())
    assert results and set(results) <= SET_ASIDE
    for name, known in results.items():
        path = HERE / "check" / f"{name}.extxyz"
        frames = read_frames(path) if path.exists() else []
        assert {frame.settings.code for frame in frames} <= {known["code"]}
        for start, one in known["starts"].items():
            for hessian, taken in one["descents"].items():
                from check import named

                forces = [frame.fmax_eV_A for frame in frames if frame.trajectory == named(start, hessian)]
                stored = taken["fmax_eV_A"]
                assert np.allclose(stored, forces[: len(stored)], atol=1e-4) and taken["steps"] == len(stored) - 1
                assert taken["at_rest"] == (stored[-1] <= RELAXED_eV_A) and min([1.0, *stored[:-1]]) > RELAXED_eV_A
