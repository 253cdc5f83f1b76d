"""The stages up to the defects, run once on images whose truth is known, to import by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stemfit.columns import Columns, Noise, Profile, find
from stemfit.defects import Defect, Evidence, SitePosterior, find_defects, label_rates, occupancy, offsets
from stemfit.hosts import ProjectedHost, projected
from stemfit.imaging import Imaging, fit_imaging
from stemfit.lattice import (
    Brightness,
    Grid,
    Honeycomb,
    Identity,
    Lattice,
    Region,
    SiteMap,
    identify,
    name_lattice,
    name_sites,
    survey,
)
from stemfit.synthetic import Acquisition, Crystal, TrueDefect, crystal, record, render

FloatArray = NDArray[np.float64]
Site = tuple[int, int, str]

SHAPE = (200, 220)
PIXEL_A = 0.16
"""About 19.8 px per lattice constant: ten cells a side, columns of 2.8 px."""


class Chain(NamedTuple):
    """What every stage said."""

    image: FloatArray
    truth: Crystal
    columns: Columns
    grid: Grid
    regions: tuple[Region, ...]
    region_map: NDArray[np.uint8]
    honey: Honeycomb
    brightness: Brightness
    identity: Identity
    lattice: Lattice
    sites: SiteMap
    host: ProjectedHost
    imaging: Imaging
    posteriors: list[SitePosterior]
    found: tuple[Defect, ...]
    suspects: tuple[Defect, ...]

    @property
    def evidence(self) -> Evidence:
        """As `find_defects` was asked."""
        return Evidence(
            self.columns, self.sites, tuple(self.posteriors), self.lattice, self.host, self.region_map, self.imaging,
            self.image, self.regions,
        )

    @property
    def rates(self) -> dict[str, float]:
        return label_rates(self.posteriors)


def row_of(columns: object, site: Site) -> int:
    """Row of a site in the truth or in a SiteMap."""
    here = (columns.ij == site[:2]).all(1) & (columns.sublattice == site[2])  # type: ignore[attr-defined]
    return int(np.flatnonzero(here)[0])


def redrawn(
    sample: Crystal, share: Mapping[Site, float], moved: Mapping[Site, Sequence[float]] | None = None,
    added: Sequence[tuple[float, float, float]] = (), defects: Sequence[TrueDefect] = (),
) -> Crystal:
    """Change single columns of a noise-free crystal.

    Parameters
    ----------
    share : brightness of a site relative to what it has
    moved : displacement of a site, px
    added : (x, y, brightness relative to a metal column that peaks at 1) of columns beside the lattice
    """
    xy, value = sample.columns.xy_px.copy(), sample.columns.intensity.copy()
    for site, factor in share.items():
        value[row_of(sample.columns, site)] *= factor
    for site, step in (moved or {}).items():
        xy[row_of(sample.columns, site)] += step
    shape = (sample.image.shape[0], sample.image.shape[1])
    extra = np.array(added, dtype=float).reshape(-1, 3)
    image = sample.image - render(sample.columns.xy_px, sample.columns.intensity, sample.profile, shape)
    image = image + render(xy, value, sample.profile, shape)
    image = image + render(extra[:, :2], extra[:, 2] / sample.profile.peak(), sample.profile, shape)
    columns = replace(sample.columns, xy_px=xy, intensity=value)
    return replace(sample, image=np.maximum(image, 0.0), columns=columns, defects=(*sample.defects, *defects))


def planted(truth: Crystal, noise_px: float, seed: int = 0, background: float = 0.0) -> Columns:
    """The true occupied columns, as if found with an error of `noise_px` per axis: no stage needed before."""
    rng = np.random.default_rng(seed)
    there = truth.columns.intensity > 0
    xy = truth.columns.xy_px[there]
    cov = np.tile(np.diag([max(noise_px, 1e-3) ** 2] * 2 + [1.0]), (len(xy), 1, 1))
    width = truth.profile.core_sigma_px
    profile = Profile(np.eye(2) * width**2, truth.profile.tail_sigma_px, truth.profile.tail_fraction)
    flat = np.full(truth.image.shape, background)
    xy = xy + rng.normal(0, noise_px, xy.shape)
    return Columns(xy, truth.columns.intensity[there], cov, profile, flat, truth.image, Noise(1.0, 0.0, 0.0, 1.0))


def true_brightness(truth: Crystal, sites: Honeycomb, relative_sigma: float = 0.01) -> Brightness:
    """The true brightness of every site, by nearest true site."""
    near = np.linalg.norm(sites.xy_px[:, None] - truth.columns.xy_px[None], axis=2).argmin(1)
    sigma = np.full(len(near), relative_sigma * np.median(truth.columns.intensity))
    return Brightness(truth.columns.intensity[near], sigma)


def named(truth: Crystal, grid: Grid) -> tuple[Lattice, int]:
    """The lattice with the sublattices named as in the truth."""
    candidates = [name_lattice(grid, third) for third in (0, 1)]
    metals = truth.columns.xy_px[truth.columns.sublattice == "M"]
    off = [_distance_to_sites(lattice, metals) for lattice in candidates]
    return candidates[int(np.argmin(off))], int(np.argmin(off))


def _distance_to_sites(lattice: Lattice, xy: FloatArray) -> float:
    cell = np.column_stack([lattice.a_px, lattice.b_px])
    index = np.linalg.solve(cell, (xy - lattice.origin_px).T).T
    return float(np.median(np.linalg.norm((index - np.rint(index)) @ cell.T, axis=1)))


def run(truth: Crystal, image: FloatArray, host: str, asked: str = "", fitted: Columns | None = None) -> Chain:
    """Columns to defects in the order of the pipeline; `host` names the labels, `asked` is what identify is told."""
    seen = find(image) if fitted is None else fitted
    image, _, seen, grid, honey, brightness, regions, region_map = survey(image, seen)
    identity = identify(honey, brightness, grid.a_px_iso, asked=asked or host)
    lattice = name_lattice(grid, identity.metal_third)
    crystal_host = projected(host)
    sites = name_sites(honey, crystal_host, identity.metal_third)
    imaging = fit_imaging(seen, sites, brightness, crystal_host, None, None)
    placed = offsets(seen, sites)
    posteriors = [occupancy(sites, brightness, imaging, crystal_host, s, placed) for s in crystal_host.sublattices]
    measured = Evidence(seen, sites, tuple(posteriors), lattice, crystal_host, region_map, imaging, image, regions)
    found, suspects = find_defects(measured)
    return Chain(
        image, truth, seen, grid, regions, region_map, honey, brightness, identity, lattice, sites, crystal_host,
        imaging, posteriors, found, suspects,
    )


def taken(sample: Crystal, counts: float = 100.0, seed: int = 1, **how: float) -> tuple[FloatArray, Crystal]:
    """Record a crystal with Poisson counts and a weak background."""
    recording, truth = record(sample, Acquisition(counts=counts, background=0.05, **how), seed)  # type: ignore[arg-type]
    return np.asarray(recording.image, dtype=float), truth


@cache
def pristine() -> Chain:
    """MoS2 without a defect."""
    image, truth = taken(crystal(SHAPE, pixel_size_A=PIXEL_A, rotation_deg=8.6, seed=4))
    return run(truth, image, "MoS2")


@cache
def vacancies() -> Chain:
    """MoS2 of negative polarity with three V_S (0.42 of a pair is left), one V_S2 and one V_Mo."""
    sample = crystal(
        (240, 260), pixel_size_A=PIXEL_A, rotation_deg=41.3, polarity=-1, half_share=0.42, halved=3, removed=1,
        removed_metals=1, seed=1,
    )
    image, truth = taken(sample)
    return run(truth, image, "MoS2")
