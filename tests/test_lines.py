"""Rows of vacancies: whole, broken, doubtful, double, among other things, and made by chance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from handmade import HOST
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_sites import EMPTY, IMPOSSIBLE, RATES, VACANT, field, judged, seen

from stemfit.defects import Defect, Evidence, find_defects, hypotheses
from stemfit.defects.row_shapes import DIRECTIONS, Row, Shape, cell_of, row_of, shape_of

Cell = tuple[int, int]
Site = tuple[int, int, str]


def likelihoods(cells: Iterable[Cell], what: Mapping[str, float] = VACANT) -> dict[Site, Mapping[str, float]]:
    return {(i, j, "X"): what for i, j in cells}


def labels(evidence: Evidence) -> list[str]:
    return sorted(d.label for d in find_defects(evidence)[0])


def line_in(evidence: Evidence) -> Defect:
    (one,) = [d for d in find_defects(evidence)[0] if d.type == "LINE"]
    return one


def along(direction: int, length: int, start: Cell = (-3, 1)) -> list[Cell]:
    i, j = DIRECTIONS[direction]
    return [(start[0] + t * i, start[1] + t * j) for t in range(length)]


def everything(defect: Defect) -> float:
    return defect.probability + sum(p for _, p in defect.alternatives)


@settings(deadline=None)  # a busy machine is no failure
@given(
    direction=st.integers(0, 2), length=st.integers(3, 10), polarity=st.sampled_from([1, -1]),
    kind=st.sampled_from(["SVL", "CVL"]), start=st.tuples(st.integers(-4, 2), st.integers(-4, 2)),
)  # fmt: skip
def test_a_row_is_one_line(direction: int, length: int, polarity: int, kind: str, start: Cell) -> None:
    cells = along(direction, length, start)
    found, suspects = find_defects(seen(likelihoods(cells, VACANT if kind == "SVL" else EMPTY), polarity))
    (line,) = found
    assert suspects == ()
    assert (line.type, line.label) == ("LINE", f"{kind}-{length * (2 if kind == 'CVL' else 1)}")
    assert list(line.sites) == [(i, j, "X") for i, j in cells]
    assert line.probability > 0.99
    assert everything(line) == pytest.approx(1.0)
    assert line.log_bayes_factor == pytest.approx(25.0 * length)
    assert np.allclose(line.center_px, line.extent_px.mean(0))


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([(0, 0), (1, 0)], ["V_Se"] * 2),  # two vacancies are two vacancies
        ([(0, 0), (1, 0), (1, 1)], ["V_Se"] * 3),  # a bend
        ([(0, 0), (1, 0), (0, 1)], ["V_Se"] * 3),  # a triangle
        ([(0, 0), (1, 1), (2, 2)], ["V_Se"] * 3),  # armchair: no neighbours
        ([(0, 0), (1, 0), (3, 0)], ["V_Se"] * 3),  # a gap
        ([(2, 0), (1, 1), (0, 2)], ["SVL-3"]),
        ([*along(0, 4, (0, 0)), (1, 1)], ["SVL-4", "V_Se"]),  # one at its side
        ([*along(0, 4, (0, 0)), (4, 2)], ["SVL-4", "V_Se"]),
        ([*along(0, 5, (0, 0)), (4, 1), (4, 2), (4, 3)], ["SVL-3", "SVL-5"]),  # two lines that meet at 120 degrees
        ([*along(0, 5, (0, 0)), *along(1, 5, (0, 1))], ["SVL-4", "SVL-6"]),  # at 60 degrees
        ([*along(0, 7, (-3, 0)), *along(1, 3, (0, 1)), *along(1, 3, (0, -3))], ["SVL-3", "SVL-3", "SVL-7"]),  # a cross
        ([*along(0, 3, (0, 0)), *along(0, 3, (4, 0))], ["SVL-3", "SVL-3"]),  # broken by a full column
    ],
)  # fmt: skip
def test_what_is_one_line_and_what_is_not(cells: Sequence[Cell], expected: list[str]) -> None:
    assert labels(seen(likelihoods(cells))) == expected


@pytest.mark.parametrize("direction", [0, 1, 2])
@pytest.mark.parametrize(
    ("columns", "shift", "expected"),
    [
        ((4, 4), 0, ["DVL-8"]), ((4, 4), -1, ["DVL-8"]), ((3, 3), 1, ["DVL-6"]), ((4, 3), 0, ["DVL-7"]),
        ((3, 6), -2, ["DVL-9"]), ((2, 2), 0, ["DVL-4"]), ((4, 2), 1, ["DVL-6"]),
        ((7, 2), 3, ["SVL-7", "V_Se", "V_Se"]),  # a line with two vacancies at its side
        ((4, 4), 3, ["SVL-4", "SVL-4"]),  # two lines that hardly overlap
        ((3, 1), 1, ["SVL-3", "V_Se"]),
    ],
)  # fmt: skip
def test_two_rows_are_one_double_line(
    direction: int, columns: tuple[int, int], shift: int, expected: list[str]
) -> None:
    cells = [cell_of(direction, 2 + row, row * shift + t) for row in (0, 1) for t in range(columns[row])]
    found = find_defects(seen(likelihoods(cells)))[0]
    assert sorted(d.label for d in found) == expected
    assert {s[:2] for d in found for s in d.sites} == set(cells)
    assert shape_of(expected[0], (s[:2] for s in found[0].sites)) if len(found) == 1 else True


def test_lines_are_found_among_other_things() -> None:
    around = likelihoods(along(0, 5, (0, 0)))
    around |= {(5, 0, "X"): {"S_Se": 30.0}, (2, 0, "M"): {"W_Mo": 40.0}, (-1, 1, "X"): VACANT, (1, -1, "X"): EMPTY}
    assert labels(seen(around)) == ["SVL-5", "S_Se", "V_Se", "V_Se2", "W_Mo"]


def test_a_doubtful_site_within_a_row_joins_it() -> None:
    cells = along(1, 7)
    doubtful = likelihoods(cells) | likelihoods(cells[3:4], {"V_Se": -1.5})  # alone it is pristine: P = 0.002
    assert labels(seen(likelihoods(cells[3:4], {"V_Se": -1.5}))) == []
    found, _ = find_defects(seen(doubtful))
    assert [d.label for d in found] == ["SVL-7"]
    assert found[0].probability < 0.95  # and the doubt is said
    assert dict(found[0].alternatives)["UNKNOWN"] > 0.05
    broken = likelihoods(cells) | likelihoods(cells[3:4], {"V_Se": -9.0})
    assert labels(seen(broken)) == ["SVL-3", "SVL-3"]
    short = likelihoods(cells[:5]) | likelihoods(cells[2:3], {"V_Se": -9.0})
    assert labels(seen(short)) == ["V_Se"] * 4


def test_a_doubtful_end_is_an_alternative() -> None:
    cells = along(2, 5)
    for strength, label in ((3.0, "SVL-5"), (-3.0, "SVL-4")):
        own = likelihoods(cells) | likelihoods(cells[4:], {"V_Se": strength})
        found, suspects = find_defects(seen(own))
        assert [d.label for d in found] == [label]
        other = {"SVL-5": "SVL-4", "SVL-4": "SVL-5"}[label]
        # The line grows by one with 0.8 x 0.95, whatever the density of vacancies elsewhere.
        odds = 0.76 * np.exp(strength) / 0.99 + 0.01 * np.exp(strength)
        share = odds / (1 + odds)
        assert found[0].probability == pytest.approx(share if strength > 0 else 1 - share, abs=0.02)
        assert dict(found[0].alternatives)[other] == pytest.approx(1 - found[0].probability, abs=0.02)
        assert everything(found[0]) == pytest.approx(1.0)
        # A site that has become a member is not a suspect besides.
        assert not {s for d in suspects for s in d.sites} & set(found[0].sites)


def test_the_row_decides_near_ties_of_its_members() -> None:
    cells = along(0, 6)
    tie = {"V_Se": 24.0, "S_Se": 28.0}  # S_Se alone: 5e-4 e^28 against 0.01 e^24
    assert labels(seen(likelihoods(cells[2:3], tie))) == ["S_Se"]
    assert labels(seen(likelihoods(cells) | likelihoods(cells[2:3], tie))) == ["SVL-6"]
    sure = {"V_Se": 10.0, "S_Se": 28.0}
    assert "S_Se" in labels(seen(likelihoods(cells) | likelihoods(cells[2:3], sure)))


def test_single_against_double_columns_stays_open_where_brightness_does_not_say() -> None:
    line = line_in(seen(likelihoods(along(0, 4), {"V_Se": 25.0, "V_Se2": 25.3})))
    both = {line.label: line.probability} | dict(line.alternatives)
    assert both["SVL-4"] > 0.05 and both["CVL-8"] > 0.05
    assert both["SVL-4"] + both["CVL-8"] > 0.97
    mixed = likelihoods(along(0, 3, (0, 0))) | likelihoods([(1, 0)], EMPTY)
    assert labels(seen(mixed)) == ["V_Se", "V_Se", "V_Se2"]


def test_weak_sites_make_a_line_together_but_not_out_of_nothing() -> None:
    weak = {"V_Se": 5.0}  # alone P = 0.6
    line = line_in(seen(likelihoods(along(0, 8), weak)))
    assert line.label == "SVL-8"
    none = seen(likelihoods(along(0, 8), {"V_Se": 1.0}))
    assert labels(none) == []


def test_rows_of_anything_else_are_no_lines() -> None:
    metals = {(i, 0, "M"): {"V_Mo": 30.0} for i in range(4)}
    assert labels(seen(metals)) == ["V_Mo"] * 4
    assert labels(seen(likelihoods(along(0, 4), {"S_Se": 30.0}))) == ["S_Se"] * 4


def scattered(density: float, apart: float, seed: int, lines: int = 0) -> tuple[Evidence, set[Cell], list[set[Cell]]]:
    """Vacancies at random, and lines of seven columns on average, here and there lacking one; what was planted.

    The brightness of every site is measured with a full-half distance of `apart` sigmas.
    """
    rng = np.random.default_rng(seed)
    lattice, sites = field(1, 40)
    rows = np.flatnonzero(sites.sublattice == "X")
    options = hypotheses(HOST, "X")
    place = {(int(i), int(j)): k for k, (i, j) in enumerate(sites.ij[rows])}
    vacant = rng.random(len(rows)) < density
    planted = []
    for start in rng.integers(len(rows), size=lines):
        i, j = sites.ij[rows[start]]
        line = along(int(rng.integers(3)), 2 + int(rng.geometric(0.2)), (int(i), int(j)))
        planted.append({cell for cell in line if cell in place and rng.random() < 0.95})
        vacant[[place[cell] for cell in planted[-1]]] = True
    value = np.where(vacant, 0.0, apart) + rng.normal(0, 1, len(rows))
    log_likelihood = np.full((len(rows), len(options)), IMPOSSIBLE)
    log_likelihood[:, 0], log_likelihood[:, 1] = -0.5 * (value - apart) ** 2, -0.5 * value**2
    log_likelihood[:, 2] = -0.5 * (value + apart) ** 2
    rates = RATES | {"V_Se": density, "V_Se2": 1e-5} | {h.label: 1e-6 for h in options[3:]}
    posterior = judged(rows, options, log_likelihood, rates)
    plain = seen({}, where=(lattice, sites))
    evidence = replace(plain, posteriors=(plain.posteriors[0], posterior))
    return evidence, {(int(i), int(j)) for i, j in sites.ij[rows[vacant]]}, planted


def real_rows(vacant: set[Cell]) -> list[set[Cell]]:
    """All straight runs of three and more."""
    runs = []
    for d in range(3):
        places = {row_of(d, cell) for cell in vacant}
        for across, t in places:
            if (across, t - 1) not in places:
                end = t
                while (across, end + 1) in places:
                    end += 1
                if end - t >= 2:
                    runs.append({cell_of(d, across, n) for n in range(t, end + 1)})
    return runs


def anything(defect: Defect, kinds: tuple[str, ...] = ("SVL", "DVL", "CVL")) -> float:
    """Probability of a line of any length."""
    said = {defect.label: defect.probability} | dict(defect.alternatives)
    return sum(p for label, p in said.items() if label.startswith(kinds))


@pytest.mark.parametrize("density", [0.01, 0.03, 0.06, 0.1])
def test_rows_that_chance_makes_are_single_vacancies(density: float) -> None:
    """6561 sites in three directions: at ten per cent some twenty rows an image; nothing but chance made them."""
    rows, claimed, certain = 0, 0, 0
    for seed in range(3):
        evidence, vacant, _ = scattered(density, 6.0, seed)
        rows += len(real_rows(vacant))
        lines = [d for d in find_defects(evidence)[0] if d.type == "LINE"]
        claimed, certain = claimed + len(lines), certain + sum(anything(d) > 0.95 for d in lines)
    assert rows >= (0, 1, 6, 40)[[0.01, 0.03, 0.06, 0.1].index(density)]
    assert claimed <= 1 and certain == 0


@pytest.mark.parametrize("density", [0.01, 0.03, 0.06, 0.1])
def test_lines_among_random_vacancies_are_as_frequent_as_stated(density: float) -> None:
    claimed, right, stated, drawn = 0, 0, 0.0, 0
    for seed in range(4):
        evidence, _, planted = scattered(density, 6.0, 50 + seed, lines=7)
        lines = [d for d in find_defects(evidence)[0] if d.type == "LINE"]
        own = [{s[:2] for s in d.sites} for d in lines]
        claimed, drawn = claimed + len(lines), drawn + len(planted)
        right += sum(any(len(cells & line) >= max(3, len(cells) / 2) for line in planted) for cells in own)
        stated += sum(anything(d) for d in lines)
    assert abs(right - stated) < 3 * np.sqrt(max(claimed - stated, 1.0))
    assert right > 0.3 * drawn  # at ten per cent short ones drown


def test_what_may_be_chance_says_so() -> None:
    """Three in a row where every sixteenth site is vacant are three vacancies, which may be a line."""
    cells, rng = along(1, 3), np.random.default_rng(3)
    apart = {(i, j) for i, j in product(range(-14, 15), repeat=2) if min(abs(i + 3), abs(j - 2)) > 2}
    others = {cell for cell in sorted(apart) if rng.random() < 0.06}
    found, _ = find_defects(seen(likelihoods([*others, *cells]), rates=RATES | {"V_Se": 0.06}))
    own = [d for d in found if d.sites[0][:2] in cells]
    assert [d.label for d in own] == ["V_Se"] * 3
    for d in own:
        assert 0.02 < dict(d.alternatives)["SVL-3"] < 0.5
        assert everything(d) == pytest.approx(1.0)
    # As many that avoid each other are no chance, nor is a row with nothing else in the image.
    rather = {(i, j) for i, j in apart if i % 4 == 0 and j % 4 == 0}
    for some in (rather, set[Cell]()):
        found, _ = find_defects(seen(likelihoods([*some, *cells]), rates=RATES | {"V_Se": 0.06}))
        (line,) = [d for d in found if d.type == "LINE"]
        assert line.label == "SVL-3"
        assert 0.0 < dict(line.alternatives)["V_Se"] < 0.4


def test_pairs_of_vacancies_do_not_grow_into_lines_where_the_third_is_doubtful() -> None:
    extra = 0
    for seed in range(6):
        evidence, vacant, _ = scattered(0.01, 3.0, 100 + seed)
        extra += sum(d.type == "LINE" for d in find_defects(evidence)[0]) - len(real_rows(vacant))
    assert extra <= 1


def test_names_of_lines_and_their_sites_agree() -> None:
    for d in range(3):
        for cell in ((2, -5), (0, 0), (-3, 4)):
            assert cell_of(d, *row_of(d, cell)) == cell
    double = Shape("DVL", (Row(1, 0, 0, 3), Row(1, 1, 0, 3)))
    assert set(shape_of("DVL-8", double.cells()).cells()) == set(double.cells())
    with pytest.raises(ValueError, match="SVL-4 has no sites"):
        shape_of("SVL-4", [(0, 0), (1, 0), (2, 0)])
