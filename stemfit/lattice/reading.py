"""Which crystal an image shows and where it lies, sites by name: a honeycomb, or a crystal of any other cell."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stemfit.columns import Columns
from stemfit.columns.resample import averaged
from stemfit.errors import NotAnalysable
from stemfit.hosts import INFERABLE, ProjectedHost, projected
from stemfit.lattice.alloy import find_alloy
from stemfit.lattice.cell import Grid, fit_grid
from stemfit.lattice.factors import MISFIT
from stemfit.lattice.identify import (
    ODD,
    ODD_LAYERS,
    UNLISTED,
    USER_SCALE,
    Identity,
    identify,
    name_lattice,
    name_sites,
    scale_evidence,
)
from stemfit.lattice.motif import contrast_of, stretch_evidence
from stemfit.lattice.pattern import PatternFit, coarse_bins, fit_pattern
from stemfit.lattice.survey import Survey, survey
from stemfit.lattice.types import Lattice, SiteMap, deformation

FloatArray = NDArray[np.float64]

SUSPICIOUS = 1.1
"""Anisotropy from which a honeycomb may be black phosphorus, whose strongest spots make one stretched by 1.31."""

FITS = 0.85
"""Share of the lattice's contrast that a crystal nobody named must explain."""

STRETCHED = 1.2
"""Anisotropy beyond what real scans reach (1.19)."""

RESOLVED = 0.2
"""Share of the sites that must show a column: in the host with the faintest chalcogen half of them always do."""

TOUCHING = 1.5
"""Distance of neighbouring columns, in their widths, below which light cannot be shared out between them."""


class Optics(NamedTuple):
    """What is known of the microscope and the scale; None where unknown."""

    voltage_kV: float | None = None
    detector_mrad: tuple[float, float] | None = None
    stated_pixel_A: float | None = None
    stated_by_user: bool = False


class Look(NamedTuple):
    """How to look.

    Attributes
    ----------
    device : str
        Of torch.
    masked : (H, W) bool array or None
        What the user does not want to be analysed.
    """

    device: str = "cpu"
    masked: NDArray[np.bool_] | None = None


class Reading(NamedTuple):
    """The crystal in an image, with a name."""

    survey: Survey
    identity: Identity
    lattice: Lattice
    sites: SiteMap


def read_crystal(
    image: FloatArray, seen: Columns, asked: ProjectedHost | None, optics: Optics, look: Look
) -> Reading:
    """Fit the lattice of the host that was asked for, or of the most likely one, and name its sites.

    Parameters
    ----------
    image : (H, W) array
    seen : Columns
        As found without a lattice.
    asked : ProjectedHost or None
        None where the image should tell.
    optics : Optics
    look : Look

    Raises
    ------
    NotAnalysable
        If there is no such lattice.
    """
    if asked is not None and not asked.honeycomb:
        fit = fit_pattern(image, seen, asked, *optics[:2], look.device)
        return _of_pattern(image, fit, Identity(fit.host, "user", 1.0, (), 0, 1.0), look)
    if asked is not None:
        return _of_honeycomb(image, seen, asked, optics, look)
    grid = _any_honeycomb(image, seen)
    if isinstance(grid, Grid) and _stretch(grid) < SUSPICIOUS:
        return _of_honeycomb(image, seen, "auto", optics, look, grid)
    return _rectangular_or(grid, image, seen, optics, look)


# -- honeycombs ----------------------------------------------------------------------------------------------------


def _of_honeycomb(
    image: FloatArray, seen: Columns, asked: ProjectedHost | str, optics: Optics, look: Look, grid: Grid | None = None
) -> Reading:
    found = survey(image, seen, look.device, grid, look.masked)
    _resolved(found)
    odd = ODD_LAYERS if any(region.kind in ("second-layer", "step") for region in found.regions) else ODD
    identity = identify(found.sites, found.brightness, found.grid.a_px_iso, asked=asked, odd=odd, **optics._asdict())
    sure = (identity.metal_probability, 1 - identity.metal_probability)
    alloy = find_alloy(
        found.sites, found.brightness, sure if identity.metal_third == 0 else sure[::-1],
        asked if isinstance(asked, ProjectedHost) else None, optics.voltage_kV, optics.detector_mrad,
        lambda a_A: scale_evidence(a_A / found.grid.a_px_iso, optics.stated_pixel_A, optics.stated_by_user),
    )
    identity = identity if alloy is None else identity.of_alloy(alloy, odd)
    lattice = name_lattice(found.grid, identity.metal_third)
    return Reading(found, identity, lattice, name_sites(found.sites, identity.host, identity.metal_third))


def _resolved(found: Survey) -> None:
    """Refuse to speak of single columns where hardly any is seen."""
    inside = found.sites.inside
    shown = float(np.mean(found.sites.column[inside] >= 0)) if inside.any() else 0.0
    if shown < RESOLVED:
        raise NotAnalysable(
            f"a lattice of {found.grid.a_px_iso:.1f} px, but single columns drown in the noise: {100 * shown:.0f} % of "
            f"the {inside.sum()} sites show one",
            remedy="average more frames, or bin the image",
        )


def _any_honeycomb(image: FloatArray, seen: Columns) -> Grid | NotAnalysable:
    try:
        return fit_grid(image, seen)
    except NotAnalysable as problem:
        return problem


def _honeycomb_contrast(image: FloatArray, seen: Columns, grid: Grid) -> float:
    """What repeats with the honeycomb's cell, on the pixels that `fit_pattern` uses."""
    bins = coarse_bins(seen)
    g = bins * np.linalg.inv(np.column_stack([grid.a_px, grid.b_px]))
    return contrast_of(averaged(image, bins) if bins > 1 else image, g, seen.profile.width_px / bins)


def _stretch(grid: Grid) -> float:
    stretch = np.linalg.svd(deformation(grid.a_px, grid.b_px), compute_uv=False)
    return float(stretch[0] / stretch[1])


# -- other crystals ------------------------------------------------------------------------------------------------


def _of_pattern(image: FloatArray, fit: PatternFit, identity: Identity, look: Look) -> Reading:
    found = survey(image, fit.columns, look.device, fit.grid, look.masked)
    grid, sites = found.grid, found.sites
    lattice = Lattice(
        grid.a_px, grid.b_px, grid.origin_px, fit.polarity, grid.covariance, grid.distortion_px, grid.shape_px,
        grid.residual_rms_px, grid.cell,
    )
    names = np.array(fit.host.sublattices)[sites.third]
    named = SiteMap(sites.ij, names, sites.xy_px, sites.column, sites.inside)
    doubts = (*identity.doubts, *_doubts(fit, lattice))
    return Reading(found, identity._replace(doubts=doubts), lattice, named)


def _doubts(fit: PatternFit, lattice: Lattice) -> list[str]:
    said = []
    if fit.undecided:
        said.append(
            f"{fit.host.name} may lie in {fit.undecided} other way{'s' if fit.undecided > 1 else ''} (turned, or seen "
            "from below) that this image does not rule out: names of sublattices and cell indices depend on it"
        )
    if lattice.anisotropy > STRETCHED:
        said.append(
            f"the scan would be stretched by {lattice.anisotropy:.2f} if this were {fit.host.name}; real ones reach "
            f"{STRETCHED}: check the host"
        )
    apart = lattice.nearest_px / fit.columns.profile.width_px
    if apart < TOUCHING:
        said.append(
            f"neighbouring columns lie {apart:.1f} column widths apart: what is said of one of them holds for the pair"
        )
    return said


def _rectangular_or(
    grid: Grid | NotAnalysable, image: FloatArray, seen: Columns, optics: Optics, look: Look
) -> Reading:
    """Weigh black phosphorus against a stretched honeycomb, and against a crystal that is not in the list."""
    try:
        fit = fit_pattern(image, seen, projected("blackP"), *optics[:2], look.device)
    except NotAnalysable:
        fit = None
    if fit is None or fit.explained < FITS:
        if isinstance(grid, Grid):
            return _of_honeycomb(image, seen, "auto", optics, look, grid)
        raise _unlisted(str(grid.args[0]))
    p = _weighed(fit, grid, image, seen, optics)
    best = max(p, key=lambda name: p[name])
    if best == "unlisted":
        raise _unlisted(f"neither a honeycomb (P = {p.get('honeycomb', 0.0):.2g}) nor black phosphorus "
                        f"(P = {p['blackP']:.2g})")
    others = tuple((n, q) for n, q in sorted(p.items(), key=lambda item: -item[1]) if n != best)
    if best == "blackP" or not isinstance(grid, Grid):
        return _of_pattern(image, fit, Identity(fit.host, "inferred", p["blackP"], others, 0, 1.0), look)
    found = _of_honeycomb(image, seen, "auto", optics, look, grid)
    return found._replace(identity=found.identity.shared(p[best], others))


def _weighed(
    fit: PatternFit, grid: Grid | NotAnalysable, image: FloatArray, seen: Columns, optics: Optics
) -> dict[str, float]:
    """Probability of black phosphorus, of a stretched honeycomb, and of a crystal that is not in the list."""

    def scale(host: ProjectedHost, a_px: float) -> float:
        """Against any lattice constant, within a factor of e."""
        sharp = -np.log(USER_SCALE) if optics.stated_by_user and optics.stated_pixel_A is not None else 0.0
        return scale_evidence(host.a_A / a_px, optics.stated_pixel_A, optics.stated_by_user) + float(sharp)

    explained = (fit.explained - 1) / MISFIT + stretch_evidence(fit.stretch)
    evidence = {
        "blackP": explained + scale(fit.host, fit.grid.a_px_iso) + fit.host.log_prior,
        "unlisted": float(np.log(UNLISTED)),
    }
    if isinstance(grid, Grid):
        share = min(1.0, _honeycomb_contrast(image, seen, grid) / fit.power)
        size = max(scale(projected(name), grid.a_px_iso) for name in INFERABLE)
        evidence["honeycomb"] = (share - 1) / MISFIT + stretch_evidence(_stretch(grid)) + size
    top = max(evidence.values())
    weight = {name: float(np.exp(value - top)) for name, value in evidence.items()}
    return {name: w / sum(weight.values()) for name, w in weight.items()}


def _unlisted(problem: str) -> NotAnalysable:
    remedy = (
        "name the crystal with --host FILE.cif, or give an atomic-resolution dark-field image (bright atoms) of a "
        "hexagonal 2D crystal"
    )
    return NotAnalysable(problem, remedy=remedy)
