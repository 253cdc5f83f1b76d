"""What was said of a recorded field against what is there.

A defect is found when a claim of its type and label has its middle within 1 A of the defect's. A line is found when one
claim of type LINE covers half of its sites, runs along it within 15 degrees and is as long to within a column, whatever
its label. A claim that names something else, but has the truth among its alternatives with P >= 0.1, is a near tie,
which is counted apart. All other claims that touch a defect have a wrong name; one that touches none is false, unless
it lies in an area that is no monolayer (counted there) or names the exchanged column of an alloy. Adatoms need no
label. Near the image's border defects, and claims about them or about nothing, are counted apart, so that a claim and
what it is about always stand on the same side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from defect_fields import Defect, Shot
from matplotlib.path import Path as Polygon
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

NEAR_A = 1.0
TIE = 0.1
DIRECTION_DEG = 15.0
EDGE_A = 4.0
"""Width of the border in which defects and claims are counted apart."""

BORDER = "image border"

AROUND_A = 2.0
"""Claims so near to an area that is no monolayer are counted there."""


class Stated(NamedTuple):
    """A claim or suspect; `alternatives` by label, pristine included."""

    type: str
    label: str
    probability: float
    sites_px: FloatArray
    alternatives: dict[str, float]

    @property
    def center_px(self) -> FloatArray:
        """Mean of the sites."""
        return np.asarray(self.sites_px.mean(0))

    @property
    def defective(self) -> float:
        """Probability that anything is wrong here."""
        return 1.0 - self.alternatives.get("pristine", 0.0)


class Verdict(NamedTuple):
    """What became of a true defect: right, tie, wrong, unknown or missed; whether the label of a line is right too."""

    truth: Defect
    outcome: str
    exact: bool


class Statement(NamedTuple):
    """A claim or suspect, and what is there.

    Attributes
    ----------
    stated : Stated
    right : bool
        Whether the very label is true (an adatom needs none).
    present : bool
        Whether anything is wrong there.
    true : str
        Label of what is there, or "pristine"; with a star where it is larger than what is said, or not recognised as
        what it is.
    """

    stated: Stated
    right: bool
    present: bool
    true: str

    @property
    def named(self) -> float | None:
        """Probability of the name; UNKNOWN is none."""
        return None if self.stated.type == "UNKNOWN" else self.stated.probability

    @property
    def defective(self) -> float:
        """Probability that anything is wrong."""
        return self.stated.defective


@dataclass
class Score:
    """Counts of one recorded field.

    Attributes
    ----------
    verdicts : list of Verdict
    claimed : Counter
        Claims in the monolayer by type, without `members`.
    members : Counter
        Claims of one site that are about a site of a larger defect: that defect has a wrong name, and is counted so.
    right, tied : Counter
        Those of them that found a defect, or nearly.
    false : list of Stated
        Those that touch nothing.
    in_areas : Counter
        Claims by kind of area.
    columns : int
        Sites in the monolayer.
    columns_in : Counter
        Sites by kind of area.
    statements : list of Statement
        Of claims and suspects in the monolayer.
    """

    verdicts: list[Verdict] = field(default_factory=list)
    claimed: Counter[str] = field(default_factory=Counter)
    members: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)
    tied: Counter[str] = field(default_factory=Counter)
    false: list[Stated] = field(default_factory=list)
    in_areas: Counter[str] = field(default_factory=Counter)
    columns: int = 0
    columns_in: Counter[str] = field(default_factory=Counter)
    statements: list[Statement] = field(default_factory=list)


def touches(one: FloatArray, other: FloatArray, reach_px: float) -> bool:
    """Whether a site of one lies on a site of the other."""
    return bool(np.hypot(*np.moveaxis(one[:, None] - other, -1, 0)).min() < reach_px)


def matches(claim: Stated, truth: Defect, shot: Shot) -> bool:
    """Whether a claim says what is there."""
    reach = NEAR_A / shot.field.pixel_A
    if truth.type == "LINE":
        return claim.type == "LINE" and _along(claim.sites_px, truth.sites_px, shot, reach)
    near = np.hypot(*(claim.center_px - truth.sites_px.mean(0))) < reach
    named = claim.type == truth.type and (claim.label == truth.label or truth.type == "ADATOM")
    return bool(near) and named


def ties(claim: Stated, truth: Defect, shot: Shot) -> bool:
    """Whether a claim at the same place has the truth among its alternatives."""
    reach = NEAR_A / shot.field.pixel_A
    near = np.hypot(*(claim.center_px - truth.sites_px.mean(0))) < reach
    return bool(near) and claim.alternatives.get(truth.label, 0.0) >= TIE


def _along(claimed: FloatArray, true: FloatArray, shot: Shot, reach_px: float) -> bool:
    gaps = np.hypot(*np.moveaxis(true[:, None] - claimed, -1, 0)).min(1)
    if np.mean(gaps < reach_px) < 0.5 or len(claimed) < 2:
        return False
    one, other = _axis(claimed), _axis(true)
    period = float(np.hypot(*shot.field.cell_px[:, 0]))
    lengths = [np.ptp(sites @ axis) / period for sites, axis in ((claimed, one), (true, other))]
    straight = abs(float(one @ other)) > np.cos(np.radians(DIRECTION_DEG))
    return bool(straight and abs(lengths[0] - lengths[1]) < 1.25)


def _axis(xy: FloatArray) -> FloatArray:
    """Direction in which points spread most."""
    return np.asarray(np.linalg.svd(xy - xy.mean(0), full_matrices=False)[2][0])


def score(shot: Shot, claims: Sequence[Stated], suspects: Sequence[Stated] = ()) -> Score:
    """Count."""
    result, pixel = Score(), shot.field.pixel_A
    reach = NEAR_A / pixel
    shape, border = shot.recording.image.shape, EDGE_A / pixel

    def inner(xy: FloatArray) -> NDArray[np.bool_]:
        return np.asarray(np.all((xy > border) & (xy < np.array(shape[::-1]) - 1 - border), axis=-1))

    areas = [(area.type, Polygon(area.sites_px)) for area in shot.areas]

    def area_of(xy: FloatArray) -> str:
        # the sign of the radius that grows a polygon depends on its orientation
        return next((kind for kind, rim in areas if any(
            rim.contains_point(xy, radius=sign * AROUND_A / pixel) for sign in (1, -1))), "")

    sites = shot.columns_px[inner(shot.columns_px)]
    kinds = Counter(area_of(xy) for xy in sites) if areas else Counter({"": len(sites)})
    result.columns = kinds.pop("", 0)
    result.columns_in = kinds
    exchanged = shot.columns_px[shot.field.alloyed]

    def in_alloy(one: Stated) -> bool:
        at_one = len(exchanged) > 0 and touches(one.center_px[None], exchanged, reach)
        return bool(at_one and one.type == "SUB")

    truths = [truth for truth in shot.defects if inner(truth.sites_px.mean(0))]
    at_border = [truth for truth in shot.defects if not inner(truth.sites_px.mean(0))]

    def judged(one: Stated) -> bool:
        """Whether a claim is about a defect that is counted, or about nothing within the border."""
        if any(touches(one.sites_px, truth.sites_px, reach) for truth in truths):
            return True
        about_border = any(touches(one.sites_px, truth.sites_px, reach) for truth in at_border)
        return bool(inner(one.center_px)) and not about_border

    counted = [one for one in claims if judged(one)]
    at_edge = [one for one in claims if not judged(one) and not in_alloy(one)]
    seen = [one for one in counted if not area_of(one.center_px)]
    result.in_areas = Counter(area_of(one.center_px) for one in counted if area_of(one.center_px))
    result.in_areas[BORDER] = len(at_edge)
    shown = np.all((shot.columns_px >= 0) & (shot.columns_px <= np.array(shape[::-1]) - 1), axis=1)
    result.columns_in[BORDER] = int(shown.sum()) - len(sites)
    used: set[int] = set()
    for truth in truths:
        verdict = _verdict(truth, seen, used, shot, result)
        result.verdicts.append(verdict)
    larger = [truth.sites_px for truth in shot.defects if len(truth.sites_px) > 1]
    within = [len(one.sites_px) == 1 and any(touches(one.sites_px, xy, reach) for xy in larger) for one in seen]
    result.members = Counter(one.type for one, part in zip(seen, within, strict=True) if part)
    result.claimed = Counter(
        one.type for one, part in zip(seen, within, strict=True) if not part and not in_alloy(one)
    )

    def present(one: Stated) -> bool:
        return in_alloy(one) or any(touches(one.sites_px, truth.sites_px, reach) for truth in truths)

    result.false = [one for one in seen if not present(one)]
    for one in [*seen, *(s for s in suspects if judged(s) and not area_of(s.center_px))]:
        there = present(one) or (len(exchanged) > 0 and touches(one.sites_px, exchanged, reach))
        right, true = (True, one.label) if in_alloy(one) else _so(one, shot)
        result.statements.append(Statement(one, right, there, true))
    return result


def _so(one: Stated, shot: Shot) -> tuple[bool, str]:
    """Whether the very label of a claim is true, and the label of what is there."""
    same = next((truth for truth in shot.defects if matches(one, truth, shot)), None)
    if same is not None:  # of lines the length must agree as well: the probability is that of the label
        return truth_label(one, same) == same.label, same.label
    reach = NEAR_A / shot.field.pixel_A
    about = next((truth for truth in shot.defects if touches(one.sites_px, truth.sites_px, reach)), None)
    if about is None:
        return False, "pristine"
    return False, about.label if len(about.sites_px) == len(one.sites_px) == 1 else about.label + "*"


def truth_label(one: Stated, truth: Defect) -> str:
    """Label of a claim, where an adatom of any element has that of the truth."""
    return truth.label if truth.type == "ADATOM" else one.label


def _verdict(truth: Defect, claims: Sequence[Stated], used: set[int], shot: Shot, result: Score) -> Verdict:
    reach = NEAR_A / shot.field.pixel_A
    for kind, agrees, counter in (("right", matches, result.right), ("tie", ties, result.tied)):
        for k, claim in enumerate(claims):
            if k not in used and agrees(claim, truth, shot):
                used.add(k)
                counter[claim.type] += 1
                return Verdict(truth, kind, claim.label == truth.label)
    about = [claim for claim in claims if touches(claim.sites_px, truth.sites_px, reach)]
    if not about:
        return Verdict(truth, "missed", False)
    return Verdict(truth, "unknown" if all(claim.type == "UNKNOWN" for claim in about) else "wrong", False)


def f1(true: int, found: int, claimed: int, right: int) -> float:
    """Harmonic mean of recall and precision; nan where nothing is there and nothing said."""
    if true + claimed == 0:
        return float("nan")
    if found == right:
        return 2 * right / (true + claimed)
    return 2 * found * right / max(found * claimed + right * true, 1)
