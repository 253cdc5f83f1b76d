"""Which of the microscope's settings that a file states are used: where the user states none, and where they can be.

A detector chooses the brightness that columns are compared with, so that a wrong one is worse than none.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from stemfit.errors import UsageError
from stemfit.optics.scattering import TYPICAL_CONVERGENCE_MRAD, TYPICAL_DETECTOR_MRAD, TYPICAL_VOLTAGE_KV
from stemfit.optics.transfer import check, table

if TYPE_CHECKING:
    from stemfit.micrograph import Micrograph
    from stemfit.observed import Settings

Ring = tuple[float, float]

SHARE_BEYOND = 0.5
"""Of a detector's inner angle to the last of the table, up to which an outer angle beyond the table is cut back to it.
The ratios of columns then err by 2 % where the detector ends at 300 mrad, and by 4 % at 400 mrad, most for light atoms
beside heavy ones at 60 kV: by no more than the model itself (`stemfit.optics.scattering.ATOM_SIGMA`)."""


def as_stated(settings: Settings, micrograph: Micrograph) -> tuple[Settings, tuple[str, ...]]:
    """Settings with what the file states where the user states nothing, and what to tell of the reading.

    What contradicts the user, or cannot have made a dark-field image that the table of brightness knows, is told and
    left out.
    """
    voltage, doubts = _voltage(settings.voltage_kV, micrograph.stated_voltage_kV)
    convergence, more = _convergence(
        settings.convergence_mrad, micrograph.stated_convergence_mrad, settings.detector_mrad
    )
    disc = settings.convergence_mrad or max(
        micrograph.stated_convergence_mrad or 0.0, convergence or TYPICAL_CONVERGENCE_MRAD
    )
    detector, most = _detector(settings.detector_mrad, micrograph.stated_detector_mrad, disc)
    used = replace(settings, voltage_kV=voltage, convergence_mrad=convergence, detector_mrad=detector)
    names = ("voltage_kV", "convergence_mrad", "detector_mrad")
    taken = tuple(n for n in names if getattr(settings, n) is None and getattr(used, n) is not None)
    told = (*micrograph.warnings, *_said(used, taken), *_refused([*doubts, *more, *most]))
    return replace(used, from_file=taken), told


def _voltage(asked: float | None, stated: float | None) -> tuple[float | None, list[str]]:
    if asked is not None or stated is None:
        return asked, []
    doubt = _outside(stated, TYPICAL_CONVERGENCE_MRAD, TYPICAL_DETECTOR_MRAD)
    return (None, [doubt]) if doubt else (stated, [])


def _convergence(asked: float | None, stated: float | None, detector: Ring | None) -> tuple[float | None, list[str]]:
    if asked is not None or stated is None:
        return asked, []
    doubt = _outside(TYPICAL_VOLTAGE_KV, stated, TYPICAL_DETECTOR_MRAD)
    if not doubt and detector is not None and stated > detector[0]:
        doubt = f"convergence {stated:.4g} mrad reaches into the detector, {detector[0]:g} to {detector[1]:g} mrad"
    return (None, [doubt]) if doubt else (stated, [])


def _detector(asked: Ring | None, stated: Ring | None, disc_mrad: float) -> tuple[Ring | None, list[str]]:
    """`disc_mrad` is the radius of the bright field."""
    if asked is not None or stated is None:
        return asked, []
    inner, outer = stated
    last = float(table().rings_mrad[-1])
    if inner < disc_mrad:
        where = f"begins inside the bright field of {disc_mrad:.4g} mrad"
        return None, [f"detector {inner:.4g} to {outer:.4g} mrad {where}"]
    cut = outer > last and inner <= SHARE_BEYOND * last
    used = (inner, last if cut else outer)
    doubt = _outside(TYPICAL_VOLTAGE_KV, TYPICAL_CONVERGENCE_MRAD, used)
    beyond = [f"detector from {last:g} to {outer:.4g} mrad is outside the table of brightness"] * cut
    return (None, [doubt]) if doubt else (used, beyond)


def _outside(voltage: float, convergence: float, detector: Ring) -> str:
    """Why the table of brightness does not know it, empty if it does."""
    try:
        check(voltage, convergence, detector)
    except UsageError as error:
        return str(error.args[0])
    return ""


def _words(settings: Settings) -> dict[str, str]:
    """What is used, by option."""
    words = {}
    if settings.voltage_kV is not None:
        words["voltage"] = f"{settings.voltage_kV:.4g} kV"
    if settings.convergence_mrad is not None:
        words["convergence"] = f"{settings.convergence_mrad:.4g} mrad"
    if settings.detector_mrad is not None:
        words["detector"] = f"{settings.detector_mrad[0]:.4g} to {settings.detector_mrad[1]:.4g} mrad"
    return words


def _said(used: Settings, taken: tuple[str, ...]) -> list[str]:
    names = [name.rsplit("_", 1)[0] for name in taken]
    if not names:
        return []
    words = _words(used)
    what = _and([f"the {name}, {words[name]}" for name in names])
    are = "is what the file states" if len(names) == 1 else "are what the file states"
    return [f"{what}, {are}; {_and([f'--{name}' for name in names])} for {'another' if len(names) == 1 else 'others'}"]


def _refused(doubts: list[str]) -> list[str]:
    return [f"not used of what the file states: {'; '.join(doubts)}"] if doubts else []


def _and(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
