"""How well structures explain an image where they may be, and what is said of them: found, tied, or not there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from definet.exceptions import StructureError
from stemfit.candidates import Candidate
from stemfit.defects import CLAIM, Defect
from stemfit.defects.find import SUSPECT
from stemfit.lattice import Identity, RowOffsets
from stemfit.matching.compare import Compared
from stemfit.matching.given import Given
from stemfit.matching.held import Held
from stemfit.matching.places import Placement
from stemfit.matching.spots import MOST_SPOTS, kind_of
from stemfit.matching.ways import centre_of
from stemfit.matching.weigh import as_bright, unexplained, unknown_by_light
from stemfit.observed import Observed
from stemfit.relax import Relaxed
from stemfit.score import Score, score_defect
from stemfit.score.others import field_of, others_of
from stemfit.score.rank import FAR

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Match:
    """One structure at one place.

    Attributes
    ----------
    structure, sha256 : str
        The file.
    label : str
    defect : int
        Id in the defects or suspects.
    candidate : str
        Its likeliest candidate there.
    center_px : (2,) array
    turn_deg : float
        Direction of the file's x axis in the image, degrees counter-clockwise as displayed.
    turned_over : bool
        Whether the file's layer was turned over (y runs clockwise from x).
    image_from_structure : (2, 2), (2,) arrays
        p_px = matrix @ r_A + offset for in-plane positions of the file.
    log_bayes_factor : float
        Natural logarithm, against the perfect crystal.
    probability : float
        Of this structure here, in any of its ways.
    pristine, unknown, other : float
        Of the perfect crystal, of none of all these, and of other structures.
    ncc, reduced_chi2, max_displacement_A : float
    ties : tuple of str
        Candidates that the image cannot tell from this one.
    """

    structure: str
    sha256: str
    label: str
    defect: int
    candidate: str
    center_px: FloatArray
    turn_deg: float
    turned_over: bool
    image_from_structure: tuple[FloatArray, FloatArray]
    log_bayes_factor: float
    probability: float
    pristine: float
    unknown: float
    other: float
    ncc: float
    reduced_chi2: float
    max_displacement_A: float
    ties: tuple[str, ...]

    @property
    def found(self) -> bool:
        """Whether it is more probable than everything else together."""
        return self.probability > CLAIM


class Answer(NamedTuple):
    """One spot: its candidates with their scores, the spot with the name of its likeliest structure, and matches."""

    compared: Compared
    relaxed: tuple[Relaxed, ...]
    scores: tuple[Score, ...]
    defect: Defect
    matches: tuple[Match, ...]


def same_host(givens: Sequence[Given], identity: Identity) -> None:
    """See that the structures are of the crystal in the image.

    Raises
    ------
    StructureError
    """
    for given in givens:
        if given.crystal.name != identity.host.name:
            sure = f"P = {identity.probability:.2g}" if identity.source == "inferred" else "as stated"
            raise StructureError(
                f"it is a structure of {given.crystal.name}, the image shows {identity.host.name} ({sure})",
                f"Give a structure of {identity.host.name}, or --host {given.crystal.name} if that is in the image.",
                subject=given.path,
            )


def judge(
    v: Observed, compared: Compared, both: tuple[tuple[Relaxed, ...], tuple[Relaxed, ...]], givens: Sequence[Given]
) -> Answer:
    """Compare the candidates of a spot with the image."""
    spot, rest, (relaxed, beside) = compared.spot.defect, compared.rest, both
    others = others_of(
        spot, rest, {d.id: field_of(d, compared.beside, beside) for d in rest}, v.columns, v.imaging, v.sites,
        v.brightness, FAR * v.lattice.a_px_iso,
    )
    scores, unknown, _ = score_defect(
        spot, compared.candidates, relaxed, v.image, v.columns, v.imaging, v.lattice, v.rates["UNKNOWN"], others
    )
    held = Held(v.posteriors, v.identity.host.sublattices, v.sites)
    scores = as_bright(compared, relaxed, scores, held, v.mixtures)
    best = int(np.argmax([s.posterior for s in scores]))
    if relaxed[best].caution:  # what its columns leave over is blamed on the relaxer, not on the structure
        unknown = unknown_by_light(compared, best, held, v.rates["UNKNOWN"])
    unknown = max(unknown, unexplained(compared, best, held))
    return Answer(compared, relaxed, scores, *matched(compared, scores, unknown, givens))


def matched(
    given: Compared, scores: Sequence[Score], unknown: float, givens: Sequence[Given]
) -> tuple[Defect, tuple[Match, ...]]:
    """The spot as a defect with the name of its likeliest structure, and every structure there as a match."""
    spot = given.spot
    rows = list(zip(given.candidates, given.placements, scores, strict=True))
    weight: dict[str, float] = {"UNKNOWN": unknown}
    own_labels = {c.label for c, p, _ in rows if p is not None}
    for c, p, s in rows:
        name = f"{c.label} on other sites" if p is None and c.label in own_labels else c.label
        weight[name] = weight.get(name, 0.0) + s.posterior * (1 - unknown)
    pristine = next(s for c, _, s in rows if c.label == "pristine")
    made = []
    for k in dict.fromkeys(p.given for p in spot.placements):
        own = [(c, p, s) for c, p, s in rows if p is not None and p.given == k]
        c, p, s = max(own, key=lambda row: row[2].posterior)
        share = sum(one.posterior for _, _, one in own) * (1 - unknown)
        empty, none = pristine.posterior * (1 - unknown), unknown
        made.append(_match(givens[k], c, p, s, share, (empty, none, max(0.0, 1 - share - empty - none)), pristine))
    made.sort(key=lambda m: -m.probability)
    best = next((c, p, s) for c, p, s in rows if c.id == made[0].candidate)
    label = best[0].label
    assert best[1] is not None
    others = sorted(((n, w) for n, w in weight.items() if n != label), key=lambda item: -item[1])
    extent = [place for site, place in zip(spot.defect.sites, spot.defect.extent_px, strict=True)
              if site in best[1].sites]  # fmt: skip
    sites = tuple(site for site in spot.defect.sites if site in best[1].sites)
    return Defect(
        spot.defect.id, kind_of(label), label, weight[label], np.mean(extent, axis=0), sites, np.array(extent),
        tuple(others), made[0].log_bayes_factor, best[0].id,
    ), tuple(made)


def _match(
    given: Given, candidate: Candidate, placement: Placement, score: Score, share: float,
    others: tuple[float, float, float], pristine: Score,
) -> Match:
    crystal, frame = placement.lying.crystal, placement.lying.frame
    plane = crystal.plane_A()
    # The candidate's patch is moved by whole cells, which its middle gives back.
    moved = candidate.center_A - centre_of(placement.lying) @ plane
    matrix = candidate.matrix @ (frame[0] @ plane).T
    offset = candidate.matrix @ (frame[1] @ plane + moved) + candidate.offset_px
    shown = np.diag([1.0, -1.0]) @ matrix
    u, _, vt = np.linalg.svd(shown)
    x = (u @ vt)[:, 0]
    return Match(
        str(given.path), given.sha256, given.label, candidate.defect, candidate.id, placement.centre_px,
        float(np.degrees(np.arctan2(x[1], x[0])) % 360.0), bool(np.linalg.det(shown) < 0), (matrix, offset),
        score.log_likelihood - pristine.log_likelihood, share, *others, score.ncc, score.reduced_chi2,
        score.max_displacement_A, score.tie_with,
    )


class Matching(NamedTuple):
    """All spots together."""

    answers: tuple[Answer, ...]

    @staticmethod
    def of(answers: Iterable[Answer]) -> Matching:
        """Those where a structure is or may be, and the best one of every structure that is nowhere."""
        every = list(answers)
        known = {m.structure for a in every for m in a.matches if m.found}
        best = {m.structure: m for m in sorted((m for a in every for m in a.matches), key=lambda m: m.probability)}
        return Matching(
            tuple(
                a for a in every
                if any(m.probability > SUSPECT or (m.structure not in known and m is best[m.structure])
                       for m in a.matches)
            )
        )  # fmt: skip

    @property
    def found(self) -> tuple[Defect, ...]:
        """Spots where a structure is more probable than all else."""
        return tuple(a.defect for a in self.answers if a.matches[0].found)

    @property
    def doubted(self) -> tuple[Defect, ...]:
        """The others."""
        return tuple(a.defect for a in self.answers if not a.matches[0].found)

    @property
    def explained(self) -> tuple[tuple[Candidate, ...], tuple[Relaxed, ...], tuple[Score, ...]]:
        """All candidates, relaxed, with their scores."""
        return (
            tuple(c for a in self.answers for c in a.compared.candidates),
            tuple(r for a in self.answers for r in a.relaxed), tuple(s for a in self.answers for s in a.scores),
        )

    def unmatched(self, found: Sequence[Defect]) -> tuple[Defect, ...]:
        """Defects of the image that share no site with what was matched; they stay without a structure."""
        own = {site for defect in self.found for site in defect.sites}
        return tuple(replace(d, best_candidate=None) for d in found if own.isdisjoint(d.sites))

    def as_scanned(self, rows: RowOffsets) -> tuple[Match, ...]:
        """Every structure in every spot, the most probable first, with the jitter of rows."""
        every = sorted((m for a in self.answers for m in a.matches), key=lambda m: -m.probability)
        return tuple(replace(m, center_px=rows.in_image(m.center_px[None])[0]) for m in every)

    def warnings(self, elsewhere: Sequence[Defect]) -> tuple[str, ...]:
        """What to know beside the matches."""
        said, seen = [], [m for a in self.answers for m in a.matches]
        for path in dict.fromkeys(m.structure for m in seen):
            own = [m for m in seen if m.structure == path]
            best = max(m.probability for m in own)
            if best <= CLAIM:
                said.append(f"{path} was not found: where it fits best its probability is {best:.2g}")
            if len(own) >= MOST_SPOTS:
                said.append(f"{path} was compared at its {len(own)} likeliest places only: analyze has no such limit")
        if elsewhere:
            count = f"{len(elsewhere)} other place{'s are' if len(elsewhere) > 1 else ' is'}"
            said.append(f"{count} not as the perfect crystal has them: stemfit analyze names them")
        return tuple(said)
