"""Options and files that `analyze` and `match` have in common."""

from __future__ import annotations

from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from stemfit.errors import UsageError

if TYPE_CHECKING:
    from stemfit.micrograph import Frame, Micrograph

MOST_PX = 10**6
SMALLEST_PIXEL_A, LARGEST_PIXEL_A = 0.005, 2.0


def _number(option: str, value: object) -> None:
    """Python callers may give anything."""
    if value is not None and not isinstance(value, Real):
        raise UsageError(f"{option} {value!r} is no number", remedy="give a number")


def positive(option: str, value: float | None) -> float | None:
    """Value of an option that must be positive, None where it was not given."""
    _number(option, value)
    if value is not None and not 0 < value < float("inf"):
        raise UsageError(f"{option} {value:g} is no positive number", remedy="give one above 0")
    return value


def pixel_size(option: str, value: float | None) -> float | None:
    """Pixel size in Angstrom: columns are about one wide, so that pixels far from that are in another unit."""
    _number(option, value)
    if value is not None and not SMALLEST_PIXEL_A <= value <= LARGEST_PIXEL_A:
        limits = f"{SMALLEST_PIXEL_A:g} to {LARGEST_PIXEL_A:g} Angstrom"
        raise UsageError(f"{option} {value:g} is no pixel of {limits}", remedy="give it in Angstrom (1 nm = 10 A)")
    return value


def frame(text: str | None) -> Frame | None:
    """Frame of a stack, or how all become one; None where it was not given."""
    if text is None:
        return None
    if text in ("mean", "aligned"):
        return cast("Frame", text)
    if not text.isdecimal():
        raise UsageError(f"--frame {text} is no frame", remedy="give its number from 0, or mean, or aligned")
    return int(text)


def check_microscope(
    voltage_kV: float | None, convergence_mrad: float | None, detector_mrad: tuple[float, float] | None
) -> None:
    """Refuse angles in radians and detectors in the bright field before anything is computed."""
    if voltage_kV is None and convergence_mrad is None:
        return
    from stemfit.optics.probe import Probe
    from stemfit.optics.scattering import TYPICAL_CONVERGENCE_MRAD, TYPICAL_VOLTAGE_KV
    from stemfit.simulate.fast import check_detector

    probe = Probe(voltage_kV or TYPICAL_VOLTAGE_KV, convergence_mrad or TYPICAL_CONVERGENCE_MRAD)
    if detector_mrad is not None and convergence_mrad is not None:
        check_detector(detector_mrad, probe)


def check_multislice(
    recorded: Micrograph, voltage_kV: float | None, convergence_mrad: float | None,
    detector_mrad: tuple[float, float] | None,
) -> None:
    """Refuse multislice where neither the user nor the file states the whole microscope."""
    from stemfit.observed import Settings
    from stemfit.score.lights import microscope_for_multislice
    from stemfit.stated import as_stated

    asked = Settings(voltage_kV=voltage_kV, convergence_mrad=convergence_mrad, detector_mrad=detector_mrad)
    known, _ = as_stated(asked, recorded)
    microscope_for_multislice(known.voltage_kV, known.convergence_mrad, known.detector_mrad)


def numbers(option: str, text: str, names: str) -> list[float]:
    """Numbers of an option, as many as it has names."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != len(names.split(",")):
        raise UsageError(f"{option} {text!r} is not {names}", remedy=f"write {option} {names} as numbers with commas")
    return numbers


def angles(option: str, text: str | None) -> tuple[float, float] | None:
    """Range of an option, None where it was not given."""
    if text is None:
        return None
    inner, outer = numbers(option, text, "IN,OUT")
    if not 0 <= inner < outer < float("inf"):
        raise UsageError(f"{option} {text} is no range", remedy="give the inner angle first, in mrad")
    return inner, outer


def rectangle(option: str, text: str | None) -> tuple[int, int, int, int] | None:
    """Rectangle of an option, None where it was not given."""
    if text is None:
        return None
    values = numbers(option, text, "X0,Y0,X1,Y1")
    whole = all(abs(value) < MOST_PX and value == int(value) for value in values)
    x0, y0, x1, y1 = (int(value) if whole else -1 for value in values)
    if not (0 <= x0 < x1 and 0 <= y0 < y1):
        remedy = "give the left, top, right and bottom pixel as whole numbers"
        raise UsageError(f"{option} {text} is no rectangle", remedy=remedy)
    return x0, y0, x1, y1


def analysis(
    host: str, pixel_size_A: float | None, voltage: float | None, convergence: float | None, detector: str | None,
    roi: str | None, mask: Path | None, signal: str | None, frame_text: str | None, relaxer: str,
    checkpoint: Path | None, simulator: str, temperature: float | None, device: str,
) -> dict[str, Any]:
    """Options of `analyze` as the keyword arguments of `stemfit.analyze`."""
    return {
        "host": host,
        "pixel_size": pixel_size("--pixel-size", pixel_size_A),
        "voltage": positive("--voltage", voltage),
        "convergence": positive("--convergence", convergence),
        "detector": angles("--detector", detector),
        "roi": rectangle("--roi", roi),
        "mask": mask,
        "signal": signal,
        "frame": frame(frame_text),
        "relaxer": relaxer,
        "checkpoint": checkpoint,
        "simulator": simulator,
        "temperature": positive("--temperature", temperature),
        "device": device,
    }
