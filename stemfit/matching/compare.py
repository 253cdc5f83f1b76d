"""What is compared with the image where structures may be: they, the perfect crystal, and what else was found there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from definet.exceptions import StructureError
from stemfit.candidate_alloys import Mixture, dressed, mixtures_of, propose_in
from stemfit.candidates import Candidate, local_frame
from stemfit.defects import Defect, Site
from stemfit.lattice import Lattice, SiteMap
from stemfit.matching.found import contents, signature, together
from stemfit.matching.given import Given
from stemfit.matching.places import Placement, in_lattice, patch_cells
from stemfit.matching.spots import Spot, kind_of
from stemfit.matching.ways import Embedded, centre_of, embedded, perfect, reach_cells
from stemfit.observed import Observed
from stemfit.relax import Relaxed, Relaxer
from stemfit.score.rank import FAR
from stemfit.score.scene import BEYOND_A, REACH

FloatArray = NDArray[np.float64]

MOST_RIVALS = 6
"""Structures of each defect found there that are compared as well: the likeliest by themselves."""

AS_BUILT_A = 0.01
"""Largest displacement below which a file holds a structure as it was built: files are rounded to 1e-4 of a cell."""


@dataclass(frozen=True, eq=False)
class Compared:
    """Candidates of one spot.

    Attributes
    ----------
    spot : Spot
    candidates : tuple of Candidate
        The perfect crystal first, then the structures, then what `analyze` would propose.
    placements, patches : tuples of Placement or None, Embedded or None
        Of those that come from a file.
    here, rest : tuples of Defect
        Defects found that share a site with any of these, and the others.
    hold : tuple of mappings of (i, j, sublattice) to str
        The columns that each has on the sites that it changes.
    beside : tuple of Candidate
        What those are taken for that may move columns here.
    """

    spot: Spot
    candidates: tuple[Candidate, ...]
    placements: tuple[Placement | None, ...]
    patches: tuple[Embedded | None, ...]
    here: tuple[Defect, ...]
    rest: tuple[Defect, ...]
    hold: tuple[Mapping[Site, str], ...]
    beside: tuple[Candidate, ...] = ()

    def relaxed(self, own: Relaxer | None, others: Relaxer) -> tuple[tuple[Relaxed, ...], tuple[Relaxed, ...]]:
        """The user's structures as they are in the file, or by a relaxer; what else was proposed, by its own.

        Returns
        -------
        candidates, beside : tuples of Relaxed
        """
        both = list(zip(self.candidates, self.patches, strict=True))
        theirs = iter(others([*(c for c, patch in both if patch is None), *self.beside]))
        mine = iter([] if own is None else own([c for c, patch in both if patch is not None]))
        candidates = tuple(
            next(theirs) if patch is None else as_in_file(patch) if own is None else next(mine) for _, patch in both
        )
        return candidates, tuple(theirs)


def compare(v: Observed, spot: Spot) -> Compared:
    """Candidates of a spot.

    Before the image is asked, a structure is as likely here as at any other of its places, and the user brings it
    because it is somewhere; one that would be proposed anyway is as likely as that.
    """
    here, rest = _split(spot, v.found)
    mixed = mixtures_of(v.posteriors, v.identity.host, v.mixtures)
    rivals = [
        c for d in here for c in propose_in(d, v.identity.host, v.lattice, v.sites, v.rates, mixed, MOST_RIVALS)
    ]
    near = [d for d in rest if _apart_px(d, spot.defect) < FAR * v.lattice.a_px_iso]
    others = [
        c for d in near for c in propose_in(d, v.identity.host, v.lattice, v.sites, v.rates, mixed, MOST_RIVALS)
    ]
    compared = _compared(spot, v, mixed, rivals, _as_taken(here, rivals), (here, rest))
    return replace(compared, beside=_as_taken(near, others))


def _as_taken(defects: Sequence[Defect], candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """The first structure of each defect that has the name which it was given."""
    own = [next((c for c in candidates if (c.defect, c.label) == (d.id, d.label)), None) for d in defects]
    return tuple(c for c in own if c is not None)


def _apart_px(one: Defect, other: Defect) -> float:
    return float(np.hypot(*np.moveaxis(one.extent_px[:, None] - other.extent_px, -1, 0)).min())


def _split(spot: Spot, found: Sequence[Defect]) -> tuple[tuple[Defect, ...], tuple[Defect, ...]]:
    """Defects that share a site with a spot, and all others, whose numbers are no spot's."""
    own = set(spot.defect.sites)
    here = tuple(d for d in found if not own.isdisjoint(d.sites))
    return here, tuple(replace(d, id=-d.id) for d in found if own.isdisjoint(d.sites))


class _Row(NamedTuple):
    """One candidate; where it lies and its patch if it comes from a file."""

    candidate: Candidate
    placement: Placement | None
    patch: Embedded | None
    hold: Mapping[Site, str]


def _compared(
    spot: Spot, v: Observed, mixed: Mapping[str, Mixture], rivals: Sequence[Candidate], parts: Sequence[Candidate],
    defects: tuple[tuple[Defect, ...], tuple[Defect, ...]],
) -> Compared:
    """Candidates, in alloys with the atoms that the image shows; `parts` were found on different sites of the spot."""
    lattice, sites, names = v.lattice, v.sites, v.identity.host.sublattices

    def in_image(plain: Candidate) -> Candidate:
        return dressed(plain, spot.defect.sites, mixed, sites, lattice)

    reach_px = float(np.hypot(*(spot.defect.extent_px - spot.defect.center_px).T).max()) + REACH * lattice.a_px_iso
    cells = max(_cells(spot, p.lying, p.centre_px, reach_px, lattice) for p in spot.placements)
    own: list[_Row] = []
    alike: set[str] = set()
    found = _as_found(spot, parts, reach_px, lattice, sites)
    rivals = [*rivals, *(replace(in_image(c), log_prior=c.log_prior) for c in found)]
    wholes = [together([r], spot.placements[0].lying, lattice, sites) if r.structure.sites else None for r in rivals]
    known = [None if whole is None else signature(whole, lattice) for whole in wholes]
    for placement in spot.placements:
        patch = embedded(placement.lying, cells)
        look = signature(placement.lying, lattice, placement.cell)
        same = [r for r, looks in zip(rivals, known, strict=True) if looks == look]
        alike |= {r.id for r in same}
        anywhere = -float(np.log(spot.looked[placement.given]))
        made = in_image(_candidate(spot, placement, patch, lattice, sites, anywhere))
        made = replace(made, log_prior=max([made.log_prior, *(r.log_prior for r in same)]))
        own.append(_Row(made, placement, patch, contents(placement.lying, lattice, names, placement.cell)))
    first, lead = own[0].candidate, spot.placements[0]
    ideal = in_image(_perfect(first, lead.lying, cells))
    held = [
        _Row(r, None, None, contents(whole, lattice, names)) for r, whole in zip(rivals, wholes, strict=True)
        if whole is not None and r.id not in alike and _holds(r, spot, reach_px, lattice)
    ]
    rows = [_Row(ideal, None, None, {}), *own, *held]
    named = (replace(r.candidate, id=f"{spot.defect.id}-{k}", defect=spot.defect.id) for k, r in enumerate(rows, 1))
    placed, patches = tuple(r.placement for r in rows), tuple(r.patch for r in rows)
    return Compared(spot, tuple(named), placed, patches, *defects, tuple(r.hold for r in rows))


def _as_found(
    spot: Spot, parts: Sequence[Candidate], reach_px: float, lattice: Lattice, sites: SiteMap
) -> list[Candidate]:
    """All that was found on the sites of a spot, in one structure; nothing where that does not fit together."""
    if not parts:
        return []
    whole = together(parts, spot.placements[0].lying, lattice, sites)
    middle = lattice.positions(in_lattice(centre_of(whole), lattice.polarity)[None])[0]
    try:
        patch = embedded(whole, _cells(spot, whole, middle, reach_px, lattice))
    except StructureError:
        return []
    return [_placed(spot, whole, middle, patch, lattice, sites, sum(part.log_prior for part in parts), "found")]


def _cells(spot: Spot, lying: Given, middle_px: FloatArray, reach_px: float, lattice: Lattice) -> int:
    """Cells of a patch about a structure that holds it, and the disc on which all are compared."""
    beside = float(np.hypot(*(middle_px - spot.defect.center_px)))
    disc = (beside + reach_px) / lattice.a_px_iso + (BEYOND_A + 1.0) / lying.crystal.a_exp_A
    return patch_cells(max(disc, reach_cells(lying) + REACH))


def _candidate(
    spot: Spot, placement: Placement, patch: Embedded, lattice: Lattice, sites: SiteMap, log_prior: float
) -> Candidate:
    return _placed(spot, placement.lying, placement.centre_px, patch, lattice, sites, log_prior)


def _placed(
    spot: Spot, lying: Given, centre_px: FloatArray, patch: Embedded, lattice: Lattice, sites: SiteMap,
    log_prior: float, name: str = "",
) -> Candidate:
    """A structure in its patch whose middle lies at a point of the image."""
    crystal = lying.crystal
    matrix, centre_px = local_frame(replace(spot.defect, center_px=centre_px), lattice, sites, crystal.a_exp_A)
    center_A = (centre_of(lying) + patch.anchor) @ crystal.plane_A()
    return Candidate(
        name, spot.defect.id, kind_of(lying.label), lying.label, patch.structure, center_A, matrix,
        centre_px - matrix @ center_A, log_prior,
    )


def _perfect(like: Candidate, lying: Given, cells: int) -> Candidate:
    """The perfect crystal in the same patch."""
    whole = perfect(lying.crystal.name, cells)
    return replace(like, type="", label="pristine", structure=whole, log_prior=0.0, relaxed_as=None)


def _holds(rival: Candidate, spot: Spot, reach_px: float, lattice: Lattice) -> bool:
    """Whether a patch shows all of the disc on which the structures are compared."""
    plane = rival.structure.structure.lattice.matrix[:2, :2]
    inside_A = abs(float(np.linalg.det(plane))) / float(np.linalg.norm(plane, axis=1).max()) / 2
    px_per_A = float(np.sqrt(abs(np.linalg.det(rival.matrix))))
    centre_px = rival.matrix @ rival.center_A + rival.offset_px
    return float(np.hypot(*(centre_px - spot.defect.center_px))) + reach_px <= px_per_A * (inside_A - 1.0)


def as_in_file(patch: Embedded) -> Relaxed:
    """Positions that the file gives."""
    built = float(np.abs(patch.step_A).max(initial=0.0)) < AS_BUILT_A
    return Relaxed(patch.structure.nodes_A if built else patch.positions_A, None, "keep" if built else "file", None)
