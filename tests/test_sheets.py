"""Extended defects of graphene and boron nitride, from drawn images to names; bonds and rings on hand-made nets."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from chain import Chain, crystal, run, taken

from definet.structures import Cell, divacancy, pristine, stone_wales
from stemfit.candidates import propose
from stemfit.columns import Columns, Noise, Profile
from stemfit.defects import Defect, Evidence
from stemfit.defects.bonds import SECOND, bound, certainty, net, rings, saturated
from stemfit.defects.rings import around
from stemfit.defects.rings import sheet as flat
from stemfit.hosts import projected
from stemfit.imaging import USUAL_TAIL, Amplitude, Imaging
from stemfit.lattice import Lattice, SiteMap
from stemfit.pipeline import Settings, analyze
from stemfit.relax import relaxer
from stemfit.result import Findings
from stemfit.synthetic import as_micrograph

pytestmark = pytest.mark.usefixtures("drawings")


CORNERS = ((0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73))


def honeycomb(n: int = 4) -> np.ndarray:
    a, b = SECOND * np.array([[1.0, 0.0], [0.5, np.sqrt(0.75)]])
    cells = np.stack(np.meshgrid(np.arange(n), np.arange(n)), -1).reshape(-1, 2)
    return np.vstack([cells @ np.stack([a, b]), (cells + 1 / 3) @ np.stack([a, b])])


def sizes(xy: np.ndarray) -> list[int]:
    return sorted(len(ring) for ring in rings(net(xy, np.zeros(len(xy)))))


# -- bonds and rings -----------------------------------------------------------------------------------------------


def test_a_flake_of_hexagons() -> None:
    xy = honeycomb()
    assert sizes(xy) == [6] * 9
    assert sizes(xy * [1.12, 0.9]) == [6] * 9  # strained bonds are bonds
    assert sizes(xy * [-1.0, 1.0]) == [6] * 9  # and the sense of walking does not matter
    assert sizes(1.6 * xy) == []  # the broken twin: second neighbours are not bound


def test_rings_of_holes() -> None:
    xy = honeycomb(6)
    middle = int(np.argmin(np.hypot(*(xy - xy.mean(0)).T)))
    one = np.delete(xy, middle, 0)
    assert sizes(one)[-1] == 12 and sizes(one).count(6) == 25 - 3
    other = int(np.argsort(np.hypot(*(xy - xy[middle]).T))[1])
    assert sizes(np.delete(xy, [middle, other], 0))[-1] == 14


@pytest.mark.parametrize(
    ("label", "wrong"), [("SW", [5, 5, 7, 7]), ("V_2c", [5, 5, 8]), ("V_2", [14]), ("5-9", [5, 9]), ("V_A", [12])]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_rings_of_relaxed_flakes(label: str, wrong: list[int], seed: int) -> None:
    from sheets import at_rest

    xy = at_rest(label, seed)
    near = xy[np.hypot(*xy.T) < 6.0]  # as it is seen: no border, no edge
    assert [n for n in sizes(near @ np.array([[0.9, 0.2], [-0.25, 0.95]])) if n != 6] == wrong


def test_a_bond_is_as_sure_as_its_length() -> None:
    middle = 0.5 * (1 + SECOND)
    assert bound(np.array(middle), np.array(0.1)) == pytest.approx(0.5)
    assert bound(np.array(1.0), np.array(0.0)) > 0.999 > 0.001 > bound(np.array(SECOND), np.array(0.0))
    near, far = bound(np.array(1.25), np.array(0.0)), bound(np.array(1.25), np.array(0.3))
    assert 0.5 < far < near  # what is measured badly says little
    two = np.array([[0.0, 0.0], [1.3, 0.0]])
    assert certainty(net(two, np.zeros(2)), np.arange(2)) == pytest.approx(float(bound(np.array(1.3), np.array(0.0))))


def test_no_atom_has_more_than_three_bonds() -> None:
    """A pentagon that is measured badly: two of its corners seem bound across it."""
    xy = honeycomb(6)
    of = net(np.vstack([xy, xy.mean(0)]), np.zeros(len(xy) + 1))  # one too many, wherever it lies
    assert np.bincount(of.bonds.ravel()).max() > 3
    kept = saturated(of)
    assert np.bincount(kept.bonds.ravel()).max() == 3
    assert min(len(ring) for ring in rings(kept)) > 3
    whole = net(xy, np.zeros(len(xy)))
    assert len(saturated(whole).bonds) == len(whole.bonds)  # and nothing is taken from a crystal
    five = np.exp(2j * np.pi * np.arange(5) / 5) * 0.8
    bent = np.column_stack([five.real, five.imag]) * [1.0, 1.0]
    bent[1] = 0.75 * bent[1]
    assert sizes(bent) != [5]
    assert sorted(len(r) for r in rings(saturated(net(bent, np.zeros(5))))) == [5]


BOND_PX = 14.0


def seen(xy: np.ndarray, missing: np.ndarray, goes_round: bool) -> tuple[Defect, Evidence]:
    """Atoms (in bonds) as an image would show them, with one site of the lattice beside them found empty."""
    place = BOND_PX * xy * [1.0, -1.0] + 110.0
    a, b = BOND_PX * SECOND * np.array([[1.0, 0.0], [0.5, -np.sqrt(0.75)]])
    cells = np.stack(np.meshgrid(np.arange(-9, 10), np.arange(-9, 10)), -1).reshape(-1, 2)
    origin = np.array([110.0, 110.0])
    sites = origin + np.vstack([cells, cells + 1 / 3]) @ np.stack([a, b])
    inside = ((sites > 0) & (sites < 219)).all(1)
    column = np.argmin(np.hypot(*(sites[inside, None] - place[None]).T), axis=0)
    off = np.hypot(*(sites[inside] - place[column]).T)
    column = np.where((off < 0.25 * np.hypot(*a)) | goes_round, column, -1)
    flat, n = np.zeros((220, 220)), len(place)
    columns = Columns(
        place, np.ones(n), np.tile(0.01 * np.eye(3), (n, 1, 1)), Profile(9 * np.eye(2), 9.0, 0.0), flat, flat,
        Noise(1.0, 0.0, 0.0, 1.0),
    )
    lattice = Lattice(a, b, origin, 1, np.zeros((6, 6)), np.zeros((2, 2, 2)), (220, 220), 0.1)
    names = np.repeat(["A", "B"], len(cells))[inside]
    ij = np.tile(cells, (2, 1))[inside]
    every = SiteMap(ij, names, sites[inside], column, np.ones(len(ij), dtype=bool))
    tails = dict.fromkeys("AB", USUAL_TAIL)
    imaging = Imaging(
        columns.profile, columns.noise, flat, flat + 1, {"C": Amplitude(1.0, 0.0, "image")}, dict.fromkeys("AB", 0.02),
        tails,
    )
    nothing = np.zeros((220, 220), np.uint8)
    measured = Evidence(columns, every, (), lattice, projected("graphene"), nothing, imaging, flat)
    at = BOND_PX * missing * [1.0, -1.0] + 110.0
    return Defect(1, "SV", "V_C", 0.9, at, ((0, 0, "A"),), at[None], (("pristine", 0.1),), 9.0), measured


def test_a_dislocation_is_named_where_the_lattice_ends() -> None:
    from sheets import dislocated

    xy = dislocated()
    assert [n for n in sizes(xy[np.hypot(*xy.T) < 6.0]) if n != 6] == [5, 7]
    found, measured = seen(xy, np.array([0.6, 0.3]), goes_round=False)
    (named,), left = flat((found,), measured)
    assert (named.type, named.label, left) == ("BOND", "5-7", [])
    assert 0.5 < named.probability <= 0.9
    assert named.probability + sum(p for _, p in named.alternatives) == pytest.approx(1)
    # The twin: the same rings, in a lattice that holds a column on every site all round, are something else.
    assert flat((found,), seen(xy, np.array([0.6, 0.3]), goes_round=True)[1]) == ([], [found])


# -- sites and patches ---------------------------------------------------------------------------------------------


@cache
def graphene(polarity: int) -> Chain:
    sample = crystal(
        (160, 170), pixel_size_A=0.12, a_A=2.46, rotation_deg=11.0, polarity=polarity, brightness=(1.0, 0.7),
        species=("N", "B"), core_sigma_A=0.4, tail_fraction=0.0, seed=2,
    )
    image, truth = taken(sample)
    return run(truth, image, "hBN")


@pytest.mark.parametrize("polarity", [1, -1])
def test_neighbours_are_a_bond_away(polarity: int) -> None:
    chain = graphene(polarity)
    for site in ((0, 0, "A"), (1, -2, "B")):
        three = np.array([chain.evidence.xy_px(s) for s in around(site, chain.lattice.polarity)])
        away = np.hypot(*(three - chain.evidence.xy_px(site)).T)
        assert away == pytest.approx(chain.lattice.nearest_px, rel=0.02)
        wrong = np.array([chain.evidence.xy_px(s) for s in around(site, -chain.lattice.polarity)])
        assert np.hypot(*(wrong - chain.evidence.xy_px(site)).T).max() > 1.5 * chain.lattice.nearest_px


@pytest.mark.parametrize("polarity", [1, -1])
@pytest.mark.parametrize("bond", [0, 1, 2])
def test_patches_of_a_pair_meet_the_sites(polarity: int, bond: int) -> None:
    chain = graphene(polarity)
    first = next(
        (int(i), int(j), "A")
        for (i, j), s, xy in zip(chain.sites.ij, chain.sites.sublattice, chain.sites.xy_px, strict=True)
        if s == "A" and np.hypot(*(xy - [85, 80])) < chain.lattice.a_px_iso
    )
    second = around(first, chain.lattice.polarity)[bond]
    xy = np.array([chain.evidence.xy_px(s) for s in (first, second)])
    defect = Defect(1, "DV", "V_BN", 1.0, xy.mean(0), (first, second), xy, (("pristine", 0.0),), 9.0)
    made = propose(defect, projected("hBN"), chain.lattice, chain.sites, chain.rates)
    assert [c.label for c in made] == ["pristine", "SW", "SW", "5-8-5", "V_BN"]
    for candidate in made:
        nodes = candidate.structure.structure.cart_coords[:128, :2] @ candidate.matrix.T + candidate.offset_px
        emptied = np.array([np.hypot(*(nodes - p).T).min() for p in xy])
        assert emptied.max() < 0.05 * chain.lattice.a_px_iso
        if candidate.label != "pristine":
            gone = nodes[~candidate.structure.occupied[:128]]
            assert np.abs(np.sort(gone, 0) - np.sort(xy, 0)).max() < 0.05 * chain.lattice.a_px_iso


def test_one_turns_into_the_mirror_image_of_the_other() -> None:
    layer = pristine("hBN", 7)
    one, two = (stone_wales(layer, clockwise=way) for way in (False, True))
    new = [s.structure.cart_coords[list(s.sites[-2:]), :2] for s in (one, two)]
    assert np.allclose(new[0], new[1][::-1], atol=1e-6)  # the same places, with the elements exchanged
    assert [s.structure[k].specie.symbol for s in (one, two) for k in s.sites[-2:]] == ["B", "N", "B", "N"]


@pytest.mark.parametrize("at", [(0, 0), (3, 6), None])
def test_the_ends_of_a_closed_divacancy_are_bound(at: Cell | None) -> None:
    cut, closed = (divacancy(pristine("graphene", 7), at, 1, closed=shut) for shut in (False, True))
    bonds = [(s.atoms.distance_matrix < 1.8).sum(1) - 1 for s in (cut, closed)]
    assert (bonds[0].min(), bonds[1].min(), bonds[1].max()) == (2, 3, 3)


# -- drawn images --------------------------------------------------------------------------------------------------


@cache
def analysed(host: str) -> tuple[Findings, Any]:
    from sheets import sheet

    kinds = {"graphene": ("SW", "filled", "V_2", "V_2c"), "hBN": ("SW", "V_B", "V_2", "V_3")}[host]
    mirror = host == "hBN"
    drawn = sheet(
        host, tuple(zip(kinds, CORNERS, strict=True)), turn_deg=17.0 if mirror else 43.0, mirror=mirror, element=4.3,
        counts=20.0 if mirror else 100.0, seed=3,
    )
    return analyze(as_micrograph(drawn.image, None), Settings(host=host), relaxer("definet")), drawn


NAMES = {
    "graphene": {"SW": ("BOND", "SW"), "filled": ("SUB", "Si_C2"), "V_2": ("DV", "V_C2"), "V_2c": ("BOND", "5-8-5")},
    "hBN": {"SW": ("BOND", "SW"), "V_B": ("SV", "V_N"), "V_2": ("DV", "V_BN"), "V_3": ("DV", "V_B3N")},
}


@pytest.mark.parametrize("host", ["graphene", "hBN"])
def test_each_has_its_name_and_takes_all_that_was_found_there(host: str) -> None:
    analysis, drawn = analysed(host)
    assert len(analysis.defects) == 4
    for truth in drawn.truth:
        off = [float(np.hypot(*(d.center_px - truth.xy_px))) * drawn.pixel_A for d in analysis.defects]
        defect = analysis.defects[int(np.argmin(off))]
        assert min(off) < 0.5
        assert (defect.type, defect.label) == NAMES[host][truth.label]
        assert defect.probability > 0.9
        assert defect.probability + sum(p for _, p in defect.alternatives) == pytest.approx(1)
        assert defect.best_candidate is not None


def test_what_was_turned_is_drawn_where_it_went() -> None:
    analysis, drawn = analysed("graphene")
    turned = next(d for d in analysis.defects if d.label == "SW")
    middle = turned.center_px
    new = [xy for site, xy in zip(turned.sites, turned.extent_px, strict=True) if site[2] == "-"]
    assert len(new) == 2 and np.allclose(np.mean(new, axis=0), middle, atol=2.0)
    for x, y in np.rint(new).astype(int):
        said, seen = (image[y - 1 : y + 2, x - 1 : x + 2].mean() for image in (analysis.simulated, drawn.image))
        assert said == pytest.approx(seen, rel=0.15)  # without the two atoms it would be their neighbours' tails


@pytest.mark.parametrize("counts", [100.0, 20.0])
def test_the_dislocations_of_a_boundary_are_named_one_by_one(counts: float) -> None:
    """A row of them turns one side by the Burgers vector over their distance: 11 degrees."""
    from sheets import bicrystal

    drawn = bicrystal(9.0, counts=counts)
    cores = [truth.xy_px for truth in drawn.truth if 40 < truth.xy_px[1] < 360]
    analysis = analyze(as_micrograph(drawn.image, None), Settings(host="graphene"), relaxer("keep"))
    (grain,) = (region for region in analysis.regions if region.kind == "other-grain")
    turn = (grain.orientation_deg - analysis.lattice.rotation_deg + 30) % 60 - 30
    assert abs(turn) == pytest.approx(np.degrees(np.sqrt(3) / 9), abs=1.5)
    assert sorted(d.label for d in analysis.defects) == ["5-7"] * len(cores) == ["5-7"] * 3
    for core in cores:
        off = [float(np.hypot(*(d.center_px - core).T)) for d in analysis.defects]
        assert min(off) < 2 * 14.2
    assert all(len(d.sites) == 10 for d in analysis.defects)  # a pentagon and a heptagon share a bond
