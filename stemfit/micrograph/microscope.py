"""What a file states of the microscope: voltage, convergence and the annular detector, in one set of units.

Nobody measures these for each image: software writes what it is set to, zeros where nothing was ever entered, and
angles that hold for another camera length. What cannot be is told and left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

VOLTAGES_KV = (20.0, 1500.0)
"""Of electron microscopes in transmission; what lies outside was stated in another unit, or never filled in."""

LARGEST_MRAD = 500.0
"""No lens passes more than some 250 mrad to a detector."""

MRAD_PER = {"mrad": 1.0, "rad": 1e3, "deg": 1e3 * math.pi / 180}
NAMED_ANGLE = re.compile(r"(convergence|inner|outer)\b.*\bangle\b.*\((mrad|rad|deg)\)", re.IGNORECASE)
"""Tags that name an angle with its unit, as DigitalMicrograph's "Convergence semi-angle (mrad)"."""


class Optics(NamedTuple):
    """Settings of a microscope, None where they are not known.

    Attributes
    ----------
    voltage_kV : float or None
    convergence_mrad : float or None
        Semi-angle of the probe.
    detector_mrad : (inner, outer) or None
    impossible : tuple of str
        What was stated instead of them and cannot be, in words: "a voltage of 0 kV".
    """

    voltage_kV: float | None = None
    convergence_mrad: float | None = None
    detector_mrad: tuple[float, float] | None = None
    impossible: tuple[str, ...] = ()


def optics_of(
    voltages_kV: Iterable[object] = (), convergences_mrad: Iterable[object] = (),
    detectors_mrad: Iterable[tuple[object, object]] = (),
) -> Optics:
    """The first of each that can be.

    Parameters
    ----------
    voltages_kV, convergences_mrad, detectors_mrad : iterables
        As stated in the places of a file that may state them, the best first; what is no number is not stated.
    """
    voltages, convergences = ([x for x in map(number, given) if x is not None]
                              for given in (voltages_kV, convergences_mrad))  # fmt: skip
    pairs = [(number(inner), number(outer)) for inner, outer in detectors_mrad]
    detectors = [(inner, outer) for inner, outer in pairs if inner is not None and outer is not None]
    voltage = next((kV for kV in voltages if VOLTAGES_KV[0] <= kV <= VOLTAGES_KV[1]), None)
    convergence = next((mrad for mrad in convergences if 0 < mrad <= LARGEST_MRAD), None)
    detector = next((ring for ring in detectors if 0 < ring[0] < ring[1] <= LARGEST_MRAD), None)
    told = [f"a voltage of {kV:.6g} kV" for kV in voltages[:1] if voltage is None]
    told += [f"a convergence of {mrad:.4g} mrad" for mrad in convergences[:1] if convergence is None]
    told += [f"a detector of {inner:.4g} to {outer:.4g} mrad" for inner, outer in detectors[:1] if detector is None]
    return Optics(voltage, convergence, detector, tuple(told))


def number(stated: object) -> float | None:
    """A finite number, also one in text, with a decimal point or comma."""
    if isinstance(stated, str):
        stated = stated.strip().replace(",", ".")
    try:
        value = float(stated)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def scaled(factor: float, *stated: object) -> tuple[float | None, ...]:
    """Numbers in another unit."""
    return tuple(None if value is None else factor * value for value in map(number, stated))


# -- where RosettaSciIO and HyperSpy put it ------------------------------------------------------------------------


def optics_in(document: Mapping[str, Any]) -> Optics:
    """What one signal states that RosettaSciIO has read.

    HyperSpy's metadata (kV, mrad) come first, which people mend; then Velox's own (V, rad: those of the detector of
    this image), then DigitalMicrograph's tags, whose names have the unit. What the library maps to HyperSpy's metadata
    without doing so counts as one of these.
    """
    here = "metadata.Acquisition_instrument"
    kilovolts = [found(document, f"{here}.{kind}.beam_energy") for kind in ("TEM", "SEM")]
    convergences = [found(document, f"{here}.TEM.convergence_angle")]
    for place, (target, convert) in (document.get("mapping") or {}).items():
        value = found(document, f"original_metadata.{place}")
        kilovolts += [_converted(value, convert)] if str(target).endswith("TEM.beam_energy") else []
        convergences += [_converted(value, convert)] if str(target).endswith("TEM.convergence_angle") else []
    velox = found(document, "original_metadata.DetectorMetadata.CollectionAngleRange")
    rings = list(_rings(found(document, f"{here}.TEM.Detector")))
    rings += zip(*(scaled(1e3, found(velox, end)) for end in ("begin", "end")), strict=True)
    kilovolts += scaled(1e-3, found(document, "original_metadata.Optics.AccelerationVoltage"))
    convergences += scaled(1e3, found(document, "original_metadata.Optics.BeamConvergence"))
    named = dict(_named_angles(found(document, "original_metadata.ImageList")))
    convergences.append(named.get("convergence"))
    rings.append((named.get("inner"), named.get("outer")))
    return optics_of(kilovolts, convergences, rings)


def found(document: object, place: str) -> Any:
    """What stands in a place of nested mappings or attributes, None where there is no such place."""
    value: Any = document
    for key in place.split("."):
        value = value.get(key) if isinstance(value, Mapping) else getattr(value, key, None)
    return value


def _converted(value: object, convert: Callable[[Any], Any] | None) -> object:
    try:
        return value if value is None or convert is None else convert(value)
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError):
        return None  # of another type than the library expects: not stated


def _rings(detectors: object) -> Iterator[tuple[object, object]]:
    """Angles beside each other below any detector of HyperSpy's metadata, in mrad like its other angles."""
    as_dictionary = getattr(detectors, "as_dictionary", None)
    known = as_dictionary() if as_dictionary is not None else detectors
    for detector in known.values() if isinstance(known, Mapping) else ():
        for name in ("angle", "collection_angle"):
            yield found(detector, f"inner_{name}"), found(detector, f"outer_{name}")


def _named_angles(tags: object) -> Iterator[tuple[str, float]]:
    """Angles in mrad among nested tags, by what they are of."""
    for name, value in tags.items() if isinstance(tags, Mapping) else ():
        match = NAMED_ANGLE.search(str(name))
        if isinstance(value, Mapping):
            yield from _named_angles(value)
        elif match and (angle := number(value)) is not None:
            yield match.group(1).lower(), MRAD_PER[match.group(2).lower()] * angle
