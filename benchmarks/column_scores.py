"""What a column finder found against the truth: right and wrong columns, errors, and errors in units of the bound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from cramer_rao import Bound
from honeycombs import PIXEL_A, BoolArray, FloatArray, Scene, within
from numpy.typing import NDArray
from peers import Found
from scipy.spatial import cKDTree

REACH_PX = 0.5 / PIXEL_A
"""A column found within 0.5 A of a true one is that one (neighbours are 1.8 A apart)."""


class Score(NamedTuple):
    """Of one image; errors are those of the K whole columns that were found.

    Attributes
    ----------
    said, right : int
        Columns found, and those of them that are there.
    true, seen : int
        Columns that are there, and those of them that were found; halved ones count.
    halves, halves_seen : int
    removed, invented : int
        Removed columns, and how many of them were found all the same.
    metal : (K,) bool array
    position_error, position_bound : (K, 2) array
        px.
    factor : float
        Between measured and true intensities; nan where none are said.
    intensity_error, intensity_bound : (K,) array or None
        In units of the column's intensity, the factor taken out.
    position_pull, intensity_pull : (K, 2) and (K,) array or None
        Errors over stated standard errors.
    """

    said: int
    right: int
    true: int
    seen: int
    halves: int
    halves_seen: int
    removed: int
    invented: int
    metal: BoolArray
    position_error: FloatArray
    position_bound: FloatArray
    factor: float
    intensity_error: FloatArray | None
    intensity_bound: FloatArray | None
    position_pull: FloatArray | None
    intensity_pull: FloatArray | None


def judge(scene: Scene, judged: BoolArray, bound: Bound, found: Found, margin_px: float) -> Score:
    """Compare what was found in an image with its truth, away from the edge."""
    there = scene.intensity > 0
    partner = np.full(len(scene.xy), -1)
    partner[there] = partners(scene.xy[there], found.xy)
    taken = np.zeros(len(found.xy), dtype=bool)
    taken[partner[partner >= 0]] = True
    inner, said = scene.inside(margin_px), within(found.xy, scene.recipe.size_px, margin_px)
    half, gone = inner & (scene.share == 0.5), inner & ~there
    invented = partners(scene.xy[gone], found.xy[~taken]) >= 0
    hit = partner[judged] >= 0
    which = partner[judged][hit]
    error = found.xy[which] - scene.xy[judged][hit]
    return Score(
        int(said.sum()), int((said & taken).sum()),
        int((inner & there).sum()), int((partner[inner & there] >= 0).sum()),
        int(half.sum()), int((partner[half] >= 0).sum()), int(gone.sum()), int(invented.sum()),
        scene.metal[judged][hit], error, bound.position[hit],
        *intensities(scene.intensity[judged], bound, hit, found, which),
        *stated(error, found, which, scene.intensity[judged], bound, hit),
    )  # fmt: skip


def partners(true: FloatArray, found: FloatArray) -> NDArray[np.int64]:
    """For each true position the number of the found one such that each is the other's nearest; -1 if none is near."""
    if len(true) == 0 or len(found) == 0:
        return np.full(len(true), -1)
    distance, forth = (np.asarray(each) for each in cKDTree(found).query(true))
    back = np.asarray(cKDTree(true).query(found)[1])
    own = (back[forth] == np.arange(len(true))) & (distance < REACH_PX)
    return np.where(own, forth, -1)


def intensities(
    true: FloatArray, bound: Bound, hit: BoolArray, found: Found, which: NDArray[np.int64]
) -> tuple[float, FloatArray | None, FloatArray | None]:
    """Common factor, relative errors and their bound."""
    if found.intensity is None:
        return float("nan"), None, None
    factor = bound.common_factor(found.intensity[which], true, hit)
    relative = found.intensity[which] / factor / true[hit] - 1
    return factor, relative, (bound.relative_intensity(true) / true)[hit]


def stated(
    error: FloatArray, found: Found, which: NDArray[np.int64], true: FloatArray, bound: Bound, hit: BoolArray
) -> tuple[FloatArray | None, FloatArray | None]:
    """Errors of position and intensity over the standard errors that the tool states."""
    if found.sigma_xy is None or found.sigma_intensity is None or found.intensity is None:
        return None, None
    measured = found.intensity[which]
    off = measured - bound.common_factor(measured, true, hit) * true[hit]
    return error / found.sigma_xy[which], off / found.sigma_intensity[which]


# -- pooled over images --------------------------------------------------------------------------------------------


def ratio(scores: Sequence[Score], part: str, whole: str) -> str:
    """Sum of one count over the sum of another."""
    of = sum(getattr(score, whole) for score in scores)
    return f"{sum(getattr(score, part) for score in scores) / of:.4f}" if of else "-"


def rms(values: FloatArray) -> float:
    return float(np.sqrt(np.mean(values**2))) if values.size else float("nan")


def picometres(scores: Sequence[Score], metal: bool) -> str:
    """Position error per axis, in brackets over its bound."""
    error, limit = (
        rms(np.concatenate([getattr(s, name)[s.metal == metal] for s in scores]))
        for name in ("position_error", "position_bound")
    )
    return f"{100 * PIXEL_A * error:.2f} ({error / limit:.2f})"


def percent(scores: Sequence[Score], metal: bool) -> str:
    """Intensity error, in brackets over its bound."""
    if scores[0].intensity_error is None:
        return "-"
    error, limit = (
        rms(np.concatenate([getattr(s, name)[s.metal == metal] for s in scores]))
        for name in ("intensity_error", "intensity_bound")
    )
    return f"{100 * error:.2f} ({error / limit:.2f})"


def pulls(scores: Sequence[Score]) -> list[float]:
    """Position of M and X2, intensity of M and X2: errors over stated standard errors, rms."""
    return [
        rms(np.concatenate([getattr(s, name)[s.metal == metal] for s in scores]))
        for name in ("position_pull", "intensity_pull")
        for metal in (True, False)
    ]
