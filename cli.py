"""The command line: parse, import inside the command, call one function, print, map errors to exit codes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

import stemfit
from stemfit.commands import (
    asking,
    batch,
    config,
    exits,
    export,
    match,
    model,
    options,
    overlay,
    relax,
    saying,
    simulate,
    training,
    usage,
)
from stemfit.wording import log_bayes, sure

app = typer.Typer(
    name="stemfit",
    cls=usage.OneLine,
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
  stemfit analyze stack.dm4 --frame aligned --roi 0,0,1024,900 --out run7.stemfit
  stemfit analyze velox.emd --signal HAADF
  stemfit analyze image.png --pixel-size 0.125 --json > summary.json

Exit codes: 0 done, 2 wrong usage or unknown host, 3 input missing or damaged, 4 not analysable, 5 output cannot be
written, 6 model cannot be used.
"""


def analyze(
    image: options.Image,
    host: options.Host = "auto",
    pixel_size: options.PixelSize = None,
    voltage: options.Voltage = None,
    convergence: options.Convergence = None,
    detector: options.Detector = None,
    roi: options.Roi = None,
    mask: options.Mask = None,
    signal: options.Signal = None,
    frame: options.Frame = None,
    relaxer: options.Relaxer = "definet",
    checkpoint: options.Network = None,
    simulator: options.Simulator = "fast",
    temperature: options.Temperature = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Result folder.  [default: IMAGE.stemfit here]", show_default=False),
    ] = None,
    device: options.ImageDevice = "auto",
    as_json: options.AsJson = False,
    verbose: options.Verbose = False,
    config: options.Config = None,
    debug: options.Debug = False,
) -> None:
    """Find the defects of one image and the structures behind them."""
    with exits.errors(image, verbose, debug):
        folder = Path(f"{image.stem}.stemfit") if out is None else out
        asked = asking.analysis(
            host, pixel_size, voltage, convergence, detector, roi, mask, signal, frame, relaxer, checkpoint, simulator,
            temperature, device,
        )  # fmt: skip
        from stemfit import api

        with exits.progress(verbose) as progress:
            found = api.analyze(image, **asked, out=folder, progress=progress)
        document = dict(found.document)
        typer.echo(exits.as_text({"output": str(folder), **document}) if as_json else _summary(document, folder))


COMMANDS: dict[str, tuple[Callable[..., None], str]] = {
    "analyze": (analyze, EXAMPLES),
    "batch": (batch.batch, batch.EXAMPLES),
    "match": (match.match, match.EXAMPLES),
    "relax": (relax.relax, relax.EXAMPLES),
    "overlay": (overlay.overlay, overlay.EXAMPLES),
    "simulate": (simulate.simulate, simulate.EXAMPLES),
    "export": (export.export, export.EXAMPLES),
    "train": (training.train, training.TRAIN_EXAMPLES),
}
"""Those whose options may come from a file."""

FUNCTIONS = {name: function for name, (function, _) in COMMANDS.items()}
for _name, (_function, _examples) in COMMANDS.items():
    app.command(_name, cls=config.configurable(FUNCTIONS), epilog=_examples)(_function)
app.command(epilog=config.EXAMPLES)(config.command(FUNCTIONS))
app.add_typer(model.app, name="model")
app.add_typer(training.dataset, name="dataset")


# -- what is said --------------------------------------------------------------------------------------------------


def _summary(document: dict[str, Any], folder: Path) -> str:
    """What a person wants to know first."""
    lines = [f"{name:<11} {text}" for name, text in saying.facts(document).items()]
    lines += ["", *_table(document["defects"])]
    lines += [f"warning: {warning}" for warning in document["warnings"]]
    return "\n".join([*lines, "", f"overlay     {folder / 'overlay.png'}", f"report      {folder / 'report.html'}"])


def _table(defects: list[dict[str, Any]]) -> list[str]:
    """One line for each claimed defect."""
    if not defects:
        return ["no defect claimed"]
    rows = [("id", "type", "P(type)", "label", "P", "x px", "y px", "ln BF", "or else")]
    for defect in defects[:saying.MAX_ROWS]:
        x, y = defect["center_px"]
        others = sorted(defect["alternatives"], key=lambda other: -other["probability"])
        rows.append(
            (
                str(defect["id"]), defect["type"], sure(defect["type_probability"]),
                defect["label"], sure(defect["probability"]),
                f"{x:.1f}", f"{y:.1f}", log_bayes(defect["log_bayes_factor"]),
                ", ".join(f"{other['label']} {other['probability']:.2g}" for other in others[:2]),
            )
        )  # fmt: skip
    more = len(defects) - saying.MAX_ROWS
    return [*saying.aligned(rows), *([f"... and {more} more in defects.csv"] if more > 0 else [])]


if __name__ == "__main__":
    app()
