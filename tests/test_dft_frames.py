"""Stored DFT frames: sound, symmetric, split by defect; and trajectories that do not care where they were stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from springs import A_A, HEIGHT_A, Springs

from definet.crystals import host
from definet.dft import (
    SET_ASIDE,
    Frame,
    MEAN_FORCE_eV_A,
    RELAXED_eV_A,
    Settings,
    faults,
    parts,
    read_folder,
    read_frames,
    title,
    to_atoms,
    write_frames,
)
from definet.exceptions import InputFileError, OutputError

HERE = Path(__file__).parents[1] / "benchmarks" / "dft"
FILES = sorted((HERE / "frames").rglob("*.extxyz"))
THREEFOLD = ("V_S", "V_S2", "V_Se", "V_Se2", "V_Mo", "V_W")
PBE_A = {"MoS2": 3.19032, "WSe2": 3.32707, "hBN": 2.51243}
"""Lattice constants of the published set of defects (Huang et al., npj 2D Mater. Appl. 7, 6 (2023)), PBE at 500 eV."""


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))


class Counted:
    """Springs in the place of GPAW, which are stopped after some frames."""

    def __init__(self, frame: Frame, most: int = 10**6) -> None:
        self.frame, self.left = frame, most

    def at(self, positions_A, trajectory, step, cell_A=None):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        atoms = to_atoms(replace(self.frame, positions_A=np.round(positions_A, 8)))
        atoms.calc = Springs()
        energy, forces = atoms.get_potential_energy(), np.round(atoms.get_forces(), 8)
        return replace(
            self.frame, positions_A=atoms.get_positions(), forces_eV_A=forces, energy_eV=energy, free_energy_eV=energy,
            trajectory=trajectory, step=step, converged=True, iterations=1,
        )  # fmt: skip


@pytest.fixture
def start():
    """A sulphur vacancy among springs, as `starts.py` builds it; and its stiffness."""
    from plan import Defect
    from starts import built, stiffness, with_thickness
    from trajectory import Start

    defect = Defect("MoS2-V_S", "MoS2", (3, 3), (("V_S", None, "top"),))
    crystal = built(defect, with_thickness("MoS2", HEIGHT_A / 2), A_A, 14.0)
    here, nodes = crystal.occupied, crystal.nodes_A
    nothing, vacant = np.zeros((int(here.sum()), 3)), tuple(nodes[~here][0].round(6).tolist())
    frame = Frame(
        crystal.numbers[here], nodes[here], nodes[here], crystal.marker[here], crystal.structure.lattice.matrix,
        nothing, 0.0, 0.0, "MoS2", "MoS2-V_S", crystal.label, (3, 3), (("S", vacant),), "ideal", 0,
        Settings("springs", "none", "none", "1x1", 0.05, 1e-4), True, 1, 0.0,
    )  # fmt: skip
    atoms = to_atoms(frame)
    atoms.calc = Springs()
    pulled = frame.ideal_A + np.random.default_rng(1).normal(0, 0.05, frame.ideal_A.shape)
    return Start(frame, pulled, stiffness(atoms))


def relaxed(start, folder: Path, most: int = 10**6) -> list[Frame]:
    """What a run leaves behind that is stopped after some frames, or ends by itself."""
    from trajectory import Book, relax

    folder.mkdir(exist_ok=True)
    try:
        relax(Book(start.frame, folder, lambda frame: Counted(frame, most)), start, "potential", 15)
    except KeyboardInterrupt:
        assert len(read_frames(folder / "MoS2-V_S.extxyz")) <= 15
    return read_frames(folder / "MoS2-V_S.extxyz")


def test_a_relaxation_goes_on_where_it_was_stopped(start, tmp_path) -> None:
    start = start._replace(stiffness=start.stiffness * 2)  # does not find rest at once
    whole = relaxed(start, tmp_path / "whole")
    assert len(whole) >= 3 and whole[-1].fmax_eV_A <= RELAXED_eV_A < whole[-2].fmax_eV_A
    for _ in range(len(whole)):
        again = relaxed(start, tmp_path / "again", most=1)
    assert [title(frame) for frame in again] == [title(frame) for frame in whole]
    for one, other in zip(whole, again, strict=True):
        np.testing.assert_array_equal(one.positions_A, other.positions_A)
    assert len(relaxed(start, tmp_path / "again")) == len(whole), "what is at rest stays"
    other = start._replace(stiffness=start.stiffness * 1.1)
    with pytest.raises(AssertionError, match="another path"):
        relaxed(other, tmp_path / "again")


def test_relaxations_end_when_enough_was_made(start, tmp_path) -> None:
    from trajectory import Book, Enough, rattle, relax

    book = Book(start.frame, tmp_path, Counted)
    with pytest.raises(Enough):
        relax(book, start, "ideal", 0)
    with pytest.raises(Enough):
        relax(book, start, "potential", 2)
    rattle(book, start, "rattled-0.05-1", 1)
    rattle(book, start, "rattled-0.05-1", 1)
    kinds = [title(frame) for frame in read_frames(book.path)]
    assert kinds == ["MoS2-V_S potential 0", "MoS2-V_S potential 1", "MoS2-V_S rattled-0.05-1 0"]
    off = book.frames[2].positions_A - book.frames[1].positions_A
    assert np.std(off) == pytest.approx(0.05, rel=0.3) and faults(book.frames) == []


def test_what_does_not_converge_is_not_tried_again(start, tmp_path) -> None:
    from trajectory import Book, Enough, Unconverged, relax

    class Restless(Counted):
        def at(self, positions_A, trajectory, step, cell_A=None):
            raise Unconverged(f"{self.frame.defect} {trajectory} {step}")

    book = Book(start.frame, tmp_path, Restless)
    with pytest.raises(Enough):
        relax(book, start, "potential", 3)
    assert book.gave_up("potential") and not book.gave_up("ideal") and not book.path.exists()


def test_frames_come_back_as_they_went(start, tmp_path) -> None:
    frames = [Counted(start.frame).at(start.potential_A, "potential", 0)]
    write_frames(tmp_path / "one.extxyz", frames)
    [back] = read_frames(tmp_path / "one.extxyz")
    for name in ("positions_A", "ideal_A", "forces_eV_A", "cell_A", "numbers", "marker"):
        np.testing.assert_allclose(getattr(back, name), getattr(frames[0], name), atol=1e-8)
    assert (back.settings, back.vacant, back.shape) == (frames[0].settings, frames[0].vacant, (3, 3))
    assert back.converged is True and back.free_energy_eV == pytest.approx(frames[0].free_energy_eV, abs=1e-8)
    assert abs(back.displacement_A.mean()) < 1e-12
    with pytest.raises(InputFileError):
        read_frames(tmp_path / "none.extxyz")
    (tmp_path / "torn.extxyz").write_text((tmp_path / "one.extxyz").read_text()[:400])
    with pytest.raises(InputFileError):
        read_frames(tmp_path / "torn.extxyz")
    with pytest.raises(OutputError):
        write_frames(tmp_path / "nowhere" / "one.extxyz", frames)


def test_faults_are_found(start) -> None:
    source = Counted(start.frame)
    first = source.at(start.potential_A, "potential", 0)
    step = first.forces_eV_A * 0.002
    second = source.at(start.potential_A + step, "potential", 1)
    assert faults([first, second]) == []
    pushed = replace(second, forces_eV_A=second.forces_eV_A + np.array([0, 0, 1.1 * MEAN_FORCE_eV_A]))
    turned = replace(second, forces_eV_A=-second.forces_eV_A)
    clash = second.positions_A.copy()
    clash[0] = clash[1] + [0, 0, 0.5]
    for broken, words in (
        (pushed, "mean force"),
        (turned, "energy and forces disagree"),
        (replace(second, free_energy_eV=second.free_energy_eV + 0.1), "energy and forces disagree"),
        (replace(second, converged=False), "did not come to rest"),
        (replace(second, positions_A=clash, step=7), "apart"),
        (replace(second, forces_eV_A=second.forces_eV_A * np.nan), "not finite"),
        (replace(first, step=7), "the atoms are where they are"),
    ):
        assert [words in fault for fault in faults([first, broken])].count(True) == 1


def test_defects_that_judge_are_learnt_from_in_no_other_guise() -> None:
    from plan import DEFECTS, LARGE, PRISTINE

    names = [defect.name for defect in (*DEFECTS, *LARGE, *PRISTINE)]
    assert len(set(names)) == len(names) and len(names) >= 16
    assert set(names) >= SET_ASIDE and len(SET_ASIDE) >= 6
    single = {(d.host, d.parts[0][0]) for d in DEFECTS if len(d.parts) == 1 and d.name in SET_ASIDE}
    learnt = {(d.host, d.parts[0][0]) for d in (*DEFECTS, *LARGE) if len(d.parts) == 1 and d.name not in SET_ASIDE}
    assert not single & learnt
    # Of the four that potentials were first compared on, two judge.
    assert len(SET_ASIDE & {"MoS2-V_S", "MoS2-V_S2", "WSe2-V_Se", "WSe2-V_Se2"}) == 2


def test_every_defect_of_the_plan_can_be_built() -> None:
    from plan import DEFECTS, LARGE
    from starts import built

    formulas = {}
    for defect in (*DEFECTS, *LARGE):
        crystal = built(defect, host(defect.host), host(defect.host).a_exp_A, 14.0)
        formulas[defect.name] = crystal.atoms.composition.reduced_formula
        assert len(crystal.atoms) <= 50 and crystal.sites
    assert formulas["MoS2-V_S2"] == "Mo9S16" and formulas["WSe2-SVL-3"] == "W5Se9"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_stored_frames_are_sound(path) -> None:
    frames = read_frames(path)
    assert faults(frames) == []
    assert {frame.defect for frame in frames} == {path.stem}
    # How long the cycle goes on is no matter of the energy surface; all else is.
    assert len({replace(frame.settings, density=0.0) for frame in frames}) == 1
    words = path.read_text()
    assert f"part={frames[0].part}" in words and words.count("part=") == len(frames)
    for trajectory in {frame.trajectory for frame in frames}:
        steps = [frame.step for frame in frames if frame.trajectory == trajectory]
        assert steps == list(range(len(steps)))


def test_stored_relaxations_go_down() -> None:
    frames = parts(read_folder(HERE / "frames"))
    assert frames["train"]
    for path in FILES:
        energies = [f.free_energy_eV for f in read_frames(path) if f.trajectory == "potential"]
        assert len(energies) < 2 or energies[-1] < energies[0]


@pytest.mark.parametrize("path", [path for path in FILES if path.stem.split("-", 1)[1] in THREEFOLD])
def test_forces_have_the_symmetry_of_the_defect(path) -> None:
    """Turned by 120 degrees about a vacancy among ideal sites, forces are the forces of the atoms that they turn to."""
    ideal = [frame for frame in read_frames(path) if frame.trajectory == "ideal" and frame.step == 0]
    for frame in ideal:
        off = turned(frame, 120.0)
        assert off < 0.01, "the cycle ends before forces are exact, which shows as less than that"
        assert turned(frame, 60.0) > 0.1, "a half-turn more must not pass"


def turned(frame: Frame, angle_deg: float) -> float:
    """Largest difference of a force from that of the atom nearest to where its own atom turns to, eV/A."""
    c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1.0]])
    site = np.array(frame.vacant[0][1]) * [1, 1, 0]
    there = (frame.ideal_A - site) @ turn + site
    apart = there[:, None] - frame.ideal_A
    apart -= np.round(apart @ np.linalg.inv(frame.cell_A)) @ frame.cell_A
    nearest = np.linalg.norm(apart, axis=2).argmin(axis=1)
    return float(np.abs(frame.forces_eV_A @ turn - frame.forces_eV_A[nearest]).max())


def test_the_lattice_is_that_of_pbe() -> None:
    lattices = json.loads((HERE / "lattice.json").read_text())
    for name, a_A in PBE_A.items():
        # Two codes at two cutoffs: half a percent, of which a wrong functional (LDA) would be four times as far.
        assert lattices[name]["a_A"] == pytest.approx(a_A, rel=0.005)
        assert abs(lattices[name]["a_A"] / a_A - 1) < abs(0.98 - 1) / 2
    assert 2 * lattices["MoS2"]["half_A"] == pytest.approx(3.13, abs=0.02)
