"""What is compared with the image where structures may be: they, the perfect crystal, and what else was found there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stemfit.candidate_alloys import mixtures_of, propose_in
from stemfit.candidates import Candidate, local_frame, sites_of
from stemfit.defects import Defect
from stemfit.lattice import Lattice, SiteMap
from stemfit.matching.given import Given
from stemfit.matching.places import Placement, patch_cells
from stemfit.matching.spots import Spot, kind_of
from stemfit.matching.ways import Embedded, centre_of, embedded
from stemfit.relax import Relaxed, Relaxer
from stemfit.score.scene import BEYOND_A, REACH
from stemfit.view import View

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
    rest : tuple of Defect
        Defects found that share no site with any of these.
    """

    spot: Spot
    candidates: tuple[Candidate, ...]
    placements: tuple[Placement | None, ...]
    patches: tuple[Embedded | None, ...]
    rest: tuple[Defect, ...]

    def relaxed(self, own: Relaxer | None, others: Relaxer) -> tuple[Relaxed, ...]:
        """The user's structures as they are in the file, or by a relaxer; what else was proposed, by its own."""
        both = list(zip(self.candidates, self.patches, strict=True))
        theirs = iter(others([c for c, patch in both if patch is None]))
        mine = iter([] if own is None else own([c for c, patch in both if patch is not None]))
        return tuple(
            next(theirs) if patch is None else as_in_file(patch) if own is None else next(mine) for _, patch in both
        )


def compare(v: View, spot: Spot) -> Compared:
    """Candidates of a spot.

    Before the image is asked, a structure is as likely here as at any other of its places, and the user brings it
    because it is somewhere; one that would be proposed anyway is as likely as that.
    """
    here, rest = _split(spot, v.found)
    mixed = mixtures_of(v.posteriors, v.identity.host, v.mixtures)
    rivals = [
        c for d in here for c in propose_in(d, v.identity.host, v.lattice, v.sites, v.rates, mixed, MOST_RIVALS)
    ]
    return _compared(spot, v.lattice, v.sites, rivals, rest)


def _split(spot: Spot, found: Sequence[Defect]) -> tuple[tuple[Defect, ...], tuple[Defect, ...]]:
    """Defects that share a site with a spot, and all others, whose numbers are no spot's."""
    own = set(spot.defect.sites)
    here = tuple(d for d in found if not own.isdisjoint(d.sites))
    return here, tuple(replace(d, id=-d.id) for d in found if own.isdisjoint(d.sites))


def _compared(
    spot: Spot, lattice: Lattice, sites: SiteMap, rivals: Sequence[Candidate], rest: tuple[Defect, ...]
) -> Compared:
    reach_px = float(np.hypot(*(spot.defect.extent_px - spot.defect.center_px).T).max()) + REACH * lattice.a_px_iso
    cells = patch_cells(max(_reach_cells(spot, p, reach_px, lattice) for p in spot.placements))
    own: list[tuple[Candidate, Placement | None, Embedded | None]] = []
    alike: set[str] = set()
    for placement in spot.placements:
        patch = embedded(placement.lying, cells)
        same = [
            r for r in rivals
            if r.label == placement.lying.label and set(sites_of(r, sites, lattice)[0]) == set(placement.sites)
        ]  # fmt: skip
        alike |= {r.id for r in same}
        prior = max([-float(np.log(spot.looked[placement.given])), *(r.log_prior for r in same)])
        own.append((_candidate(spot, placement, patch, lattice, sites, prior), placement, patch))
    first, lead = own[0][0], spot.placements[0]
    perfect = _perfect(first, lead.lying, cells)
    held = [r for r in rivals if r.id not in alike and r.structure.sites and _holds(r, spot, reach_px, lattice)]
    rows = [(perfect, None, None), *own, *((r, None, None) for r in held)]
    candidates = tuple(replace(c, id=f"{spot.defect.id}-{k}", defect=spot.defect.id) for k, (c, _, _) in enumerate(
        rows, 1))  # fmt: skip
    return Compared(spot, candidates, tuple(p for _, p, _ in rows), tuple(e for _, _, e in rows), rest)


def _reach_cells(spot: Spot, placement: Placement, reach_px: float, lattice: Lattice) -> float:
    """Radius of what must be known about the middle of a structure, lattice constants."""
    beside = float(np.hypot(*(placement.centre_px - spot.defect.center_px)))
    return (beside + reach_px) / lattice.a_px_iso + (BEYOND_A + 1.0) / placement.lying.crystal.a_exp_A


def _candidate(
    spot: Spot, placement: Placement, patch: Embedded, lattice: Lattice, sites: SiteMap, log_prior: float
) -> Candidate:
    crystal = placement.lying.crystal
    here = replace(spot.defect, center_px=placement.centre_px)
    matrix, centre_px = local_frame(here, lattice, sites, crystal.a_exp_A)
    center_A = (centre_of(placement.lying) + patch.anchor) @ crystal.plane_A()
    label = placement.lying.label
    return Candidate(
        "", spot.defect.id, kind_of(label), label, patch.structure, center_A, matrix, centre_px - matrix @ center_A,
        log_prior,
    )


def _perfect(like: Candidate, lying: Given, cells: int) -> Candidate:
    """The perfect crystal in the same patch."""
    from definet.structures import pristine

    return replace(like, type="", label="pristine", structure=pristine(lying.crystal.name, cells), log_prior=0.0)


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
