"""Candidates against an independent list: what pymatgen-analysis-defects makes of crystals that ASE builds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
from ase import Atoms
from ase.build import graphene, mx2
from pymatgen.analysis.defects.core import Defect as PeerDefect
from pymatgen.analysis.defects.generators import (
    AntiSiteGenerator,
    SubstitutionGenerator,
    VacancyGenerator,
    VoronoiInterstitialGenerator,
)
from pymatgen.core import Structure
from pymatgen.io.ase import AseAtomsAdaptor

from stemfit.candidates import Candidate, propose
from stemfit.defects import Defect, hypotheses
from stemfit.hosts import HONEYCOMB, ProjectedHost, projected
from stemfit.imaging import CHALCOGENS, METALS
from stemfit.lattice import Lattice, SiteMap

# spglib says so of its own error handling, which pymatgen calls.
pytestmark = pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")

HOSTS = ("MoS2", "WSe2", "hBN", "graphene")
REACH_A = 6.0
SHEET = ("B", "C", "N", "Si")


class Change(NamedTuple):
    """What a structure changes and what surrounds it, whatever the choice of axes, mirror and layer.

    `around`: element, distance from the axis through the changed site, and height above the middle plane counted
    towards the changed site's side, of every atom nearby but the changed one.
    """

    elements: tuple[tuple[str, int], ...]
    around: tuple[tuple[str, float, float], ...]


def bulk(host: ProjectedHost) -> Structure:
    """The same crystal by ASE, whose cell is another one (120 degrees, other origin)."""
    a_A, basis = host.structure.a_exp_A, host.structure.basis
    if host.sublattices == ("A", "B"):
        atoms = graphene("BN" if host.name == "hBN" else "C2", a=a_A, vacuum=10.0)
    else:
        atoms = mx2(host.name, a=a_A, thickness=2 * max(atom.z_A for atom in basis), vacuum=10.0)
    atoms.pbc = True
    assert isinstance(atoms, Atoms)
    return AseAtomsAdaptor.get_structure(atoms)


def peers(host: ProjectedHost) -> list[PeerDefect]:
    """All vacancies, antisites and exchanges with the elements that are considered."""
    crystal = bulk(host)
    own = sorted(crystal.symbol_set)
    foreign = {e: [f for f in _considered(host, e) if f not in own] for e in own}
    made = list(VacancyGenerator().generate(crystal))
    made += SubstitutionGenerator().generate(crystal, {e: f for e, f in foreign.items() if f})
    return made + (list(AntiSiteGenerator().generate(crystal)) if len(own) > 1 else [])


def _considered(host: ProjectedHost, element: str) -> tuple[str, ...]:
    if host.sublattices == ("A", "B"):
        return SHEET
    return METALS if element in METALS else CHALCOGENS


def of_peer(defect: PeerDefect) -> Change:
    cells = np.diag([8, 8, 1])
    whole, site, *_ = defect.get_supercell_structure(sc_mat=cells, return_site=True)
    return _change(whole, defect.structure.copy() * (8, 8, 1), np.asarray(site.coords))


def of_candidate(candidate: Candidate, crystal: Candidate) -> Change:
    nodes = list(candidate.structure.sites)
    height = candidate.structure.structure.cart_coords[nodes, 2].mean()
    place = np.append(candidate.center_A, height)
    return _change(candidate.structure.atoms, crystal.structure.atoms, place)


def _change(structure: Structure, crystal: Structure, place: np.ndarray) -> Change:
    before, after = (Counter(site.specie.symbol for site in s) for s in (crystal, structure))
    change = tuple(sorted((e, after[e] - before[e]) for e in before | after if after[e] != before[e]))
    middle = float(np.mean(crystal.cart_coords[:, 2]))
    # The changed atom itself may sit at another height in its site: an antisite does, by our structures.
    side = float(np.sign(round(place[2] - middle, 3)))
    near = structure.get_sites_in_sphere(place, REACH_A + 3.0)
    around = []
    for site in near:
        away, height = float(np.hypot(*(site.coords[:2] - place[:2]))), float(site.coords[2] - middle)
        if away < REACH_A and not (away < 0.1 and height * side >= 0 and abs(height - place[2] + middle) < 1.0):
            around.append((site.specie.symbol, away, height * side if side else abs(height)))
    # Heights of the table end in half a hundredth of an Angstrom: no rounding tie may decide.
    return Change(change, tuple(sorted((e, round(r + 1e-4, 2), round(z + 1e-4, 2)) for e, r, z in around)))


def proposed(host: ProjectedHost, most: int = 24) -> Iterator[tuple[Candidate, Candidate]]:
    """All structures of every hypothesis on one site of each sublattice, each with the perfect crystal."""
    a_px = 25.0
    a, b = np.array([a_px, 0.0]), a_px * np.array([0.5, -np.sqrt(0.75)])
    straight = np.eye(6) * 1e-4, np.zeros((2, 2, 2)), (250, 260), 0.3, HONEYCOMB
    lattice = Lattice(a, b, np.array([90.0, 160.0]), 1, *straight)
    for k, name in enumerate(host.sublattices):
        ij = np.array([[i, j] for i in range(5) for j in range(5)])
        xy = lattice.positions(ij + lattice.basis[k])
        there = np.arange(len(ij))
        sites = SiteMap(ij, np.full(len(ij), name), xy, there, np.ones(len(ij), dtype=bool))
        first, *_ = [h for h in hypotheses(host, name) if h.type]
        labels = [h.label for h in hypotheses(host, name)]
        others = tuple((label, 0.01) for label in labels if label not in (first.label, "ADATOM"))
        asked = Defect(1, first.type, first.label, 0.5, xy[12], ((2, 2, name),), xy[[12]], others, 9.0)
        made = propose(asked, host, lattice, sites, {label: 1e-3 for label in labels}, most)
        assert made[0].label == "pristine" and len(made) <= most
        yield from ((made[0], candidate) for candidate in made[1:])


@pytest.mark.parametrize("name", HOSTS)
def test_the_other_list_and_ours_change_single_atoms_alike(name: str) -> None:
    """Same exchange, same site, and as many of a kind as there are layers or sublattices that differ."""
    host = projected(name)
    theirs = Counter({of_peer(d): len(d.equivalent_sites) for d in peers(host)})
    ours = Counter(of_candidate(candidate, crystal) for crystal, candidate in proposed(host))
    assert len(theirs) == {"MoS2": 12, "WSe2": 12, "hBN": 8, "graphene": 4}[name]
    assert Counter({change: n for change, n in ours.items() if _one_atom(change)}) == theirs


def _one_atom(change: Change) -> bool:
    """One is missing, or one stands for another."""
    return sorted(n for _, n in change.elements) in ([-1], [-1, 1])


@pytest.mark.parametrize("name", HOSTS)
def test_what_ours_adds_is_made_of_the_same_sites(name: str) -> None:
    """Both atoms of a column gone or exchanged, and one for two: what a generator of single defects cannot list."""
    made = proposed(projected(name))
    added = {candidate.label for crystal, candidate in made if not _one_atom(of_candidate(candidate, crystal))}
    pairs = {
        "MoS2": {"V_S2", "O2_S2", "Se2_S2", "Te2_S2", "Mo_S2", "S2_Mo"},
        "WSe2": {"V_Se2", "O2_Se2", "S2_Se2", "Te2_Se2", "W_Se2", "Se2_W"},
    }
    assert added == pairs.get(name, set())


@pytest.mark.parametrize("name", HOSTS)
def test_an_added_atom_may_stand_wherever_the_other_list_puts_one(name: str) -> None:
    """Interstitials of a layer, from above, lie on a column, where more light is a hypothesis, or between columns."""
    host, crystal = projected(name), bulk(projected(name))
    columns = {tuple(np.round(site.frac_coords[:2], 3) % 1.0) for site in crystal}
    middle = float(np.mean(crystal.cart_coords[:, 2]))
    above = []
    for defect in VoronoiInterstitialGenerator().generate(crystal, [crystal[0].specie.symbol]):
        away = [abs(float(c.coords[2]) - middle) for c in (defect.site, *crystal)]
        if away[0] < max(away[1:]) + 3.0:  # farther ones are in the vacuum, not on the layer
            above.append(tuple(np.round(defect.site.frac_coords[:2], 3) % 1.0))
    on_column = [xy for xy in above if xy in columns]
    assert (name in ("MoS2", "WSe2")) == bool(on_column)
    assert all("ADATOM" in {h.label for h in hypotheses(host, s)} for s in host.sublattices)


def test_structures_left_out_are_counted() -> None:
    every = {c.label: c.possible for _, c in proposed(projected("MoS2"))}
    few = list(proposed(projected("MoS2"), most=5))
    assert max(every.values()) == 16 < 24
    assert {c.possible for _, c in few} == set(every.values())
    assert len(few) == 2 * 4
