"""What the user must know before believing the rest."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from stemfit.calibrate import Calibration
from stemfit.candidates import Candidate
from stemfit.clipping import Cut
from stemfit.defects import Defect, SitePosterior, can_tell_half
from stemfit.imaging import Imaging
from stemfit.lattice import Brightness, Identity, RowOffsets
from stemfit.relax import Relaxed

SCALE_TOLERANCE = 0.03
SURE = 0.95
ALLOY_SHARE = 0.1
UNLIKE = 0.1
SEPARATE = 3.0
"""Full and half columns this many combined sigmas apart overlap in 7 % of the cases at the middle."""


LEFT_OVER = 4.0
"""Reduced chi2 of a field of which more is left than explained by noise: residuals of twice its standard deviation."""


def collect(
    identity: Identity, calibration: Calibration, posteriors: Sequence[SitePosterior], brightness: Brightness,
    imaging: Imaging, candidates: Sequence[Candidate], relaxed: Sequence[Relaxed], rows: RowOffsets, spikes: int,
    claimed: Sequence[Defect], cut: Cut, inverted: bool,
) -> tuple[str, ...]:
    """All warnings of an analysis, most consequential first; one posterior for each sublattice of the host."""
    host = identity.host
    return tuple(
        text
        for text in (
            "dark spots stand on a bright ground: this looks like a bright field or an inverted image, of which "
            "nothing here holds; give the annular dark field, with bright atoms" if inverted else "",
            *_host(identity),
            *_mixture(identity),
            *_scale(calibration),
            *(w for p, s in zip(posteriors, host.sublattices, strict=True) for w in _halves(p, brightness, imaging, s)),
            *(w for p in posteriors if not p.species for w in _alloy(p, brightness, imaging)),
            *_strange(claimed, posteriors),
            *_left_out(candidates),
            *_out_of_range(relaxed),
            *_jitter(rows, calibration),
            f"{spikes} pixels far brighter than all around them were replaced by the median there" if spikes else "",
            *_cut(cut),
        )
        if text
    )


def doubts(
    identity: Identity, posteriors: Sequence[SitePosterior], blind: Sequence[str], claimed: Sequence[Defect],
    chi2: float, inverted: bool,
) -> tuple[str, ...]:
    """Which of the warnings put in doubt what is said of the image as a whole, in one word each.

    host: which crystal it is; metal: which sublattice is the metal; lie: how the crystal lies; vacancies: whether
    there are single ones; unlike: much of the area is another crystal; misfit: the model leaves far more than noise;
    inverted: dark atoms.
    """
    kinds = {
        "inverted": inverted, "misfit": chi2 > LEFT_OVER, "host": _host_open(identity), "metal": _metal_open(identity),
        "lie": bool(identity.doubts), "vacancies": bool(blind), "unlike": bool(_strange(claimed, posteriors)),
    }  # fmt: skip
    return tuple(kind for kind, so in kinds.items() if so)


def apart(
    posteriors: Sequence[SitePosterior], brightness: Brightness, imaging: Imaging, sublattices: Sequence[str]
) -> dict[str, float]:
    """How many sigmas columns that lost one of two atoms are from full ones, by label; one posterior a sublattice."""
    each = zip(posteriors, sublattices, strict=True)
    return {
        h.label: can_tell_half(p, brightness, imaging, s)
        for p, s in each if len(p.site) for h in p.hypotheses if h.half_empty
    }  # fmt: skip


def blind_to(sigmas: Mapping[str, float]) -> tuple[str, ...]:
    """Labels that cannot be told from a full column one by one, so that their absence means nothing."""
    return tuple(label for label, sigma in sigmas.items() if sigma < SEPARATE)


def unexplained(chi2: float, host: str) -> tuple[str, ...]:
    """What a model that leaves far more than noise says of everything else.

    `chi2` is per pixel, of the whole field with its best candidates: 1.0 to 1.8 in micrographs of the listed crystals.
    """
    if not chi2 > LEFT_OVER:
        return ()
    return (
        f"the model leaves {math.sqrt(chi2):.1f} times the noise (reduced chi2 {chi2:.1f}): this is probably no "
        f"monolayer of {host}, and no name can be relied on; give the crystal with --host FILE.cif, or mask what is "
        "not of it",
    )


def _cut(cut: Cut) -> list[str]:
    """What is lost where pixels are saturated or were cut off in an export."""
    said = []
    if cut.bright:
        said.append(
            f"{100 * cut.bright:.2g} % of the pixels are saturated at the brightest value: columns there are brighter "
            "than they look, and heavier atoms among them are not seen; record with less gain, export without clipping"
        )
    if cut.dark:
        said.append(
            f"{100 * cut.dark:.2g} % of the pixels are cut off at the darkest value: noise and background in dark "
            "places are less than they were; export without clipping"
        )
    return said


def _strange(claimed: Sequence[Defect], posteriors: Sequence[SitePosterior]) -> list[str]:
    """Say so where much of what was analysed is not the crystal that it is taken for."""
    largest = max((len(d.sites) for d in claimed if d.type == "UNKNOWN"), default=0)
    judged = sum(len(p.site) for p in posteriors)
    if largest <= UNLIKE * judged:
        return []
    return [
        f"{largest} columns of one area are not as this crystal has them, where {judged} sites were judged: another "
        "crystal, stacking or a second layer; leave the area out with --mask or --roi, or name the crystal with --host"
    ]


def _mixture(identity: Identity) -> list[str]:
    """What a composition rests on."""
    if identity.alloy is None:
        return []
    parts = [
        ", ".join(f"{element} {100 * f:.0f} +- {max(100 * s, 1):.0f} %" for element, (f, s) in p.composition().items())
        + f" on {sublattice}"
        for sublattice, p in identity.alloy.populations.items()
    ]
    return [
        f"an alloy by the brightness of its columns ({'; '.join(parts)}): elements are read from brightness alone, "
        "structures of defects are relaxed as the majority host, and elsewhere structure files have its atoms"
    ]


def _alloy(posterior: SitePosterior, brightness: Brightness, imaging: Imaging) -> list[str]:
    """Say so where many columns of a sublattice are brighter than its majority: vacancies cannot do that."""
    if len(posterior.site) == 0:
        return []
    full = imaging.amplitudes[posterior.hypotheses[0].column].value
    value, sigma = brightness.value[posterior.site], brightness.sigma[posterior.site]
    share = float(np.mean((value > 1.25 * full) & (value - full > 2 * sigma)))
    if share < ALLOY_SHARE:
        return []
    return [
        f"{100 * share:.0f} % of the {posterior.hypotheses[0].column} columns are over a quarter brighter than most: "
        "an alloy, contamination or another host; what is said of single sites is relative to the majority"
    ]


def _out_of_range(relaxed: Sequence[Relaxed]) -> list[str]:
    kept = sorted({r.caution for r in relaxed if r.caution and r.relaxer == "keep"})
    reasons = sorted({r.caution for r in relaxed if r.caution and r.relaxer != "keep"})
    if not reasons:
        return kept
    more = f" and {len(reasons) - 2} more" if len(reasons) > 2 else ""
    return [*kept, f"the network relaxed candidates outside its training range: {'; '.join(reasons[:2])}{more}"]


def _left_out(candidates: Sequence[Candidate]) -> list[str]:
    """Say which defects have more structures than were compared with the image."""
    possible = {c.defect: c.possible for c in candidates}
    compared = Counter(c.defect for c in candidates)
    cut = [n for n in possible if possible[n] > compared[n]]
    if not cut:
        return []
    each = ", ".join(f"{possible[n] - compared[n]} of {possible[n]} of defect {n}" for n in cut[:3])
    more = f", and some of {len(cut) - 3} more defects" if len(cut) > 3 else ""
    return [f"the least probable structures were not compared with the image: {each}{more}"]


def _jitter(rows: RowOffsets, calibration: Calibration) -> list[str]:
    if rows.jitter_px == 0.0:
        return []
    known = rows.sigma_px[np.isfinite(rows.sigma_px)]
    if rows.jitter_px < float(np.median(known)):
        return []
    pm = 100 * calibration.pixel_size_A
    return [
        f"rows jitter by {rows.jitter_px * pm:.1f} pm rms along x, measured to {float(np.median(known)) * pm:.1f} pm a "
        "row; columns were fitted without it, and moved back by the mean of their rows"
    ]


def _host(identity: Identity) -> list[str]:
    said = []
    if _host_open(identity):
        others = ", ".join(f"{n} {p:.2f}" for n, p in identity.alternatives[:3] if p > 0.01)
        said.append(
            f"the host cannot be told from this image: {identity.host.name} {identity.probability:.2f}, {others}; "
            "state it with --host: labels, pixel size and brightness of foreign atoms depend on it"
        )
    if _metal_open(identity):
        said.append(
            f"which sublattice is the metal is uncertain (probability {identity.metal_probability:.2f}): "
            "state --voltage and --detector"
        )
    return [*said, *identity.doubts]


def _host_open(identity: Identity) -> bool:
    return identity.source == "inferred" and identity.probability < SURE


def _metal_open(identity: Identity) -> bool:
    return identity.metal_probability < SURE and len(set(identity.host.columns)) > 1


def _scale(calibration: Calibration) -> list[str]:
    lattice = calibration.lattice_pixel_size_A
    if calibration.source == "user":
        stated, whose, used = calibration.pixel_size_A, "the stated pixel size", "the stated one"
    else:
        stated, whose, used = calibration.metadata_pixel_size_A or lattice, "the file's pixel size", "which"
    if abs(np.log(lattice / stated)) < SCALE_TOLERANCE:
        return []
    off = 100 * (stated / lattice - 1)
    return [
        f"{whose}, {stated:.5g} A, is {abs(off):.1f} % too {'large' if off > 0 else 'small'}: "
        f"the lattice gives {lattice:.5g} A, {used} is used"
        + ("; structures keep the scale of the lattice" if calibration.source == "user" else "")
    ]


def _halves(posterior: SitePosterior, brightness: Brightness, imaging: Imaging, sublattice: str) -> list[str]:
    half = next((h for h in posterior.hypotheses if h.half_empty), None)
    if half is None:
        return []
    apart = can_tell_half(posterior, brightness, imaging, sublattice)
    if not apart < SEPARATE:  # or not known
        return []
    return [
        f"single vacancies cannot be told from full columns one by one here: {half.label} is {apart:.1f} sigma from a "
        "full column (noise and scatter of these columns); that none is claimed is no proof of their absence"
    ]
