"""`stemfit simulate`: a structure in, the image that a microscope would take of it out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from stemfit.commands import asking, exits, options
from stemfit.errors import InputError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from stemfit.optics.probe import Probe
    from stemfit.simulate.specimen import Specimen, View

    FloatArray = NDArray[np.float64]

DEFAULTS: dict[str, Any] = {
    "voltage_kV": 60.0, "convergence_mrad": 32.0, "detector_mrad": (60.0, 180.0), "source_fwhm_A": 0.8,
    "defocus_A": 0.0, "astigmatism": (0.0, 0.0), "coma": (0.0, 0.0), "threefold": (0.0, 0.0), "c3_A": 0.0,
    "focal_spread_A": 0.0, "pixel_size_A": 0.1, "shape_px": (256, 256), "dose_per_A2": None,
}  # fmt: skip

MOST_PX = 8192
"""Largest side of an image: 0.5 GB in double precision."""

EXAMPLES = """
Examples:

\b
  stemfit simulate defect.cif --voltage 60 --convergence 32 --detector 60,200 --out image.tif
  stemfit simulate POSCAR --voltage 80 --convergence 30 --detector 80,200 --defocus 15 --coma 200,30 --out coma.tif
  stemfit simulate defect.cif --detector 60,200 --dose 20000 --seed 3 --shape 256,300 --pixel-size 0.12 --out noisy.tif
  stemfit simulate defect.cif --detector 60,200 --simulator multislice --out exact.tif
  stemfit simulate structure.extxyz --like image.stemfit --out again.tif

The image shows the middle of the cell, or of the atoms where nothing repeats. Values are shares of the beam, with
--dose counts, with --like those of the image that was analysed. Angles of aberrations are degrees counter-clockwise
from x as displayed; a defocus is positive for underfocus (-C10). Coma is C21, threefold astigmatism C23, c3 is C30.

--like takes pixel size, shape, profile of columns, brightness of column types and the mean background of an analysed
image. A structure of its folder also comes where it was found, with background, gain, distortion and jitter as they are
there (a candidate with the rest of the field round it), and what no structure tells of as it was measured. There is no
noise.

Exit codes: 0 done, 2 wrong usage, 3 input missing or damaged, 4 nothing to see, 5 output cannot be written,
6 the simulator cannot be used.
"""


def simulate(
    structure: Annotated[
        Path, typer.Argument(help="CIF, POSCAR or extended XYZ, a layer seen along z.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(metavar="X.tif", help="The image.", show_default=False)],
    like: Annotated[
        Path | None, typer.Option(metavar="RESULT", help="As an analysed image shows it, see below.")
    ] = None,
    voltage: Annotated[float | None, typer.Option(metavar="KV", help="Acceleration voltage.  [default: 60]")] = None,
    convergence: Annotated[
        float | None, typer.Option(metavar="MRAD", help="Convergence semi-angle.  [default: 32]")
    ] = None,
    detector: Annotated[
        str | None, typer.Option(metavar="IN,OUT", help="Annular detector, mrad.  [default: 60,180]")
    ] = None,
    source_fwhm: Annotated[
        float | None, typer.Option(metavar="ANGSTROM", help="Width of the source's image.  [default: 0.8]")
    ] = None,
    defocus: Annotated[float | None, typer.Option(metavar="ANGSTROM", help="Underfocus.  [default: 0]")] = None,
    astigmatism: Annotated[str | None, typer.Option(metavar="A,DEG", help="Twofold, C12.")] = None,
    coma: Annotated[str | None, typer.Option(metavar="A,DEG", help="C21.")] = None,
    threefold: Annotated[str | None, typer.Option(metavar="A,DEG", help="C23.")] = None,
    c3: Annotated[float | None, typer.Option(metavar="ANGSTROM", help="Spherical aberration.")] = None,
    focal_spread: Annotated[float | None, typer.Option(metavar="ANGSTROM", help="rms: Cc dE / E.")] = None,
    pixel_size: Annotated[float | None, typer.Option(metavar="ANGSTROM", help="[default: 0.1]")] = None,
    shape: Annotated[str | None, typer.Option(metavar="H,W", help="Pixels.  [default: 256,256]")] = None,
    centre: Annotated[
        str | None, typer.Option(metavar="X,Y", help="Place in the structure at the middle of the image, Angstrom.")
    ] = None,
    thermal: Annotated[
        float | None, typer.Option(metavar="ANGSTROM", help="rms motion of all atoms.  [default: by element]")
    ] = None,
    dose: Annotated[float | None, typer.Option(metavar="E/A2", help="Counts instead of shares of the beam.")] = None,
    seed: Annotated[int, typer.Option(help="Of the counts, and of thermal motion in abTEM.")] = 0,
    simulator: Annotated[
        Literal["fast", "multislice", "prism"],
        typer.Option(help="Sum over columns, or abTEM (minutes): windows of its multislice, or its PRISM."),
    ] = "fast",
    verbose: options.Verbose = False,
    config: options.Config = None,
    debug: options.Debug = False,
) -> None:
    """Simulate the dark-field image of a structure."""
    with exits.errors(structure, verbose, debug):
        given = {
            "voltage_kV": voltage, "convergence_mrad": convergence, "detector_mrad": _pair("--detector", detector),
            "source_fwhm_A": source_fwhm, "defocus_A": defocus, "astigmatism": _pair("--astigmatism", astigmatism),
            "coma": _pair("--coma", coma), "threefold": _pair("--threefold", threefold), "c3_A": c3,
            "focal_spread_A": focal_spread, "pixel_size_A": asking.pixel_size("--pixel-size", pixel_size),
            "shape_px": _shape(shape), "dose_per_A2": dose,
        }  # fmt: skip
        common = {"centre_A": _pair("--centre", centre), "thermal_A": thermal, "seed": seed, "simulator": simulator}
        typer.echo(_simulate(structure, out, like, {k: v for k, v in given.items() if v is not None}, common, verbose))


# -- what is done --------------------------------------------------------------------------------------------------


def _simulate(
    structure: Path, out: Path, like: Path | None, given: dict[str, Any], common: dict[str, Any], verbose: bool
) -> str:
    """Simulate and write; what is said of it."""
    if common["seed"] < 0:
        raise UsageError(f"--seed {common['seed']} is negative", remedy="give 0 or more")
    own = {"simulator": common["simulator"] != "fast", "centre_A": common["centre_A"] is not None,
           "thermal_A": common["thermal_A"] is not None, "seed": common["seed"] > 0}  # fmt: skip
    if like is not None and (given or any(own.values())):
        named = next(iter(given), next((name for name, asked in own.items() if asked), ""))
        option = "dose" if named == "dose_per_A2" else named.rsplit("_", 1)[0].replace("_", "-")
        raise UsageError(f"--{option} does not go with --like", remedy=_instead_of_like(like, option))
    with exits.progress(verbose) as progress:
        progress("loading")
        from stemfit.simulate.recording import check_out, write_image
        from stemfit.simulate.specimen import read_specimen

        asked = {**DEFAULTS, **given} if like is None else {"like": str(like)}
        view, probe = (_view(asked, common), _probe(asked)) if like is None else (None, None)
        specimen = read_specimen(structure, common["thermal_A"])
        check_out(out)
        progress("simulating")
        if like is not None:
            image, view = _like(specimen, structure, like)
        else:
            assert view is not None and probe is not None
            image = _image(specimen, probe, asked, view, common)
        made = {"version": _version(), "structure": str(structure), **asked, **common, "pixel_size_A": view.pixel_A,
                "shape_px": view.shape, "unit": _unit(asked)}  # fmt: skip
        write_image(out, image, view.pixel_A, made)
        doubt = ""
        if probe is not None and common["simulator"] == "fast":
            doubt = f"accuracy    {_doubt(specimen, probe, asked, view)}\n"
    h, w = view.shape
    return (
        f"structure   {structure}, {len(specimen.numbers)} atoms\n"
        f"image       {w} x {h} px of {view.pixel_A:.5g} A, {_unit(asked)}, {image.min():.4g} to {image.max():.4g}\n"
        f"{doubt}"
        f"written     {out}"
    )


def _instead_of_like(like: Path, option: str) -> str:
    """Options that say of the microscope what the result does, for a simulator that has to know it."""
    import json

    try:
        settings = json.loads((like / "analysis.json").read_text(encoding="utf-8"))["settings"]
        known = {"voltage": settings["voltage_kV"], "convergence": settings["convergence_mrad"],
                 "detector": settings["detector_mrad"]}  # fmt: skip
    except (OSError, ValueError, LookupError, TypeError):
        known = {}
    words = [f"--{name} {','.join(f'{x:g}' for x in (value if isinstance(value, list) else [value]))}"
             for name, value in known.items() if value is not None]  # fmt: skip
    if option != "simulator" or not words:
        return "leave one of them out"
    return f"leave --like out and give {' '.join(words)}, as {like} has it"


def _doubt(specimen: Specimen, probe: Probe, asked: dict[str, Any], view: View) -> str:
    from stemfit.simulate import fast

    return fast.doubt(specimen, probe, asked["detector_mrad"], view)


def _version() -> str:
    import stemfit

    return stemfit.__version__


def _unit(asked: dict[str, Any]) -> str:
    if "like" in asked:
        return "units of the analysed image"
    return "share of the beam" if asked["dose_per_A2"] is None else "counts"


def _view(asked: dict[str, Any], common: dict[str, Any]) -> View:
    from stemfit.simulate.specimen import View

    return View(asked["pixel_size_A"], asked["shape_px"], common["centre_A"])


def _probe(asked: dict[str, Any]) -> Probe:
    from stemfit.optics.probe import Probe
    from stemfit.simulate.fast import check_detector

    pairs = {f"{name}_{unit}": value for name in ("astigmatism", "coma", "threefold")
             for unit, value in zip(("A", "deg"), asked[name], strict=True)}  # fmt: skip
    alone = ("voltage_kV", "convergence_mrad", "defocus_A", "c3_A", "source_fwhm_A", "focal_spread_A")
    probe = Probe(**{name: asked[name] for name in alone}, **pairs)
    check_detector(asked["detector_mrad"], probe)
    return probe


def _image(specimen: Specimen, probe: Probe, asked: dict[str, Any], view: View, common: dict[str, Any]) -> FloatArray:
    from stemfit.simulate import recording

    dose = asked["dose_per_A2"]
    if dose is not None:
        recording.check_dose(dose)
    what = specimen, probe, asked["detector_mrad"], view
    if common["simulator"] == "fast":
        from stemfit.simulate import fast

        _check_table(probe, asked)
        image = fast.image(*what)
    elif common["simulator"] == "multislice":
        from stemfit.simulate import multislice

        image = multislice.image(*what, seed=common["seed"])
    else:
        from stemfit.simulate import prism

        image = prism.image(*what, seed=common["seed"])
    return image if dose is None else recording.counts(image, dose, view.pixel_A, common["seed"])


def _check_table(probe: Probe, asked: dict[str, Any]) -> None:
    """Of the cross-sections; what is said of a value outside is what helps here, where there is no leaving it out."""
    from stemfit.optics.transfer import check

    try:
        check(probe.voltage_kV, probe.convergence_mrad, asked["detector_mrad"])
    except UsageError as outside:
        what = f"{outside.args[0]}, which the fast simulator knows"
        raise UsageError(what, remedy="give one within, or take --simulator multislice") from None


def _like(specimen: Specimen, structure: Path, folder: Path) -> tuple[FloatArray, View]:
    """As the result shows it; structures of its own folder come where they were found."""
    from dataclasses import replace

    from stemfit.result.fields import read_fields
    from stemfit.simulate.as_found import image_as_found
    from stemfit.simulate.like import image_like, read_result, view_like

    result, place = read_result(folder), structure.resolve().parent
    fields = read_fields(folder)
    whole, one = place == folder.resolve(), place == folder.resolve() / "candidates"
    view = view_like(result, whole or one)
    if fields is not None and (whole or one):
        return image_as_found(structure, folder, result, fields), view
    if one:
        what = "without fields.npz, which says how its candidates lie in the image"
        raise InputError(what, remedy="analyse the image again", subject=folder)
    if whole:  # its cell is a box round the field, not a period
        specimen = replace(specimen, plane_A=None)
    return image_like(specimen, result, view if whole else view_like(result, False), whole), view


# -- options -------------------------------------------------------------------------------------------------------


def _pair(option: str, text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        first, second = (float(part) for part in text.split(","))
    except ValueError:
        what = f"{option} {text!r} is not two numbers"
        raise UsageError(what, remedy="write them with a comma, as in 60,180") from None
    if not (math.isfinite(first) and math.isfinite(second)):
        raise UsageError(f"{option} {text} is no pair of finite numbers", remedy="write them as in 60,180")
    return first, second


def _shape(text: str | None) -> tuple[int, int] | None:
    pair = _pair("--shape", text)
    if pair is None:
        return None
    if not all(value == int(value) and 0 < value <= MOST_PX for value in pair):
        raise UsageError(f"--shape {text} is no image", remedy=f"give height,width in whole pixels, 1 to {MOST_PX}")
    return int(pair[0]), int(pair[1])
