"""What an analysis says of an image, what a threshold on brightness would say, and both against the truth.

A defect is found when a claim of its type and label overlaps it, and has a wrong name when only other claims do. A
claim that overlaps no true defect is false. Two things overlap when one site of each lies within a quarter of the
lattice constant of the other (the nearest neighbour is 0.58 away).

The threshold: mean intensity in a disc of a quarter of the lattice constant about every X site, less the median of the
same about the hollow sites; below 0.75 of the median X site it says SV, below 0.25 DV. It is given the lattice, the
sublattices and the masked area that the analysis found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

SINGLE, DOUBLE = 0.75, 0.25
REACH = 0.25
"""In lattice constants."""


class Claim(NamedTuple):
    """A defect, true or said to be.

    Attributes
    ----------
    type, label : str
    sites_px : (K, 2) array
        The sites that it comprises.
    probability : float
        Of this type and label; what is true or said by the threshold has 1.
    defective : float
        That anything is wrong here.
    """

    type: str
    label: str
    sites_px: FloatArray
    probability: float = 1.0
    defective: float = 1.0


class Said(NamedTuple):
    """What an analysis says of an image; `analysed` are the site positions (N, 2) that it looked at."""

    host: str
    host_probability: float
    a_px: float
    pixel_A: float
    pixel_sigma_A: float
    residual_pm: float
    masked: float
    analysed: FloatArray
    claims: list[Claim]
    suspects: list[Claim]
    by_threshold: list[Claim]


class Tally(NamedTuple):
    """Claims against truth."""

    found: Counter[str]
    wrong: int
    false: int
    names: Counter[str]
    """Labels of wrong and false claims."""


def said(analysis: Any) -> Said:
    """Keep of an analysis what is scored."""
    scale, lattice, sites = analysis.calibration, analysis.lattice, analysis.sites
    return Said(
        analysis.host.host.name, analysis.host.probability, lattice.a_px_iso,
        scale.pixel_size_A, scale.pixel_size_sigma_A,
        100 * lattice.residual_rms_px * scale.pixel_size_A, float(np.mean(analysis.region_map > 0)),
        sites.xy_px[sites.analysed], [_claim(d) for d in analysis.defects], [_claim(d) for d in analysis.suspects],
        threshold(analysis),
    )  # fmt: skip


def _claim(defect: Any) -> Claim:
    pristine = dict(defect.alternatives).get("pristine", 0.0)
    return Claim(defect.type, defect.label, defect.extent_px, defect.probability, 1 - pristine)


# -- the baseline --------------------------------------------------------------------------------------------------


def threshold(analysis: Any) -> list[Claim]:
    """Single and double vacancies by the brightness of the X sites alone."""
    host, sites, lattice = analysis.host.host, analysis.sites, analysis.lattice
    chosen = sites.analysed & (sites.sublattice == host.sublattices[1])
    metal, chalcogen = lattice.basis
    hollow = lattice.positions(sites.ij[chosen] + (2 * chalcogen - metal) % 1)
    radius = 0.25 * lattice.a_px_iso
    image = analysis.micrograph.image
    level = disc_means(image, sites.xy_px[chosen], radius) - np.nanmedian(disc_means(image, hollow, radius))
    relative = level / np.nanmedian(level)
    single, double = f"V_{host.columns[1].rstrip('2')}", f"V_{host.columns[1]}"
    return [
        Claim("DV", double, xy[None]) if share < DOUBLE else Claim("SV", single, xy[None])
        for xy, share in zip(sites.xy_px[chosen], relative, strict=True)
        if share < SINGLE
    ]


def disc_means(image: FloatArray, xy: FloatArray, radius: float) -> FloatArray:
    """Mean over the pixels within `radius` of each position, NaN where none is in the image."""
    reach = np.arange(-int(radius) - 1, int(radius) + 2)
    offsets = np.stack(np.meshgrid(reach, reach), axis=-1).reshape(-1, 2)
    at = np.rint(xy).astype(int)[:, None] + offsets
    near = np.hypot(*np.moveaxis(at - xy[:, None], -1, 0)) <= radius
    near &= np.all((at >= 0) & (at < image.shape[::-1]), axis=-1)
    values = image[at[..., 1].clip(0, image.shape[0] - 1), at[..., 0].clip(0, image.shape[1] - 1)]
    counts = near.sum(axis=1)
    sums = (values * near).sum(axis=1)
    return np.asarray(np.divide(sums, counts, out=np.full(len(xy), np.nan), where=counts > 0))


# -- against the truth ---------------------------------------------------------------------------------------------


def truth_of(sample: dict[str, Any]) -> list[Claim]:
    return [Claim(d["type"], d["label"], np.array(d["extent_px"])) for d in sample["defects"]]


def compare(claims: Sequence[Claim], truth: Sequence[Claim], reach_px: float) -> Tally:
    """Count what was found under its name, what under another, and what is not there."""
    found: Counter[str] = Counter()
    names: Counter[str] = Counter()
    wrong = 0
    for defect in truth:
        near = [claim for claim in claims if overlap(claim, defect, reach_px)]
        right = any(same(claim, defect) for claim in near)
        found[defect.type] += right
        wrong += bool(near) and not right
        names.update(claim.label for claim in near if claim.label != defect.label)
    false = [claim for claim in claims if not any(overlap(claim, defect, reach_px) for defect in truth)]
    names.update(claim.label for claim in false)
    return Tally(found, wrong, len(false), names)


def same(one: Claim, other: Claim) -> bool:
    """Whether both have the same name."""
    return (one.type, one.label) == (other.type, other.label)


def overlap(one: Claim, other: Claim, reach_px: float) -> bool:
    gaps = np.hypot(*np.moveaxis(one.sites_px[:, None] - other.sites_px, -1, 0))
    return bool(gaps.min() < reach_px)
