"""Relaxations in which the host gave way or chance chose the minimum, when made and in sets that exist."""

import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner
from wells import WELL_A, Wells

import cli
import definet.chance as chance
import definet.checking as checking
import definet.making as making
from definet.chance import Judgement, judge
from definet.checking import check
from definet.dataset import drawn_in, judged, load, read_shard, write_shard
from definet.exceptions import InputFileError, OptionError, TeacherError
from definet.making import make
from definet.outliers import (
    ELSEWHERE_A,
    RULES,
    SHAKE_A,
    changed_bonds,
    farthest_apart_A,
    outlier,
    shaken,
    suspicious,
    transformed,
)
from definet.samples import sample
from definet.scenes import Scene, configuration
from definet.structures import build, line, pristine
from definet.teacher import Minimum, named, relax

POTENTIAL = "springs:Springs"


def unmoved(crystal):
    minimum = Minimum(crystal.structure.cart_coords, 0.0, 0, True, 0.0, 0.0, 0.0)
    return sample(Scene(0, crystal, configuration(crystal)), minimum, POTENTIAL)


def with_move(found, nodes, by):
    relaxed = found.relaxed.copy()
    relaxed[nodes] += by
    return replace(found, relaxed=relaxed)


def far_A(found):
    """(N,) in-plane distance to the nearest changed or empty node, by periodic images laid out one by one."""
    images = [i * found.cell[0] + j * found.cell[1] for i in (-1, 0, 1) for j in (-1, 0, 1)]
    nodes = np.concatenate([found.positions[found.marker != 0] + image for image in images])
    return np.linalg.norm(found.positions[:, None, :2] - nodes[None, :, :2], axis=2).min(axis=1)


@pytest.fixture(scope="module")
def broken_line():
    return unmoved(line(pristine("MoS2", 10), "SVL-2"))


def column(found, nearest_to_A):
    """Both chalcogens of the column about so far from the defect."""
    metal = found.numbers == 42
    first = int(np.argmin(np.where(metal | (found.marker != 0), np.inf, np.abs(far_A(found) - nearest_to_A))))
    across = np.linalg.norm(found.positions[:, :2] - found.positions[first, :2], axis=1)
    return np.flatnonzero((across < 0.1) & (found.marker == 0))


def test_a_host_that_changes_phase_is_no_relaxation_of_the_defect(broken_line):
    """A column of chalcogens slides over to the empty hollow beside it: H becomes T there, one bond in three parts."""
    slide = [0.0, -2 * 3.160 / np.sqrt(3) * 0.5, 0.0]
    assert outlier(broken_line) is None and len(changed_bonds(broken_line)) == 0
    there = column(broken_line, 10.0)
    far = with_move(broken_line, there, slide)
    assert len(there) == 2 and len(changed_bonds(far)) >= 2
    assert transformed(far) and outlier(far) == "transformed"
    near = with_move(broken_line, column(broken_line, 2.0), slide)
    assert len(changed_bonds(near)) >= 1 and not transformed(near) and outlier(near) != "transformed"


def test_bonds_near_a_threshold_do_not_flip(broken_line):
    """Lengths of one bond, in units of the host's: what lies between made and broken is neither."""
    numbers, positions = broken_line.numbers, broken_line.positions
    metal = int(np.flatnonzero(numbers == 42)[0])
    distance = np.linalg.norm(positions - positions[metal], axis=1)
    partner = int(np.argmin(np.where(numbers == 42, np.inf, distance)))
    bond = positions[partner] - positions[metal]

    def changed(to):
        moved = with_move(broken_line, [partner], (to - 1) * bond)
        return [partner, metal] in changed_bonds(moved).tolist() or [metal, partner] in changed_bonds(moved).tolist()

    assert [changed(to) for to in (0.8, 1.15, 1.3, 1.35, 1.45, 1.6)] == [False] * 4 + [True] * 2


def test_new_bonds_without_long_moves_are_suspicious():
    """The four carbons at a divacancy bind in pairs: a pentagon on either side, 0.41 A each."""
    found = unmoved(build(pristine("graphene", 6), "V_C2"))
    gone = np.flatnonzero(found.marker == 2)
    offset = found.positions[:, None] - found.positions[gone][None]
    beside = np.flatnonzero((np.linalg.norm(offset, axis=2).min(axis=1) < 1.5) & (found.marker != 2))
    first = beside[0]
    second = min(beside[1:], key=lambda k: np.linalg.norm(found.positions[k] - found.positions[first]))
    along = found.positions[second] - found.positions[first]
    assert not suspicious(found)
    pair = with_move(with_move(found, [first], along / 6), [second], -along / 6)
    assert np.linalg.norm(pair.displacement, axis=1).max() < 0.5
    assert changed_bonds(pair).tolist() == [sorted([first, second])] and suspicious(pair)


def test_long_moves_are_suspicious(broken_line):
    assert not suspicious(with_move(broken_line, [5], [0, 0, 0.4]))
    assert suspicious(with_move(broken_line, [5], [0, 0, 0.6]))


def test_the_shake_follows_from_the_draw(broken_line):
    assert shaken(broken_line) == pytest.approx(shaken(with_move(broken_line, [5], 0.3)), abs=0)
    assert not np.allclose(shaken(broken_line), shaken(replace(broken_line, group="other")))
    shift = shaken(broken_line) - broken_line.positions
    assert np.all(shift[broken_line.marker == 2] == 0)
    assert shift[broken_line.marker != 2].std() == pytest.approx(SHAKE_A, rel=0.1)


def test_a_rigid_shift_is_no_other_place(broken_line):
    assert farthest_apart_A(broken_line, broken_line.relaxed + np.array([1.0, 2.0, 3.0])) < 1e-9
    assert farthest_apart_A(broken_line, with_move(broken_line, [5], [0, 0, 0.5]).relaxed) > 0.9 * 0.5


def in_a_well(offset_A, group):
    """A selenium that starts so far above the edge between its wells: what it does, what relaxed it, the edge."""
    crystal = build(pristine("MoS2", 4), "Se_S", (2, 2))
    rest = crystal.structure.cart_coords.copy()
    node = crystal.sites[0]
    rest[node, 2] -= offset_A
    wells = Wells(rest, node)
    found = sample(Scene(0, crystal, group), relax(crystal, wells), "wells")
    assert found.displacement[node, 2] == pytest.approx(WELL_A - offset_A, abs=0.05)
    return found, wells, rest[node, 2]


@pytest.mark.parametrize("offset_A", [0.01, 0.15])
def test_a_minimum_chosen_by_chance_is_told_from_one_that_is_not(offset_A):
    """Beside the edge the shake decides, and where it leads over to the other well is known; at 0.15 A it cannot."""
    reasons = Counter()
    for name in "abcdefgh":
        found, wells, edge_A = in_a_well(offset_A, f"MoS2/Se_S/{name}")
        judgement = judge(found, wells)
        over = shaken(found)[found.marker == 1, 2] < edge_A
        assert judgement.reason == ("chance" if over else None)
        assert judgement.apart_A == pytest.approx(2 * WELL_A if over else 0.0, abs=0.1)
        reasons[judgement.reason] += 1
    assert len(reasons) == (2 if offset_A < 0.1 else 1)


def test_only_suspicious_relaxations_are_done_again(broken_line, monkeypatch):
    found, wells, _ = in_a_well(0.15, "MoS2/Se_S/a")
    monkeypatch.setattr(chance, "relax", None)
    assert judge(broken_line, wells) == Judgement(None)
    assert judge(with_move(broken_line, [5], [0, 0, 9.0]), wells).reason == "moved"
    with pytest.raises(TypeError):
        judge(found, wells)


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """Two shards of two and one of one, as releases wrote them that did not say how they judged."""
    folder = tmp_path_factory.mktemp("sets") / "old"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "SHARD", 2)
        make(folder, {"MoS2": 1.0}, 5, 7, POTENTIAL)
    for path in folder.glob("shard-*"):
        assert judged(path) == (RULES, [])
        write_shard(path, read_shard(path), drawn_in(path))
        assert judged(path) == (0, [])
    return folder


def test_what_is_made_is_judged_and_counted(tmp_path, monkeypatch):
    """Every relaxation done twice: two vacancies end where they did; with no distance allowed nothing does."""
    monkeypatch.setattr(chance, "suspicious", lambda found: True)
    lines = []
    stored = make(tmp_path / "kept", {"MoS2": 1.0}, 3, 7, POTENTIAL, lines.append)
    apart = [float(line.partition("again=")[2].split()[0]) for line in lines]
    assert len(apart) == 3 and stored == sum(a <= ELSEWHERE_A for a in apart) >= 1
    monkeypatch.setattr(chance, "ELSEWHERE_A", -1.0)
    assert make(tmp_path / "none", {"MoS2": 1.0}, 3, 7, POTENTIAL, lines.append) == 0
    shard = tmp_path / "none" / "shard-00000.npz"
    groups = [line.split()[1] for line in lines[:3]]
    assert drawn_in(shard) == 3 and judged(shard) == (RULES, [f"{group} chance" for group in groups])
    assert make(tmp_path / "none", {"MoS2": 1.0}, 3, 7, POTENTIAL, lines.append) == 0 and len(lines) == 6


def test_making_says_what_was_left_out_and_why(tmp_path, monkeypatch):
    """Each reason with its count: also those of shards that were there already, which a second run reads."""
    reasons = iter(["transformed", None, "broken", "broken"])
    monkeypatch.setattr(making, "judge", lambda found, *rest: Judgement(next(reasons)))
    words = ["dataset", "make", "--out", str(tmp_path / "set"), "--host", "MoS2", "--potential", POTENTIAL]
    for _ in range(2):
        run = CliRunner().invoke(cli.app, [*words, "--jobs", "1", "--count", "4"])
        assert run.exit_code == 0, run.output
        first, *lines = run.stdout.splitlines()
        assert first.startswith("1 samples in ") and first.endswith(", 3 left out")
        assert [line.split() for line in lines] == [["2", "broken", "MoS2"], ["1", "transformed", "MoS2"]]


def test_a_set_that_exists_is_judged_once(old, tmp_path, monkeypatch):
    folder = shutil.copytree(old, tmp_path / "set")
    first = folder / "shard-00000.npz"
    before = load(folder)
    moved = with_move(before[0], np.flatnonzero(before[0].marker == 0)[:1], [0, 0, 9.0])
    write_shard(first, [moved, before[1]], 3)
    lines = []
    kept, left_out = check(folder, lines.append)
    assert kept == 4 and left_out == {("MoS2", "moved"): 1, ("", "earlier"): 1} and len(lines) == 1
    assert drawn_in(first) == 3 and judged(first) == (RULES, [f"{moved.group} moved"])
    for here, there in zip(load(folder), before[1:], strict=True):
        assert here.group == there.group and np.array_equal(here.relaxed, there.relaxed)
    monkeypatch.setattr(checking, "judge", None)
    assert check(folder, lines.append) == (kept, left_out) and len(lines) == 1
    assert not list(folder.glob(".tmp*"))


def test_a_check_that_was_stopped_goes_on(old, tmp_path, monkeypatch):
    folder = shutil.copytree(old, tmp_path / "set")
    asked = []

    def judging(found, *rest):
        asked.append(found.group)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return judge(found, *rest)

    monkeypatch.setattr(checking, "judge", judging)
    with pytest.raises(KeyboardInterrupt):
        check(folder)
    assert [judged(path)[0] for path in sorted(folder.glob("shard-*"))] == [RULES, 0, 0]
    assert check(folder).kept == 5 and len(asked) == 4 + 3 and asked[4] == asked[2]


def test_rules_that_change_judge_again_and_keep_the_counts(old, tmp_path, monkeypatch):
    folder = shutil.copytree(old, tmp_path / "set")
    monkeypatch.setattr(checking, "judge", lambda found, *rest: Judgement("torn" if "V_" in found.group else None))
    kept, torn = check(folder)
    assert 0 < kept < 5
    monkeypatch.setattr(checking, "RULES", RULES + 1)
    monkeypatch.setattr(checking, "judge", lambda found, *rest: Judgement("chance", 1.0))
    assert check(folder) == (0, torn + Counter({("MoS2", "chance"): kept}))


def test_the_command_says_what_was_left_out(old, tmp_path):
    folder = shutil.copytree(old, tmp_path / "set")
    run = CliRunner().invoke(cli.app, ["dataset", "check", str(folder), "--jobs", "1"])
    assert run.exit_code == 0 and "5 samples" in run.output and "0 left out" in run.output
    run = CliRunner().invoke(cli.app, ["dataset", "check", str(tmp_path / "nothing")])
    assert run.exit_code == 3
    with pytest.raises(InputFileError):
        check(tmp_path)
    with pytest.raises(OptionError):
        check(folder, jobs=0)


def test_only_the_potential_that_relaxed_a_set_judges_it(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.4.2")
    assert named("chgnet-0.4.2") == "chgnet" and named("sevennet-0-0.4.2") == "sevennet-0"
    assert named(POTENTIAL) == POTENTIAL
    with pytest.raises(TeacherError, match=r"chgnet-0\.3\.8 relaxed"):
        named("chgnet-0.3.8")
