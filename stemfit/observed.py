"""One image as far as it is read before anyone asks for the atoms behind it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from definet.predict import resolve_device
from stemfit import columns as column
from stemfit.calibrate import Calibration, calibrate
from stemfit.clipping import Cut, cut_of
from stemfit.columns import Columns
from stemfit.crystal_file import asked_host
from stemfit.defects import (
    Defect,
    Evidence,
    SitePosterior,
    find_defects,
    label_rates,
    occupancies,
    offsets,
    with_grain,
    with_learned_halves,
)
from stemfit.imaging import Imaging, fit_imaging
from stemfit.lattice import (
    Brightness,
    Identity,
    Lattice,
    Look,
    Optics,
    Populations,
    Region,
    RowOffsets,
    SiteMap,
    outside,
    read_crystal,
)
from stemfit.mask_file import read_mask
from stemfit.micrograph import Micrograph
from stemfit.spikes import despiked
from stemfit.units import Units, units_of

FloatArray = NDArray[np.float64]


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
    simulator : str
        "fast", or "multislice" for the brightness of the columns of the best candidates.
    from_file : tuple of str
        Names of the values above that the file states, and not the user: see `stemfit.stated`.
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
    simulator: str = "fast"
    from_file: tuple[str, ...] = ()


class Observed(NamedTuple):
    """One image as far as it is read before anyone asks for the atoms behind it; images without the jitter of rows."""

    micrograph: Micrograph
    image: FloatArray
    units: Units
    rows: RowOffsets
    spikes: int
    cut: Cut
    columns: Columns
    brightness: Brightness
    regions: tuple[Region, ...]
    region_map: NDArray[np.uint8]
    identity: Identity
    lattice: Lattice
    sites: SiteMap
    calibration: Calibration
    mixtures: Mapping[str, Populations]
    imaging: Imaging
    posteriors: Sequence[SitePosterior]
    measured: Evidence
    found: tuple[Defect, ...]
    suspects: tuple[Defect, ...]
    rates: Mapping[str, float]


def observe(micrograph: Micrograph, settings: Settings, clock: Clock) -> Observed:
    """Read the crystal, what the microscope did, and which sites are not as the crystal has them.

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
        imaging = fit_imaging(seen, sites, brightness, host, *optics, mixtures, settings.convergence_mrad)
    with clock("defects"):
        if settings.roi is not None:
            regions, region_map, sites = outside(settings.roi, regions, region_map, sites)
        grainy, dirt = seen, frozenset[int]()
        if host.honeycomb:
            grainy, brightness, dirt = with_grain(seen, brightness, sites, lattice, image, (regions, region_map))
        posteriors = occupancies(sites, brightness, imaging, host, offsets(seen, sites))
        measured = Evidence(grainy, sites, posteriors, lattice, host, region_map, imaging, image, regions, dirt)
        found, suspects = find_defects(measured)
        rates, imaging = label_rates(posteriors), with_learned_halves(imaging, posteriors)
    return Observed(
        micrograph, image, units, rows, spikes, cut, seen, brightness, regions, region_map, identity, lattice, sites,
        calibration, mixtures, imaging, posteriors, measured, found, suspects, rates,
    )


class Clock:
    """Times stages and announces them."""

    def __init__(self, progress: Callable[[str], None]) -> None:
        self.progress = progress
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time what is done inside."""
        self.progress(stage)
        start = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - start
