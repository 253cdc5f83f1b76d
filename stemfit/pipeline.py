"""From an image to its defects: the whole method on one page, in the order of the data."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from definet.predict import resolve_device
from stemfit import columns as column
from stemfit import warn
from stemfit.calibrate import calibrate
from stemfit.candidate_alloys import mixtures_of, propose_in
from stemfit.clipping import cut_of
from stemfit.columns import Columns
from stemfit.crystal_file import asked_host
from stemfit.defects import (
    Defect,
    Evidence,
    find_defects,
    label_rates,
    occupancies,
    offsets,
    otherwise,
    with_grain,
    with_learned_halves,
    with_naming_doubt,
)
from stemfit.imaging import fit_imaging
from stemfit.lattice import Look, Optics, RowOffsets, SiteMap, outside, read_crystal
from stemfit.mask_file import read_mask
from stemfit.micrograph import Micrograph
from stemfit.relax import Relaxer
from stemfit.result import Analysis, HostCall
from stemfit.score import rank, with_energies, with_structure_of_label
from stemfit.simulate.field import whole_field
from stemfit.spikes import despiked
from stemfit.units import units_of


@dataclass(frozen=True)
class Settings:
    """What the user may say; None where the image should tell.

    Attributes
    ----------
    host : str
        "auto", a host's name, or the path of a CIF.
    pixel_size_A : float or None
        Wins over the lattice.
    voltage_kV, convergence_mrad : float or None
    detector_mrad : (inner, outer) or None
    roi : (x0, y0, x1, y1) or None
        px; x1, y1 exclusive.
    mask : str or None
        File whose non-zero pixels are not analysed.
    device : str
        "auto", "cpu", "cuda".
    max_candidates : int
        Per defect.
    temperature_K : float or None
        At which relaxation energies weigh structures of one name; None: they do not.
    """

    host: str = "auto"
    pixel_size_A: float | None = None
    voltage_kV: float | None = None
    convergence_mrad: float | None = None
    detector_mrad: tuple[float, float] | None = None
    roi: tuple[int, int, int, int] | None = None
    mask: str | None = None
    device: str = "auto"
    max_candidates: int = 24
    temperature_K: float | None = None


def analyze(
    micrograph: Micrograph, settings: Settings, relaxer: Relaxer, *,
    progress: Callable[[str], None] = lambda stage: None,
) -> Analysis:
    """Find the defects of an image and the structures behind them.

    Parameters
    ----------
    micrograph : Micrograph
    settings : Settings
    relaxer : Relaxer
        From `stemfit.relax.relaxer`.
    progress : callable, optional
        Called with the name of each stage as it begins.

    Raises
    ------
    NotAnalysable
        If the image shows no columns or no lattice.
    """
    cut = cut_of(micrograph.image)
    image, spikes = despiked(micrograph.image)
    units, optics = units_of(image), (settings.voltage_kV, settings.detector_mrad)
    image = units.off(image)
    device = str(resolve_device(settings.device))
    clock = _Clock(progress)
    asked = asked_host(settings.host)
    masked = None if settings.mask is None else read_mask(Path(settings.mask), (image.shape[0], image.shape[1]))
    with clock("columns"):
        seen = column.find(image, calibrate=False, device=device)
    with clock("lattice"):
        known = Optics(*optics, micrograph.pixel_size_A, settings.pixel_size_A is not None)
        whole, identity, lattice, sites = read_crystal(image, seen, asked, known, Look(device, masked))
        image, rows, seen, _, _, brightness, regions, region_map = whole
        host = identity.host
        calibration = calibrate(lattice, host, micrograph, settings.pixel_size_A, identity.alternatives)
    with clock("imaging"):
        mixtures = {} if identity.alloy is None else identity.alloy.populations
        imaging = fit_imaging(seen, sites, brightness, host, *optics, mixtures)
    with clock("defects"):
        if settings.roi is not None:
            regions, region_map, sites = outside(settings.roi, regions, region_map, sites)
        grainy, dirt = seen, frozenset[int]()
        if host.honeycomb:
            grainy, brightness, dirt = with_grain(seen, brightness, sites, lattice, image, (regions, region_map))
        posteriors = occupancies(sites, brightness, imaging, host, offsets(seen, sites))
        measured = Evidence(grainy, sites, posteriors, lattice, host, region_map, imaging, image, regions, dirt)
        found, suspects = find_defects(measured)
    with clock("candidates"):
        rates, imaging = label_rates(posteriors), with_learned_halves(imaging, posteriors)
        mixed = mixtures_of(posteriors, host, mixtures)
        candidates = tuple(
            c for d in found for c in propose_in(d, host, lattice, sites, rates, mixed, settings.max_candidates)
        )
    with clock("relax"):
        relaxed = tuple(relaxer(candidates))
        candidates = with_energies(candidates, relaxed, settings.temperature_K)
    with clock("score"):
        ranking = rank(
            found, candidates, relaxed, image, seen, imaging, lattice, sites, brightness, rates["UNKNOWN"]
        )
    with clock("names"):
        names = otherwise(identity, seen, sites, brightness, *optics)
        claimed, suspects = (
            tuple(
                with_structure_of_label(now, then, candidates, ranking.scores)
                for now, then in zip(with_naming_doubt(some, found, identity, names, measured), some, strict=True)
            )
            for some in (ranking.claimed, ranking.doubted + suspects)
        )
    with clock("simulate"):
        drawn = whole_field(sites, imaging, host, lattice, claimed, candidates, relaxed, brightness)
        simulated = np.where(region_map > 0, np.nan, units.on(rows.jittered(drawn)))
    seen, sites, claimed, suspects = _as_scanned(rows, seen, sites, claimed, suspects)
    fractions = {s: p.composition() for s, p in mixtures.items()} or None
    call = HostCall(host, identity.source, identity.probability, identity.alternatives, fractions)
    return Analysis(
        micrograph, units.columns(seen), call, calibration, lattice, sites, regions, region_map, units.imaging(imaging),
        claimed, suspects, candidates, relaxed, ranking.scores, simulated,
        warn.collect(
            identity, calibration, posteriors, brightness, imaging, candidates, relaxed, rows, spikes, claimed, cut
        ),
        asdict(settings), _environment(), clock.seconds, tuple(p for p in posteriors if p.species),
    )


def _as_scanned(
    rows: RowOffsets, columns: Columns, sites: SiteMap, *defects: tuple[Defect, ...]
) -> tuple[Columns, SiteMap, tuple[Defect, ...], tuple[Defect, ...]]:
    """Positions in the image as it was scanned, with the jitter of its rows."""
    columns = replace(columns, xy_px=rows.in_image(columns.xy_px))
    sites = replace(sites, xy_px=rows.in_image(sites.xy_px))
    claimed, suspects = (
        tuple(
            replace(d, center_px=rows.in_image(d.center_px[None])[0], extent_px=rows.in_image(d.extent_px)) for d in of
        )
        for of in defects
    )
    return columns, sites, claimed, suspects


class _Clock:
    """Times stages and announces them."""

    def __init__(self, progress: Callable[[str], None]) -> None:
        self.progress = progress
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self.progress(stage)
        start = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - start


def _environment() -> dict[str, str]:
    packages = ("numpy", "scipy", "torch", "pymatgen", "e3nn")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
