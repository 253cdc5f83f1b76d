"""How large a pixel is: units, sources that contradict each other, pixels that are not square."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from unicodedata import normalize

from stemfit.errors import NotAnalysable
from stemfit.micrograph.types import Scale

ANGSTROM_PER_UNIT = {
    "pm": 1e-2, "A": 1.0, "Å": 1.0, "angstrom": 1.0, "angstroms": 1.0, "ångström": 1.0, "nm": 10.0, "nanometer": 10.0,
    "μm": 1e4, "um": 1e4, "micron": 1e4, "microns": 1e4, "mm": 1e7, "cm": 1e8, "inch": 2.54e8, "m": 1e10,
}  # fmt: skip

RECIPROCAL = re.compile(r"1\s*/\s*(\w+)|(\w+?)\s*(?:\^\s*-1|\^\(-1\)|-1|⁻¹)")

ATOMIC_PIXEL_SIZES_A = (0.005, 2.0)
"""Sampling at which atoms are resolved without absurd oversampling. What is stated outside it is the resolution of a
printer (72 dpi is 3.5 million Angstrom), another unit, or an image that shows no atoms."""

ROUNDING = 0.01
"""Scales that differ by less are one: rational tags and printed numbers are rounded."""

CONTRADICTION = math.sqrt(2)
"""Sources that differ by more do not err about the same pixel: half way, as a factor, to an image binned by two."""

MAX_OBLONG = 1.35 / 1.19
"""Of a pixel, width to height. The lattice is found where the cell is stretched by up to 1.35, and real scans stretch
it by up to 1.19 themselves. Beyond that an image would have to be interpolated, whose noise is then no longer that of
independent pixels, as the error bars take it to be."""


def angstrom(value: object, unit: object) -> float | None:
    """Length in Angstrom, None where it is no positive number or the unit is no length (``pixel``).

    Parameters
    ----------
    value : number or str
        With a decimal point or a decimal comma.
    unit : str
    """
    factor = _factor(unit)
    number = _number(value)
    return None if factor is None or number is None else number * factor


def scale_of(source: str, x: tuple[object, object], y: tuple[object, object]) -> Scale | None:
    """Scale from the (value, unit) of a pixel's width and height; None where no length is stated.

    A unit that only one of them has is that of both, and a size that only one of them has is that of both.
    """
    units = [unit if _known(unit) else None for _, unit in (x, y)]
    units = [unit or units[1 - k] for k, unit in enumerate(units)]
    inverse = [RECIPROCAL.fullmatch(_plain(unit)) for unit in units]
    reciprocal = any(inverse)
    lengths = [m.group(1) or m.group(2) if m else unit for m, unit in zip(inverse, units, strict=True)]
    sizes = [
        angstrom(value, unit) if match is None else _per_angstrom(value, unit)
        for (value, _), unit, match in zip((x, y), lengths, inverse, strict=True)
    ]
    width, height = sizes[0] or sizes[1], sizes[1] or sizes[0]
    return None if width is None or height is None else Scale(source, width, height, reciprocal)


def agreed(
    path: Path, scales: Sequence[Scale], pixel_size_A: float | None
) -> tuple[float | None, str | None, tuple[str, ...]]:
    """Pixel size of a file, who states it, and what to warn of.

    Parameters
    ----------
    scales : sequence of Scale
        The most specific first.
    pixel_size_A : float or None
        What the user states: pixels are square then.

    Raises
    ------
    NotAnalysable
        If the pixels are those of a diffraction pattern, or not square by far.
    """
    coarse = tuple(scale for scale in scales if not atomic(scale))
    said = tuple(
        f"the file states {_mean(scale):.4g} A a pixel ({scale.source}), with which atoms are not resolved: not used"
        for scale in coarse
    )
    known = [scale for scale in scales if scale not in coarse]
    if not known:
        return None, None, said
    first = known[0]
    if first.reciprocal:
        problem = "its scale is a reciprocal length: a diffraction pattern or a Fourier transform"
        raise NotAnalysable(problem, remedy="give the image of the specimen itself", subject=path)
    oblong = max(first.x_A, first.y_A) / min(first.x_A, first.y_A)
    if oblong > MAX_OBLONG and pixel_size_A is None:
        problem = f"pixels of {first.x_A:.4g} x {first.y_A:.4g} A are not square, {MAX_OBLONG:.2f} : 1 is the limit"
        remedy = "bin it to square pixels, or state --pixel-size where they are square"
        raise NotAnalysable(problem, remedy=remedy, subject=path)
    size, source, doubts = _told(first, known[1:])
    return size, source, (*said, *doubts)


def atomic(scale: Scale) -> bool:
    """Whether atoms can be seen with pixels of this size; reciprocal lengths say nothing of it."""
    low, high = ATOMIC_PIXEL_SIZES_A
    return scale.reciprocal or low <= _mean(scale) <= high


def _told(first: Scale, others: Sequence[Scale]) -> tuple[float | None, str | None, tuple[str, ...]]:
    """The first scale, unless another one contradicts it."""
    size, notes = _mean(first), []
    for other in others:
        if other.reciprocal:
            return None, None, (f"the file states {size:.5g} A a pixel ({first.source}) and a reciprocal length "
                                f"({other.source}): neither is used",)  # fmt: skip
        second = _mean(other)
        apart = max(size / second, second / size)
        said = f"the file states {size:.5g} A a pixel ({first.source}) and {second:.5g} A ({other.source})"
        if apart > CONTRADICTION:
            return None, None, (f"{said}: neither is used",)
        if apart > 1 + ROUNDING:
            notes.append(f"{said}: the former is used")
    return size, first.source, tuple(notes)


def _mean(scale: Scale) -> float:
    """One size for both directions: the lattice fit is free to stretch, so no pixel has to be square."""
    return math.sqrt(scale.x_A * scale.y_A)


def _known(unit: object) -> bool:
    """Whether a text is a unit of length or of its inverse."""
    return _factor(unit) is not None or RECIPROCAL.fullmatch(_plain(unit)) is not None


def _plain(unit: object) -> str:
    if not isinstance(unit, str):
        return ""
    # ImageJ escapes the micro sign; two code points each mean micro and Angstrom. NFKC would make ⁻¹ a plain -1.
    return normalize("NFKC", unit.strip().replace("\\u00B5", "μ")).replace("\u2212", "-")


def _factor(unit: object) -> float | None:
    plain = _plain(unit)
    return ANGSTROM_PER_UNIT.get(plain) or ANGSTROM_PER_UNIT.get(plain.lower())


def _per_angstrom(value: object, unit: object) -> float | None:
    """1/Angstrom from 1/unit."""
    factor, number = _factor(unit), _number(value)
    return None if factor is None or number is None else number / factor


def _number(value: object) -> float | None:
    """A positive number, with a decimal point or comma."""
    if isinstance(value, str):
        value = value.strip()
        value = value.replace(",", ".") if value.count(",") == 1 and "." not in value else value
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None
