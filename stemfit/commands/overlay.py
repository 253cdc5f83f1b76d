"""`stemfit overlay`: a result folder in, figures for articles and slides with their captions out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stemfit import __version__
from stemfit.commands import asking, exits, options
from stemfit.errors import OutputError, UsageError

if TYPE_CHECKING:
    from stemfit.analysis import Analysis
    from stemfit.figures import Style
    from stemfit.figures.compose import Scene

FORMATS = ("png", "pdf", "svg")
MM_PER = {"mm": 1.0, "cm": 10.0, "in": 25.4, "pt": 25.4 / 72}
NARROWEST_MM, WIDEST_MM = 20.0, 1000.0
LEAST_DPI, MOST_DPI = 50, 2400
OTHER_FORMATS = {
    **dict.fromkeys(("jpg", "jpeg", "jpe", "jp2", "tif", "tiff", "gif", "bmp", "webp", "avif", "heic"), "png"),
    **dict.fromkeys(("eps", "ps", "ai"), "pdf"), **dict.fromkeys(("svgz", "emf", "wmf"), "svg"),
}  # fmt: skip
"""Endings of images that are not drawn, with the nearest one that is."""
MOST_PIXELS = 3e8
SMALLEST_CROP_PX = 16

EXAMPLES = """
Examples:

\b
  stemfit overlay image.stemfit --style nature --format png,pdf
  stemfit overlay image.stemfit --defect 3 --style aps --out fig2.pdf
  stemfit overlay image.stemfit --panel image,defects,strain,residual --style slide
  stemfit overlay image.stemfit --panel image,structure --crop 100,80,260,240 --width 183mm --format svg

Panels: image, columns, defects, structure, simulated, residual, displacement, exx, eyy, exy, rotation, and strain for
the last four. Without --panel: the page of the result folder, or with --defect or --crop image, structure, simulated,
residual. Styles: nature 89 mm, aps 86 mm, acs 84.6 mm, dark 120 mm, slide 254 mm. A caption with all numbers is written
beside it; its last line says which files are this command's, and only those are written anew.

Exit codes: 0 done, 2 wrong usage, 3 no result folder or a damaged one, 5 output cannot be written.
"""


def overlay(
    result: Annotated[Path, typer.Argument(metavar="RESULT", help="Folder of stemfit analyze.", show_default=False)],
    style: Annotated[str, typer.Option(metavar="NAME", help="nature, aps, acs, dark or slide.")] = "nature",
    width: Annotated[
        str | None, typer.Option(metavar="89mm", help="Width, in mm, cm, in or pt.  [default: the style's]",
                                 show_default=False)
    ] = None,
    panel: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Panels, side by side.  [default: the page]",
                                 show_default=False)
    ] = None,
    crop: Annotated[str | None, typer.Option(metavar="X0,Y0,X1,Y1", help="Show this rectangle only, px.")] = None,
    defect: Annotated[int | None, typer.Option(metavar="ID", help="Show this defect close up.")] = None,
    labels: Annotated[bool, typer.Option("--labels/--no-labels", help="Names and numbers in the panels.")] = True,
    dpi: Annotated[
        int | None, typer.Option(metavar="N", help="Pixels per inch of png and of images in pdf and svg.  [default: "
                                 "the style's]", show_default=False)
    ] = None,
    formats: Annotated[
        str | None, typer.Option("--format", metavar="png,pdf,svg", help="One or several.  [default: png, or as --out "
                                 "ends]", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="PATH", help="File, or its name without ending.  [default: RESULT.overlay "
                                  "here]", show_default=False)
    ] = None,
    verbose: options.Verbose = False,
    config: options.Config = None,
    debug: options.Debug = False,
) -> None:  # fmt: skip
    """Draw figures for articles and slides from a result folder."""
    with exits.errors(result, verbose, debug):
        places = _places(result, out, formats)
        width_mm, box = _millimetres(width), asking.rectangle("--crop", crop)
        if box is not None and defect is not None:
            raise UsageError("--crop and --defect both say what to show", remedy="leave one of them out")
        with exits.progress(verbose) as progress:
            progress("loading")
            from stemfit.analysis import Analysis

            chosen = _style(style, width_mm, dpi)
            names = _panels(panel, box is not None, defect is not None)
            scene = _scene(Analysis.load(result), chosen, box, defect, labels)
            text = places[0].with_suffix(".txt")
            former = _former(text)
            _spare([*places, text], former, (Path(scene.analysis.document["input"]["path"]), result))
            progress("drawing")
            _draw(scene, names, places, text, former)
        typer.echo("\n".join([*(f"figure   {place}" for place in places), f"caption  {text}"]))


# -- options -------------------------------------------------------------------------------------------------------


def _one_of(what: str, name: str, known: Iterable[str]) -> str:
    """A name that is known."""
    names = list(known)
    if name in names:
        return name
    close = get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}? " if close else ""
    raise UsageError(f"unknown {what} {name!r}", remedy=f"{hint}choose from {', '.join(names)}")


def _millimetres(text: str | None) -> float | None:
    if text is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(mm|cm|in|pt)\s*", text)
    if found is None:
        raise UsageError(f"--width {text!r} is no length", remedy="write a number with mm, cm, in or pt, as in 89mm")
    value = float(found[1]) * MM_PER[found[2]]
    if not NARROWEST_MM <= value <= WIDEST_MM:
        limits = f"{NARROWEST_MM:g} to {WIDEST_MM:g} mm"
        raise UsageError(f"--width {text} is not within {limits}", remedy="journals ask for 84 to 183 mm")
    return value


def _style(name: str, width_mm: float | None, dpi: int | None) -> Style:
    from stemfit.figures import STYLES

    style = STYLES[_one_of("--style", name, STYLES)]
    if dpi is not None and not LEAST_DPI <= dpi <= MOST_DPI:
        raise UsageError(f"--dpi {dpi} is not within {LEAST_DPI} to {MOST_DPI}", remedy="journals ask for 300 to 600")
    return replace(style, width_mm=width_mm or style.width_mm, dpi=dpi or style.dpi)


def _panels(text: str | None, cropped: bool, close: bool) -> tuple[str, ...]:
    from stemfit.figures.compose import CLOSE_UP, GROUPS, TITLES, expanded

    if text is None:
        return CLOSE_UP if close or cropped else ()
    names = [_one_of("--panel", name.strip(), [*TITLES, *GROUPS]) for name in text.split(",")]
    if len(expanded(names)) != len(set(expanded(names))):
        raise UsageError(f"--panel {text} names a panel twice", remedy="name each once (strain holds exx, eyy ...)")
    return tuple(names)


def _scene(
    analysis: Analysis, style: Style, crop: tuple[int, int, int, int] | None, defect: int | None, labels: bool
) -> Scene:
    from stemfit.figures.compose import Scene
    from stemfit.figures.panels import close_view

    h, w = analysis.image.shape
    if defect is not None:
        known = {d.id: d for d in (*analysis.defects, *analysis.suspects)}
        if defect not in known:
            ids = f"choose one of 1 to {max(known)}" if known else "leave it out: nothing was found"
            raise UsageError(f"--defect {defect} is none of the result", remedy=f"{ids}, see analysis.json")
        return Scene(analysis, close_view(analysis, known[defect]), style, labels, known[defect])
    if crop is None:
        return Scene(analysis, (-0.5, -0.5, w - 0.5, h - 0.5), style, labels)
    x0, y0, x1, y1 = crop
    if x1 > w or y1 > h or min(x1 - x0, y1 - y0) < SMALLEST_CROP_PX:
        what = f"--crop {x0},{y0},{x1},{y1} is not {SMALLEST_CROP_PX} px or more inside the image of {w} x {h} px"
        raise UsageError(what, remedy="give the left, top, right and bottom pixel")
    return Scene(analysis, (x0 - 0.5, y0 - 0.5, x1 - 0.5, y1 - 0.5), style, labels)


# -- files ---------------------------------------------------------------------------------------------------------


def _places(result: Path, out: Path | None, formats: str | None) -> list[Path]:
    """The files to write, all of one name."""
    name = Path(f"{Path(result.resolve().name).stem}.overlay")
    if out is None:
        base, ending = name, ""
    elif out.is_dir():
        base, ending = out / name, ""
    else:
        ending = out.suffix.lower().lstrip(".")
        close = [OTHER_FORMATS[ending]] if ending in OTHER_FORMATS else get_close_matches(ending, FORMATS, 1)
        if close and ending not in FORMATS:
            raise UsageError(f"--out {out}: {ending} is none of {', '.join(FORMATS)}", remedy=f"end it in .{close[0]}")
        base, ending = (out.with_suffix(""), ending) if ending in FORMATS else (out, "")
    kinds = [kind.strip().lower() for kind in formats.split(",")] if formats else [ending or "png"]
    kinds = list(dict.fromkeys(_one_of("--format", kind, FORMATS) for kind in kinds))
    folder = base.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise OutputError(f"{folder} is not a writable folder", remedy="choose another --out", subject=base)
    return [base.with_name(f"{base.name}.{kind}") for kind in kinds]


def _former(text: Path) -> tuple[str, ...]:
    """Endings of the figures that an earlier run wrote beside its caption here; none if there is no such caption."""
    try:
        return _written_with(text.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return ()


def _spare(targets: list[Path], former: tuple[str, ...], image: tuple[Path, Path]) -> None:
    """Refuse to write over what an earlier run did not write, and over the image whatever the caption says.

    Parameters
    ----------
    targets : list of path
        Figures, and the caption last.
    former : tuple of str
        As `_former` finds them.
    image : tuple of path
        File of the image as the result names it, and the result, beside which that may lie now.
    """
    stated, result = image
    images = [path for path in (stated, result.resolve().parent / stated.name) if path.exists()]
    for place in targets:
        ours = bool(former) if place == targets[-1] else place.suffix[1:] in former
        if place.exists() and any(place.samefile(path) for path in images):
            raise OutputError("is the analysed image", remedy="choose another --out", subject=place)
        if os.path.lexists(place) and not (ours and place.is_file()):
            what = "is there, and no caption beside it says that stemfit overlay wrote it"
            remedy = "choose another --out, or move it away if it may go (earlier versions left no such line)"
            raise OutputError(what, remedy=remedy, subject=place)


def _draw(scene: Scene, names: tuple[str, ...], places: list[Path], text: Path, former: tuple[str, ...]) -> None:
    """Write figure and caption, each under a temporary name first."""
    from stemfit import figures
    from stemfit.figures.caption import caption
    from stemfit.figures.compose import compose

    figure = compose(scene, names) if names else figures.overlay(scene.analysis, scene.style, scene.labels)
    wide, high = figure.get_size_inches() * figure.dpi
    if wide * high > MOST_PIXELS:
        what = f"{wide:.0f} x {high:.0f} pixels are too many for one figure"
        raise UsageError(what, remedy="choose a smaller --dpi or --width")
    staged = {place: place.with_name(f".tmp-{os.getpid()}-{place.name}") for place in (*places, text)}
    endings = {place.suffix[1:] for place in places}
    endings |= {ending for ending in former if text.with_suffix(f".{ending}").exists()}
    try:
        for place in places:
            figures.save(figure, staged[place], scene.style)
        words = f"{caption(scene, names)}\n{_mark(sorted(endings))}\n"
        staged[text].write_text(words, encoding="utf-8", newline="\n")
        for place, under in staged.items():
            os.replace(under, place)
    except OSError as error:
        what = f"cannot be written ({error.strerror or error})"
        raise OutputError(what, remedy="choose another --out, or make room", subject=places[0]) from error
    finally:
        for under in staged.values():
            with suppress(OSError):
                under.unlink(missing_ok=True)


def _mark(endings: Iterable[str]) -> str:
    """Last line of a caption: by it the command knows its own files."""
    return f"stemfit {__version__} overlay: {', '.join(endings)}"


def _written_with(text: str) -> tuple[str, ...]:
    """Endings that the last line of a caption names; none if it is not ours."""
    last = text.rstrip("\n").rpartition("\n")[2]
    found = re.fullmatch(r"stemfit \S+ overlay: ((?:png|pdf|svg)(?:, (?:png|pdf|svg))*)", last)
    return tuple(found[1].split(", ")) if found else ()
