"""What an image says as a whole: how often each label is there, and of columns that lost one of their two atoms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from stemfit.defects.occupancy import SitePosterior, separation
from stemfit.imaging import Imaging
from stemfit.lattice import Brightness


def can_tell_half(posterior: SitePosterior, brightness: Brightness, imaging: Imaging, sublattice: str) -> float:
    """Distance between full and half columns over their combined spread, median over sites."""
    full = imaging.amplitudes[posterior.hypotheses[0].column]
    return separation(posterior.half, full, brightness.sigma[posterior.site], imaging.rms_scatter(sublattice))


def with_learned_halves(imaging: Imaging, posteriors: Sequence[SitePosterior]) -> Imaging:
    """Imaging whose half-empty columns are as bright, and as much alike, as this image shows them.

    Where lighter atoms mix with the host's, dim columns may be theirs: these teach nothing of half-empty ones.
    """
    asked = {p.hypotheses[1].column: p for p in posteriors if p.half is not None and not p.as_dim}
    learned = {column: p.half for column, p in asked.items() if p.half is not None}
    return replace(
        imaging, amplitudes={**imaging.amplitudes, **learned},
        half_errors={column: p.half_error for column, p in asked.items()},
    )


def label_rates(posteriors: Sequence[SitePosterior]) -> dict[str, float]:
    """Share of sites that carry each label in this image."""
    return {h.label: float(r) for p in posteriors for h, r in zip(p.hypotheses, p.rate, strict=True)}
