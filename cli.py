"""The command line: parse, import inside the command, call one function, print, map errors to exit codes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import stemfit
from stemfit.commands import exits, model, relax, training
from stemfit.errors import UsageError

if TYPE_CHECKING:
    from stemfit.result import Analysis

MOST_PX = 10**6
SMALLEST_PIXEL_A, LARGEST_PIXEL_A = 0.005, 2.0
MAX_ROWS = 30
"""Defects that the summary lists: about a screen; the files hold all."""

app = typer.Typer(
    name="stemfit",
    help="From an atomic-resolution STEM image of a 2D material to its defects, their structures and how sure that is.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"stemfit {stemfit.__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """From an atomic-resolution STEM image of a 2D material to its defects, their structures and how sure that is."""


EXAMPLES = """
Examples:

\b
  stemfit analyze image.tif
  stemfit analyze image.tif --host WSe2 --voltage 60 --detector 60,200
  stemfit analyze image.tif --host ReS2.cif --relaxer keep
  stemfit analyze stack.tif --frame 3 --roi 0,0,1024,900 --out run7.stemfit
  stemfit analyze image.png --pixel-size 0.125 --json > summary.json

Exit codes: 0 done, 2 wrong usage or unknown host, 3 input missing or damaged, 4 not analysable, 5 output cannot be
written, 6 model cannot be used.
"""


@app.command(epilog=EXAMPLES)
def analyze(
    image: Annotated[Path, typer.Argument(help="TIFF or greyscale PNG.", show_default=False)],
    host: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Crystal: auto, one of MoS2 MoSe2 MoTe2 WS2 WSe2 WTe2 hBN graphene GaSe InSe blackP, or a CIF.",
        ),
    ] = "auto",
    pixel_size: Annotated[
        float | None, typer.Option(metavar="ANGSTROM", help="Pixel size; wins over the lattice and the file.")
    ] = None,
    voltage: Annotated[float | None, typer.Option(metavar="KV", help="Acceleration voltage.")] = None,
    convergence: Annotated[float | None, typer.Option(metavar="MRAD", help="Probe's convergence semi-angle.")] = None,
    detector: Annotated[str | None, typer.Option(metavar="IN,OUT", help="Annular detector's range, mrad.")] = None,
    roi: Annotated[str | None, typer.Option(metavar="X0,Y0,X1,Y1", help="Analyse this rectangle only, px.")] = None,
    mask: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TIFF, PNG or NPY of the image's size: 0 is analysed.")
    ] = None,
    frame: Annotated[int | None, typer.Option(metavar="N", help="Image of a stack, counted from 0.")] = None,
    relaxer: Annotated[
        Literal["definet", "teacher", "keep"],
        typer.Option(help="Relax candidates with the network, with its teacher, a potential (slow), or not at all."),
    ] = "definet",
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Weights of the network, see stemfit model.")
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            metavar="KELVIN",
            help="Weigh structures of one name by their relaxation energies at this temperature.  [default: do not]",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Result folder.  [default: IMAGE.stemfit here]", show_default=False),
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="Where columns are fitted and the network runs.")
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print analysis.json instead of the table.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say on stderr what is being done.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Find the defects of one image and the structures behind them."""
    with exits.errors(image, verbose, debug):
        asked = {
            "host": host,
            "pixel_size_A": _pixel_size("--pixel-size", pixel_size),
            "voltage_kV": _positive("--voltage", voltage),
            "convergence_mrad": _positive("--convergence", convergence),
            "detector_mrad": _range("--detector", detector),
            "roi": _rectangle("--roi", roi),
            "mask": None if mask is None else str(mask),
            "device": device,
            "temperature_K": _positive("--temperature", temperature),
        }
        folder = Path(f"{image.stem}.stemfit") if out is None else out
        document = _analyze(image, frame, asked, (relaxer, device, checkpoint), folder, verbose)
        typer.echo(exits.as_text({"output": str(folder), **document}) if as_json else _summary(document, folder))


def _analyze(
    image: Path, frame: int | None, asked: dict[str, Any], chosen: tuple[Any, ...], folder: Path, verbose: bool
) -> dict[str, Any]:
    """Everything that can fail early does so before the slow imports; the answer is what the file says."""
    from stemfit import crystal_file, mask_file, micrograph, result

    crystal_file.asked_host(asked["host"])
    recorded = micrograph.read(image, pixel_size_A=asked["pixel_size_A"], frame=frame)
    if asked["mask"] is not None:
        mask_file.read_mask(Path(asked["mask"]), recorded.image.shape)
    result.check_place(folder, recorded.sha256)
    with exits.progress(verbose) as progress:
        progress("loading")
        from stemfit import pipeline
        from stemfit import relax as relaxing

        relaxation = relaxing.relaxer(*chosen)
        analysis = pipeline.analyze(recorded, pipeline.Settings(**asked), relaxation, progress=progress)
        progress("writing")
        result.write(analysis, folder, extras=_pages)
    return result.read(folder)


def _pages(analysis: Analysis, folder: Path) -> None:
    """Overlay and report."""
    from stemfit import figures, report

    overlay = figures.overlay(analysis)
    for name in ("overlay.png", "overlay.pdf"):
        figures.save(overlay, folder / name)
    page = report.html(analysis, (folder / "overlay.png").read_bytes())
    (folder / "report.html").write_text(page, encoding="utf-8")


app.command(epilog=relax.EXAMPLES)(relax.relax)
app.add_typer(model.app, name="model")
app.command(epilog=training.TRAIN_EXAMPLES)(training.train)
app.add_typer(training.dataset, name="dataset")


# -- options -------------------------------------------------------------------------------------------------------


def _positive(option: str, value: float | None) -> float | None:
    if value is not None and not 0 < value < float("inf"):
        raise UsageError(f"{option} {value:g} is no positive number", remedy="see stemfit analyze --help")
    return value


def _pixel_size(option: str, value: float | None) -> float | None:
    """Columns are about an Angstrom wide: pixels far from that are in another unit."""
    if value is not None and not SMALLEST_PIXEL_A <= value <= LARGEST_PIXEL_A:
        limits = f"{SMALLEST_PIXEL_A:g} to {LARGEST_PIXEL_A:g} Angstrom"
        raise UsageError(f"{option} {value:g} is no pixel of {limits}", remedy="give it in Angstrom (1 nm = 10 A)")
    return value


def _numbers(option: str, text: str, names: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != len(names.split(",")):
        raise UsageError(f"{option} {text!r} is not {names}", remedy=f"write {option} {names} as numbers with commas")
    return numbers


def _range(option: str, text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    inner, outer = _numbers(option, text, "IN,OUT")
    if not 0 <= inner < outer < float("inf"):
        raise UsageError(f"{option} {text} is no range", remedy="give the inner angle first, in mrad")
    return inner, outer


def _rectangle(option: str, text: str | None) -> tuple[int, int, int, int] | None:
    if text is None:
        return None
    values = _numbers(option, text, "X0,Y0,X1,Y1")
    whole = all(abs(value) < MOST_PX and value == int(value) for value in values)
    x0, y0, x1, y1 = (int(value) if whole else -1 for value in values)
    if not (0 <= x0 < x1 and 0 <= y0 < y1):
        remedy = "give the left, top, right and bottom pixel as whole numbers"
        raise UsageError(f"{option} {text} is no rectangle", remedy=remedy)
    return x0, y0, x1, y1


# -- what is said --------------------------------------------------------------------------------------------------


def _summary(document: dict[str, Any], folder: Path) -> str:
    """What a person wants to know first."""
    lines = [f"{name:<11} {text}" for name, text in _facts(document).items()]
    lines += ["", *_table(document["defects"])]
    lines += [f"warning: {warning}" for warning in document["warnings"]]
    return "\n".join([*lines, "", f"overlay     {folder / 'overlay.png'}", f"report      {folder / 'report.html'}"])


def _facts(document: dict[str, Any]) -> dict[str, str]:
    host, scale, lattice, match = (document[key] for key in ("host", "calibration", "lattice", "match"))
    height, width = document["input"]["shape_px"]
    others = "".join(f", {other['name']} {other['probability']:.2g}" for other in host["alternatives"][:2])
    stated = scale["metadata_pixel_size_A"]
    length = [(x**2 + y**2) ** 0.5 for x, y in (lattice["a_px"], lattice["b_px"])]
    return {
        "image": f"{document['input']['path']}, {width} x {height} px",
        "host": f"{host['name']} ({host['source']}, P = {host['probability']:.3g}{others})",
        "pixel size": f"{scale['pixel_size_A']:.5f} +- {scale['pixel_size_sigma_A']:.1g} A from the {scale['source']}"
        + (f"; the file says {stated:.5f}" if stated else ""),
        "lattice": f"|a| = {length[0]:.3f} px, |b| = {length[1]:.3f} px, turned by {lattice['rotation_deg']:.2f} deg, "
        f"anisotropy {lattice['anisotropy']:.3f}",
        "columns": f"{lattice['residual_rms_pm']:.1f} pm rms about their sites, "
        f"{100 * lattice['masked_fraction']:.1f} % of the area masked",
        "match": f"NCC {_number(match['ncc'], '.4f')}, reduced chi2 {_number(match['reduced_chi2'], '.2f')}",
        "defects": f"{len(document['defects'])} claimed, {len(document['suspects'])} suspected",
    }


def _table(defects: list[dict[str, Any]]) -> list[str]:
    """One line for each claimed defect."""
    if not defects:
        return ["no defect claimed"]
    rows = [("id", "type", "label", "P", "x px", "y px", "ln BF", "or else")]
    for defect in defects[:MAX_ROWS]:
        x, y = defect["center_px"]
        others = sorted(defect["alternatives"], key=lambda other: -other["probability"])
        lines = sum(other["probability"] for other in others if "VL-" in other["label"])
        line = f"LINE {_sure(defect['probability'] + lines)}: " if defect["type"] == "LINE" else ""
        rows.append(
            (
                str(defect["id"]), defect["type"], defect["label"], _sure(defect["probability"]),
                f"{x:.1f}", f"{y:.1f}", _number(defect["log_bayes_factor"], ".1f"),
                line + ", ".join(f"{other['label']} {other['probability']:.2g}" for other in others[:2]),
            )
        )  # fmt: skip
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    more = len(defects) - MAX_ROWS
    return [*lines, *([f"... and {more} more in defects.csv"] if more > 0 else [])]


def _sure(probability: float) -> str:
    """Three digits, and never certainty."""
    return ">0.999" if probability > 0.9995 else f"{probability:.3f}"


def _number(value: float | None, form: str) -> str:
    """A number that may be unknown."""
    return "-" if value is None else format(value, form)


if __name__ == "__main__":
    app()
