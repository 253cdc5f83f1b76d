"""`stemfit model`: bring weights in, say what weights know, and measure how well."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from stemfit.commands import exits, options
from stemfit.errors import UsageError

if TYPE_CHECKING:
    from definet.checkpoint import Checkpoint

JUDGE_EXAMPLES = """
Examples:

\b
  stemfit model judge runs/a/best.safetensors --data sets/chgnet
  stemfit model judge runs/a/best.safetensors --data sets/chgnet --data sets/more --write
  stemfit model judge runs/a/best.safetensors --data sets/chgnet --part extrapolation --json

Lengths are means over the atoms, in pm ("errors" of --json: A), "unmoved" is the error of leaving every atom in place.

Exit codes: 0 done, 2 wrong usage or no such structures, 3 data missing or damaged, 5 FILE cannot be written, 6 weights
cannot be used.
"""

app = typer.Typer(
    help="Weights of the network: bring in those of others, say what they know, measure how well.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)



@app.command("import")
def bring(
    file: Annotated[Path, typer.Argument(help="Checkpoint of the authors' training script.", show_default=False)],
    out: Annotated[Path, typer.Option(metavar="M.safetensors", help="File to write.", show_default=False)],
    cutoff: Annotated[float, typer.Option(metavar="ANGSTROM", help="Neighbour radius it was trained with.")] = 6.0,
    basis_cutoff: Annotated[
        float, typer.Option(metavar="ANGSTROM", help="Radial basis cutoff it was trained with.")
    ] = 30.0,
    published: Annotated[
        bool, typer.Option("--published", help="State that they are the authors' own: six hosts of 2DMD, PBE.")
    ] = False,
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="Who relaxed their training structures.  [default: not known]", show_default=False
        ),
    ] = None,
    debug: options.Debug = False,
) -> None:
    """Convert weights of the published network; width, depth and radial functions follow from the shapes.

    The two cutoffs leave no trace in the weights: the defaults are those of the paper. What they were trained on leaves
    none either: without --published every prediction comes with a warning, at the lattice constant that is given.
    Nothing in the file is executed.
    """
    with exits.errors(file, debug=debug):
        if not 0 < cutoff <= basis_cutoff < float("inf"):
            what = f"--cutoff {cutoff:g} and --basis-cutoff {basis_cutoff:g} are no cutoffs"
            raise UsageError(what, remedy="give positive lengths in A, the first not above the second")
        if out.suffix != ".safetensors":
            raise UsageError(f"--out {out} is no .safetensors file", remedy="name it M.safetensors")
        from dataclasses import replace

        from definet.checkpoint import PUBLISHED, UNKNOWN, import_published, load_checkpoint, save_checkpoint

        source = PUBLISHED if published else UNKNOWN
        source = source if teacher is None else replace(source, teacher=teacher)
        save_checkpoint(out, import_published(file, cutoff, basis_cutoff, source))
        typer.echo(_summary(out, load_checkpoint(out)))


@app.command()
def info(
    file: Annotated[
        Path | None, typer.Argument(help="Weights.  [default: those that come along]", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: options.Debug = False,
) -> None:
    """Say what weights are: architecture, range, teacher, errors."""
    with exits.errors(file or "model", debug=debug):
        from definet.checkpoint import load_checkpoint, shipped

        path = file or shipped()
        checkpoint = load_checkpoint(path)
        typer.echo(exits.as_text(_document(path, checkpoint)) if as_json else _summary(path, checkpoint))


@app.command(epilog=JUDGE_EXAMPLES)
def judge(
    file: Annotated[Path, typer.Argument(help="Weights.", show_default=False)],
    data: Annotated[
        list[Path], typer.Option(metavar="DIR", help="Set to judge by; may be given several times.", show_default=False)
    ],
    part: Annotated[
        Literal["train", "valid", "test", "extrapolation"], typer.Option(help="Which part of the sets.")
    ] = "test",
    write: Annotated[bool, typer.Option("--write", help="Store the errors on the test part in FILE.")] = False,
    device: options.NetworkDevice = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: options.Debug = False,
) -> None:
    """Measure the errors of weights on relaxed structures: over all, by host, by family of defects."""
    with exits.errors(file, debug=debug):
        if write and part != "test":
            what = f"--write does not go with --part {part}: weights state their errors on the test part"
            raise UsageError(what, remedy="leave one of them out")
        from dataclasses import replace

        from definet.checkpoint import load_checkpoint, save_checkpoint
        from definet.dataset import data_sha256, load, split
        from definet.evaluate import as_text, evaluate, scores

        checkpoint = load_checkpoint(file)
        parts = split([sample for folder in data for sample in load(folder)])
        if not parts[part]:
            raise UsageError(f"no structures are in the part {part!r} of these sets", remedy="choose another --part")
        table = evaluate(checkpoint, parts[part], device)
        hashes = [data_sha256(folder) for folder in data]
        warnings = [] if _taught_by(checkpoint, hashes) else [NOT_TAUGHT]
        if write:
            chosen = {name: value for name, value in checkpoint.scores.items() if "/" not in name}
            save_checkpoint(file, replace(checkpoint, scores={**chosen, **scores(table)}))
        if as_json:
            about = {"file": str(file), "sha256": checkpoint.sha256, "part": part, "data_sha256": hashes}
            typer.echo(exits.as_text({**about, "warnings": warnings, "errors": dict(scores(table)), "written": write}))
        else:
            told = [as_text(table), *(f"warning: {warning}" for warning in warnings)]
            typer.echo("\n".join([*told, *([f"written    {file}"] if write else [])]))


NOT_TAUGHT = (
    "these weights do not say that they learnt from these sets: it is not known whether what is held out here was held "
    "out then"
)


def _taught_by(checkpoint: Checkpoint, hashes: list[str]) -> bool:
    """Whether every set is one of those that the weights learnt from, of which another part is held out."""
    return set(hashes) <= set(checkpoint.provenance.data_sha256.split())


def _document(path: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    from dataclasses import asdict

    from definet.checkpoint import FORMAT

    source = checkpoint.provenance
    return {
        "file": str(path),
        "sha256": checkpoint.sha256,
        "format": FORMAT,
        "architecture": asdict(checkpoint.config),
        "parameters": sum(value.numel() for value in checkpoint.weights.values()),
        "cutoff_A": checkpoint.config.cutoff,
        "units": "angstrom",
        "teacher": source.teacher,
        "data_sha256": source.data_sha256 or None,
        "trained_by_version": source.version or None,
        "hosts": {name: asdict(seen) for name, seen in source.hosts.items()},
        "scores": dict(checkpoint.scores),
    }


def _summary(path: Path, checkpoint: Checkpoint) -> str:
    about = _document(path, checkpoint)
    shape, hashes = about["architecture"], (about["data_sha256"] or "").split()
    form = "continuous output" if shape["smooth"] else "as published"
    if shape["elastic"]:
        form = f"springs of degree {shape['degree']} between the nodes, {form}"
    facts = {
        "file": f"{about['file']}, sha256 {about['sha256'][:12]}",
        "network": f"{shape['layers']} layers, {shape['channels']} channels, {shape['gaussians']} radial functions, "
        + form
        + (", self edges" if shape["self_edges"] else ""),
        "parameters": f"{about['parameters']:,}",
        "cutoff": f"{about['cutoff_A']:g} A (radial basis {shape['basis_cutoff']:g} A), lengths in {about['units']}",
        "teacher": about["teacher"],
        "data": ", ".join(part[:12] for part in hashes) or "not known",
        "trained by": f"stemfit {about['trained_by_version']}" if about["trained_by_version"] else "another program",
    }
    lines = [f"{name:<11} {text}" for name, text in facts.items()]
    return "\n".join([*lines, "", *_range(about["hosts"]), "", *_scores(about["scores"])])


def _range(hosts: dict[str, dict[str, Any]]) -> list[str]:
    if not hosts:
        return ["hosts: not known"]
    rows: list[tuple[str, ...]] = [("host", "a / A", "structures", "elements", "kinds of defects")]
    rows += [
        (
            name, f"{seen['a_A']:.4f}", str(seen["structures"] or "?"), " ".join(seen["elements"]),
            " ".join(seen["kinds"]) or "not known",
        )
        for name, seen in hosts.items()
    ]  # fmt: skip
    return _columns(rows)


def _scores(scores: dict[str, float]) -> list[str]:
    """Errors per group, lengths in pm."""
    groups = dict.fromkeys(name.rpartition("/")[0] for name in scores if "/" in name)
    # What training itself says of the weights that it kept: of no group, and no test.
    chosen = scores.get("validation_A")
    first = [] if chosen is None else [f"validation  {100 * chosen:.2f} pm, by which these weights were chosen"]
    if not groups:
        return [*first, "errors: not known"]
    rows: list[tuple[str, ...]] = [
        ("group", "structures", "in plane / pm", "of not moving", "out of plane / pm", "of not moving")
    ]
    for group in groups:
        found = {name.rpartition("/")[2]: value for name, value in scores.items() if name.rpartition("/")[0] == group}
        rows.append(
            (
                group, _form(found.get("structures"), 1, ".0f"), _form(found.get("in_plane_A"), 100, ".2f"),
                _form(found.get("in_plane_ratio"), 1, ".2f"), _form(found.get("out_of_plane_A"), 100, ".2f"),
                _form(found.get("out_of_plane_ratio"), 1, ".2f"),
            )
        )  # fmt: skip
    return [*first, "errors on configurations held out of training:", *_columns(rows)]


def _form(value: float | None, factor: float, form: str) -> str:
    return "-" if value is None else format(factor * value, form)


def _columns(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
