"""`stemfit match`: structures of the user's own and an image in; where they are in it and how well they fit out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from stemfit.commands import asking, exits, options, saying
from stemfit.errors import UsageError, after_reading
from stemfit.wording import log_bayes, sure

if TYPE_CHECKING:
    from stemfit.matching.given import Given
    from stemfit.micrograph import Frame, Micrograph

EXAMPLES = """
Examples:

\b
  stemfit match image.tif line.cif
  stemfit match image.tif line.cif trefoil.cif --at 210,145
  stemfit match image.tif POSCAR --relaxer definet --host WSe2 --json

Structures are layers with vacuum above, whose cell is a supercell of the host: CIF, POSCAR or extended XYZ, by the
names. All their defects are matched together. Each is looked for in every cell and every equivalent orientation, the
layer turned over included, and compared with the perfect crystal, with the other structures and with what stemfit
analyze would propose in the same place. Where it is less probable than the rest together it is not found, and the
result says so.

Exit codes: 0 done, found or not, 2 wrong usage or unknown host, 3 input missing or damaged, 4 image or structure not
usable: another host, no defect, no room, 5 output cannot be written, 6 model cannot be used.
"""


def match(
    image: options.Image,
    structures: Annotated[list[Path], typer.Argument(metavar="STRUCTURE...", help="Structures.", show_default=False)],
    at: Annotated[
        str | None, typer.Option(metavar="X,Y", help="Where their middle is, px.  [default: anywhere]",
                                 show_default=False)
    ] = None,
    relaxer: Annotated[
        Literal["keep", "definet", "teacher"],
        typer.Option(help="Keep the positions of the files, or relax anew with the network or its teacher (slow)."),
    ] = "keep",
    host: Annotated[
        str, typer.Option(metavar="NAME", help="Crystal in the image: auto, or a name as of stemfit analyze.")
    ] = "auto",
    pixel_size: options.PixelSize = None,
    voltage: options.Voltage = None,
    convergence: options.Convergence = None,
    detector: options.Detector = None,
    roi: options.Roi = None,
    mask: options.Mask = None,
    signal: options.Signal = None,
    frame: options.Frame = None,
    checkpoint: options.Network = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Result folder.  [default: IMAGE.match.stemfit here]", show_default=False),
    ] = None,
    device: options.ImageDevice = "auto",
    as_json: options.AsJson = False,
    verbose: options.Verbose = False,
    config: options.Config = None,
    debug: options.Debug = False,
) -> None:  # fmt: skip
    """Find structures of your own in an image, and say how well they explain it."""
    with exits.errors(image, verbose, debug):
        asked = {
            "host": host,
            "pixel_size_A": asking.pixel_size("--pixel-size", pixel_size),
            "voltage_kV": asking.positive("--voltage", voltage),
            "convergence_mrad": asking.positive("--convergence", convergence),
            "detector_mrad": asking.angles("--detector", detector),
            "roi": asking.rectangle("--roi", roi),
            "mask": None if mask is None else str(mask),
            "device": device,
        }
        point = None if at is None else asking.numbers("--at", at, "X,Y")
        if checkpoint is not None and relaxer == "teacher":
            raise UsageError("--checkpoint does not go with --relaxer teacher", remedy="leave one of them out")
        folder = Path(f"{image.stem}.match.stemfit") if out is None else out
        which = (image, asking.frame(frame), signal)
        document = _match(which, structures, point, asked, (relaxer, checkpoint), folder, verbose)
        typer.echo(exits.as_text({"output": str(folder), **document}) if as_json else _summary(document, folder))


def _match(
    image: tuple[Path, Frame | None, str | None], structures: Sequence[Path], at: Sequence[float] | None,
    asked: dict[str, Any], how: tuple[str, Path | None], folder: Path, verbose: bool,
) -> dict[str, Any]:
    """Everything that can fail early does so before the slow imports; the answer is what the file says."""
    from stemfit import mask_file, micrograph

    known = _host(asked["host"])
    asking.check_microscope(asked["voltage_kV"], asked["convergence_mrad"], asked["detector_mrad"])
    recorded = micrograph.read(image[0], pixel_size_A=asked["pixel_size_A"], frame=image[1], signal=image[2])
    point = _inside(at, recorded)
    if asked["mask"] is not None:
        mask_file.read_mask(Path(asked["mask"]), recorded.image.shape)
    from stemfit import result

    result.check_place(folder, recorded.sha256)
    with exits.progress(verbose) as progress:
        progress("loading")
        givens = _givens(structures, known)
        from stemfit import pages, pipeline
        from stemfit import relax as relaxing

        network = relaxing.relaxer("definet", asked["device"], how[1])
        own = None if how[0] == "keep" else network if how[0] == "definet" else relaxing.relaxer("teacher")
        with after_reading(recorded.warnings):
            analysis = pipeline.match(
                recorded, pipeline.Settings(**asked), givens, own, network, at_px=point, progress=progress
            )
        more = {"relaxer": how[0], "checkpoint": how[1] and str(how[1]), "frame": image[1], "signal": image[2]}
        analysis = replace(analysis, settings={**analysis.settings, **more})
        progress("writing")
        result.write(analysis, folder, extras=pages.draw)
    return result.read(folder)


def _host(asked: str) -> str | None:
    """Name of the host that the user states."""
    from definet.crystals import HOSTS
    from stemfit.crystal_file import asked_host

    stated = asked_host(asked)
    if stated is not None and not (stated.honeycomb and stated.name in HOSTS):
        what = f"--host {asked}: structures can be matched in the listed hexagonal hosts only"
        raise UsageError(what, remedy="leave --host out, or name one of them")
    return None if stated is None else stated.name


def _inside(at: Sequence[float] | None, recorded: Micrograph) -> tuple[float, float] | None:
    """A point of the image."""
    if at is None:
        return None
    (x, y), (height, width) = at, recorded.image.shape
    if not (0 <= x <= width - 1 and 0 <= y <= height - 1):
        what = f"--at {x:g},{y:g} is outside the image of {width} x {height} px"
        raise UsageError(what, remedy="give x to the right and y down, in pixels from the top left")
    return x, y


def _givens(structures: Sequence[Path], host: str | None) -> list[Given]:
    """The structures, in the order of the files."""
    from stemfit.matching.given import read_given

    twice = sorted({str(path) for path in structures if structures.count(path) > 1})
    if twice:
        raise UsageError(f"{twice[0]} is given twice", remedy="name each structure once")
    return [read_given(path, host) for path in structures]


# -- what is said --------------------------------------------------------------------------------------------------


def _summary(document: dict[str, Any], folder: Path) -> str:
    """The image, then one line for each structure at each place."""
    wanted = ("image", "host", "microscope", "pixel size")
    facts = {name: text for name, text in saying.facts(document).items() if name in wanted}
    found = [match for match in document["matches"] if match["found"]]
    facts["matches"] = f"{len(found)} found" if found else "none of the structures was found"
    lines = [f"{name:<11} {text}" for name, text in facts.items()]
    lines += ["", *_table(document["matches"])]
    lines += [f"warning: {warning}" for warning in document["warnings"]]
    return "\n".join([*lines, "", f"overlay     {folder / 'overlay.png'}", f"report      {folder / 'report.html'}"])


def _table(matches: Sequence[dict[str, Any]]) -> list[str]:
    rows = [(
        "id", "structure", "label", "P", "x px", "y px", "turned", "ln BF", "NCC", "chi2", "moved A", "or else", "ties",
    )]  # fmt: skip
    for match in matches[: saying.MAX_ROWS]:
        x, y = match["center_px"]
        others = sorted(((match[name], name) for name in ("pristine", "unknown", "other")), reverse=True)
        turned = f"{round(match['turn_deg'], 1) % 360:.1f}{', over' if match['turned_over'] else ''}"
        rows.append(
            (
                match["candidate"], Path(match["structure"]).name, _short(match["label"]),
                sure(match["probability"]), f"{x:.1f}", f"{y:.1f}", turned,
                log_bayes(match["log_bayes_factor"]), saying.number(match["ncc"], ".4f"),
                saying.number(match["reduced_chi2"], ".2f"), f"{match['max_displacement_A']:.3f}",
                f"{others[0][1]} {others[0][0]:.2g}", " ".join(match["ties"]) or "-",
            )
        )  # fmt: skip
    more = len(matches) - saying.MAX_ROWS
    return [*saying.aligned(rows), *([f"... and {more} more in analysis.json"] if more > 0 else [])]


def _short(label: str) -> str:
    """Names with their number: "6 V_Se, 4 V_Se2"."""
    from stemfit.defects import names_in

    return ", ".join(name if count == 1 else f"{count} {name}" for name, count in names_in(label).items())
