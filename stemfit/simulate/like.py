"""A structure drawn as an analysed image would show it: profile, brightness, background and scale of its result."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stemfit.columns.stamps import canvas_pad, render
from stemfit.columns.types import Profile
from stemfit.errors import InputError, UsageError
from stemfit.optics.scattering import column_elements
from stemfit.simulate.image import project
from stemfit.simulate.specimen import Specimen, View

FloatArray = NDArray[np.float64]


def view_like(result: Mapping[str, Any], of_structure: bool) -> View:
    """Pixels of the image that was analysed.

    Parameters
    ----------
    result : mapping
        `analysis.json`.
    of_structure : bool
        The structure is the result's own: it comes where it was found. Other structures come in the middle.
    """
    pixel_A, (h, w) = float(result["calibration"]["pixel_size_A"]), result["input"]["shape_px"]
    if not of_structure:
        return View(pixel_A, (int(h), int(w)))
    map_px = result["lattice"]["image_from_structure"]
    middle = np.array([(w - 1) / 2, (h - 1) / 2]) - np.array(map_px["offset_px"])
    x, y = np.linalg.solve(np.array(map_px["matrix"]), middle)
    return View(pixel_A, (int(h), int(w)), (float(x), float(y)))


def profile_of(imaging: Mapping[str, Any]) -> Profile:
    """Image of one column, from the result's `imaging`."""
    return Profile(np.array(imaging["core_cov_px2"]), imaging["tail_sigma_px"], imaging["tail_fraction"])


def image_like(specimen: Specimen, result: Mapping[str, Any], view: View, of_structure: bool) -> FloatArray:
    """Noise-free image (H, W) in the units of the image that was analysed, as `view_like` places it.

    Every column type has the brightness that it has there (an unlisted stack that of its atoms together); the
    background is even, and so is the gain; distortion is left out. Structures of the result's own folder have all that
    with `stemfit.simulate.as_found`.

    Raises
    ------
    UsageError
        If the result knows the brightness of no atom of a column.
    NotAnalysable
        If no atom is in the view.
    """
    imaging, pixel_A = result["imaging"], view.pixel_A
    profile = profile_of(imaging)
    atoms = specimen.around(view, canvas_pad(profile) * pixel_A)
    h, w = view.shape
    matrix = np.diag([1 / pixel_A, -1 / pixel_A])
    if of_structure:
        matrix = np.array(result["lattice"]["image_from_structure"]["matrix"])
    seen = project(atoms.numbers, atoms.xyz_A, matrix, [(w - 1) / 2, (h - 1) / 2])
    value = {name: brightness(name, imaging["amplitudes"]) for name in set(seen.types)}
    drawn = render(seen.xy_px, np.array([value[t] for t in seen.types]), profile, (h, w))
    return np.asarray(drawn + float(imaging["background"]["mean"]))


def brightness(column: str, known: Mapping[str, Any]) -> float:
    """Integral of a column, from the result's `imaging.amplitudes`; an unlisted stack is that of its atoms together.

    Raises
    ------
    UsageError
        If the result knows an atom of it not at all.
    """
    if column in known:
        return float(known[column]["value"])
    atoms = column_elements(column)
    if any(a not in known for a in atoms):
        what = f"the result knows no column {column} ({', '.join(sorted(known))})"
        raise UsageError(what, remedy="simulate without --like, with --voltage and --detector")
    return float(sum(known[a]["value"] for a in atoms))


def read_result(folder: Path) -> dict[str, Any]:
    """`analysis.json` of a result folder, with what is needed here.

    Raises
    ------
    InputError
    """
    from stemfit import result

    found = result.read(folder)
    for part, name in (("imaging", "core_cov_px2"), ("imaging", "amplitudes"), ("calibration", "pixel_size_A"),
                       ("lattice", "image_from_structure"), ("input", "shape_px")):  # fmt: skip
        if found[part].get(name) is None:
            raise InputError(f"without {part}.{name}", remedy="analyse the image again", subject=folder)
    return found
