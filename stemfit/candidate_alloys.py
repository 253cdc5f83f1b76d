"""The structures that could explain a defect of an alloy: those of its majority host, with the atoms seen in the image.

A patch is relaxed as the majority host, which the network knows, and holds the elements that the image shows: the
displacements of a vacancy are carried over, those between unlike neighbours, which every column of an alloy has, are
part of the scatter of its columns. Heights are those of the majority host.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stemfit.candidates import Candidate, propose
from stemfit.defects import Defect, Site, SitePosterior, what_remains
from stemfit.hosts import ProjectedHost, column_type
from stemfit.lattice import Lattice, Populations, SiteMap
from stemfit.optics.scattering import column_elements

if TYPE_CHECKING:
    from definet.structures import DefectStructure

FloatArray = NDArray[np.float64]

ON_SITE = 0.3
"""A node this close to a site, in lattice constants, is that site's: half a bond of the honeycomb."""

USUAL = 24
"""Structures of the majority host that are dressed at least: the cut is by what they are in the alloy."""

SELDOM = 1e-3
"""Share of a mixture's columns below which a type is not worth a structure."""


class Mixture(NamedTuple):
    """One mixed sublattice as the image has it.

    Attributes
    ----------
    known : Populations
    posterior : SitePosterior
    seen : dict of int to str
        Most probable full column type of every judged site, by row of the site map.
    """

    known: Populations
    posterior: SitePosterior
    seen: Mapping[int, str]


class _Option(NamedTuple):
    """What may stand on a site: atoms that are there, those that are gone, and its share of what its label says."""

    there: tuple[str, ...]
    gone: tuple[str, ...]
    share: float


def mixtures_of(
    posteriors: Sequence[SitePosterior], host: ProjectedHost, known: Mapping[str, Populations]
) -> dict[str, Mixture]:
    """Mixed sublattices by name; `posteriors` are one for each sublattice of the host."""
    found = {}
    for sublattice, one in zip(host.sublattices, posteriors, strict=True):
        if sublattice in known and one.p_species is not None:
            full = len(known[sublattice].columns)
            best = np.asarray(one.p_species)[:, :full].argmax(1)
            seen = {int(row): one.species[k] for row, k in zip(one.site, best, strict=True)}
            found[sublattice] = Mixture(known[sublattice], one, seen)
    return found


def propose_in(
    defect: Defect, host: ProjectedHost, lattice: Lattice, sites: SiteMap, rates: Mapping[str, float],
    mixtures: Mapping[str, Mixture], most: int = 24,
) -> tuple[Candidate, ...]:
    """As `stemfit.candidates.propose`, for any host: where sublattices are mixed, with the atoms of the alloy.

    What a vacancy leaves may be any atom of the mixture, and a complete column any of its types: on a single site each
    is a candidate, weighed by its share in this image. Of a defect with several sites each takes the atoms that its
    brightness suits best; every candidate is offered the same choice. All other mixed columns are what they most
    probably are, those that the image does not show the majority's.
    """
    if not mixtures:
        return propose(defect, host, lattice, sites, rates, most)
    lost = {e: left for m in mixtures.values() for e, left in what_remains(m.known).items()}
    own = host.columns[-1].rstrip("2")
    names = {f"V_{e}": f"V_{own}" for e in lost}
    single = {**rates, f"V_{own}": sum(rates.get(name, 0.0) for name in names) or rates.get(f"V_{own}", 0.0)}
    plain = propose(_renamed(defect, names), host, lattice, sites, single, max(most, USUAL))
    if not plain:
        return ()
    row_of = {s: k for s, k in sites.row_of.items() if s in set(defect.sites) and s[2] in mixtures}
    made = [c for p in plain for c in _dressed(p, row_of, rates, single, mixtures, (sites, lattice))]
    possible = max(len(made), plain[0].possible)
    made.sort(key=lambda c: -c.log_prior)
    first = next((k for k, c in enumerate(made) if c.label == "pristine"), 0)
    chosen = [made[first], *made[:first], *made[first + 1 :]][:most]
    chosen.sort(key=lambda c: c.label != "pristine")
    return tuple(replace(c, id=f"{defect.id}-{k}", possible=possible) for k, c in enumerate(chosen, 1))


def _renamed(defect: Defect, names: Mapping[str, str]) -> Defect:
    """With the labels of vacancies that the majority host has."""
    weight: dict[str, float] = {}
    for label, p in ((defect.label, defect.probability), *defect.alternatives):
        weight[names.get(label, label)] = weight.get(names.get(label, label), 0.0) + p
    label = names.get(defect.label, defect.label)
    p = weight.pop(label)
    return replace(defect, label=label, probability=p, alternatives=tuple(weight.items()))


def dressed(
    plain: Candidate, changed: Iterable[Site], mixtures: Mapping[str, Mixture], sites: SiteMap, lattice: Lattice
) -> Candidate:
    """A structure of the majority host with the atoms of the alloy, under its own name.

    On sites that are `changed` by it or its rivals it has the atoms that their brightness suits best, at the cost of
    their share; all other mixed columns are what they most probably are.
    """
    if not mixtures:
        return plain
    own = {row for s in changed if s[2] in mixtures and (row := sites.row_of.get(s)) is not None}
    columns, species, options = _offered(plain, own, mixtures, sites, lattice)
    best = {row: _best(o, row, mixtures[str(sites.sublattice[row])]) for row, o in options.items() if o}
    made, _ = _filled(plain, columns, species, best)
    prior = plain.log_prior + sum(math.log(option.share) for option in best.values())
    structure = _with_species(plain.structure, made, plain.label)
    return replace(plain, structure=structure, log_prior=prior, relaxed_as=plain.structure)


def _dressed(
    plain: Candidate, own: Mapping[tuple[int, int, str], int], rates: Mapping[str, float], single: Mapping[str, float],
    mixtures: Mapping[str, Mixture], where: tuple[SiteMap, Lattice],
) -> Iterator[Candidate]:
    """One candidate of the majority host with the atoms of the alloy, in all ways that are worth a structure."""
    sites, lattice = where
    columns, species, options = _offered(plain, own.values(), mixtures, sites, lattice)
    if len(options) > 1:
        options = {row: [_best(o, row, mixtures[str(sites.sublattice[row])])] for row, o in options.items() if o}
    choices = next(iter(options.values()), []) if len(options) == 1 else [None]
    for choice in choices or [None]:
        picked = {row: choice if choice is not None else of[0] for row, of in options.items() if of}
        made, gone = _filled(plain, columns, species, picked)
        label, prior = plain.label, plain.log_prior + sum(math.log(option.share) for option in picked.values())
        if len(gone) == 1 and len(own) == 1:
            label = f"V_{gone[0]}"
            prior += math.log(max(rates.get(label, 0.0), 1e-9) / max(single.get(plain.label, 0.0), 1e-9))
        structure = _with_species(plain.structure, made, label)
        yield replace(plain, label=label, structure=structure, log_prior=prior, relaxed_as=plain.structure)


def _offered(
    plain: Candidate, own: Collection[int], mixtures: Mapping[str, Mixture], sites: SiteMap, lattice: Lattice
) -> tuple[dict[int, NDArray[np.int64]], NDArray[np.str_], dict[int, list[_Option]]]:
    """Nodes of each site, elements with the columns seen around, and what may stand on its `own` rows of the map."""
    columns = _columns(plain, sites, ON_SITE * lattice.a_px_iso)
    species = np.array([site.specie.symbol for site in plain.structure.structure], dtype="<U2")
    options: dict[int, list[_Option]] = {}
    for row, nodes in columns.items():
        mixture = mixtures.get(str(sites.sublattice[row]))
        if mixture is None:
            continue
        if row in own:
            options[row] = _options(plain.structure, nodes, mixture)
        elif row in mixture.seen and _whole(plain.structure, nodes, mixture):
            species[nodes] = column_elements(mixture.seen[row])
    return columns, species, options


def _filled(
    plain: Candidate, columns: Mapping[int, NDArray[np.int64]], species: NDArray[np.str_],
    picked: Mapping[int, _Option],
) -> tuple[NDArray[np.str_], tuple[str, ...]]:
    """Elements of all nodes with those picked, and which atoms are gone then."""
    made, lost = species.copy(), tuple[str, ...]()
    for row, option in picked.items():
        nodes = columns[row]
        gone = plain.structure.marker[nodes] == 2
        made[nodes[~gone]], made[nodes[gone]] = option.there, option.gone
        lost += option.gone
    return made, lost


def _columns(plain: Candidate, sites: SiteMap, reach_px: float) -> dict[int, NDArray[np.int64]]:
    """Nodes of the patch by the row of the site that they stand on."""
    at_px = plain.structure.nodes_A[:, :2] @ plain.matrix.T + plain.offset_px
    off, row = (np.asarray(a) for a in cKDTree(sites.xy_px).query(at_px))
    order = np.flatnonzero(off < reach_px)
    order = order[np.argsort(row[order], kind="stable")]
    rows, first = np.unique(row[order], return_index=True)
    return dict(zip(rows.tolist(), np.split(order, first[1:]), strict=True))


def _options(structure: DefectStructure, nodes: NDArray[np.int64], mixture: Mixture) -> list[_Option]:
    """What may stand on a site of the defect, by how many atoms a structure leaves; none if it decides that itself."""
    marker = structure.marker[nodes]
    if _whole(structure, nodes, mixture):
        share = mixture.known.share[: len(mixture.known.columns)]
        return [
            _Option(tuple(column_elements(column)), (), float(s / share.sum()))
            for column, s in zip(mixture.known.columns, share, strict=True) if s > SELDOM
        ]
    if len(nodes) == 2 and sorted(marker) == [0, 2]:
        return [
            _Option((left,), (gone,), share)
            for gone, of in what_remains(mixture.known).items() for left, share in of.items() if share > SELDOM
        ]
    return []


def _whole(structure: DefectStructure, nodes: NDArray[np.int64], mixture: Mixture) -> bool:
    """Whether nodes are one complete column; beside moved or added atoms they may be fewer or more."""
    count = len(column_elements(mixture.known.columns[0]))
    return len(nodes) == count and bool((structure.marker[nodes] == 0).all())


def _best(options: Sequence[_Option], row: int, mixture: Mixture) -> _Option:
    """The atoms that the brightness of a site suits best; the choice costs every structure its share."""
    rows = np.flatnonzero(mixture.posterior.site == row)
    if len(rows) == 0 or mixture.posterior.p_species is None:
        return max(options, key=lambda o: o.share)
    p = dict(zip(mixture.posterior.species, np.asarray(mixture.posterior.p_species)[rows[0]], strict=True))
    return max(options, key=lambda o: (round(float(p.get(column_type(o.there), 0.0)), 6), o.share))


def _with_species(structure: DefectStructure, species: NDArray[np.str_], label: str) -> DefectStructure:
    """The same nodes with other elements; what is mixed is the crystal, not the defect: markers stay."""
    from pymatgen.core.structure import Structure

    crystal = structure.structure
    return replace(structure, structure=Structure(crystal.lattice, species.tolist(), crystal.frac_coords), label=label)
