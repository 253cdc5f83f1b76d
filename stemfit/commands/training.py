"""`stemfit train`, `stemfit dataset make` and `dataset check`: labels from a potential, weights from labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from definet.exceptions import OptionError
from definet.processes import cores, one_thread
from stemfit.commands import exits, options

if TYPE_CHECKING:
    from definet.checking import Checked
    from definet.train import Progress

TRAIN_EXAMPLES = """
Examples:

\b
  stemfit train --data sets/chgnet --out runs/a
  stemfit train --data sets/chgnet --data sets/more --out runs/b --start runs/a/best.safetensors --lr 1e-3
  stemfit train --data 2dmd --out runs/c --channels 128 --batch 24 --device cuda --precision bfloat16
  torchrun --nproc-per-node 4 -m cli train --data 2dmd --out runs/d --batch 24

To see it learn, in three minutes of one core, from a checkout: this ends with an error of about 1.2 pm on nine held-out
structures, 0.17 of what moving nothing leaves (other machines round otherwise).

\b
  stemfit train --data sample_data/mos2_chgnet --out runs/look --steps 2000

A folder of --data is one that `stemfit dataset make` made or the published set (2DMD, Zenodo 14027373), unpacked. The
run's folder gets config.json, metrics.jsonl, curves.png, best.safetensors and state.pt: the same command goes on with a
run that was stopped.

Exit codes: 0 done, 2 wrong usage, or settings that do not fit the run in --out, 3 data missing or damaged, 5 output
cannot be written, 6 weights cannot be used or training diverged.
"""

MAKE_EXAMPLES = """
Examples:

\b
  stemfit dataset make --out sets/chgnet --host MoS2=3 WSe2=3 WS2 --count 500 --seed 1 --jobs 8
  stemfit dataset make --out sets/mine --host hBN --count 200 --potential mypackage.potentials:factory
  stemfit dataset make --out sets/chgnet --host MoS2 --count 5000 --dask tcp://head:8786

The same command goes on with a set that was stopped; a larger --count adds to it.

Exit codes: 0 done, 2 wrong usage or unknown host, 5 output cannot be written, 6 the potential cannot be used.
"""

CHECK_EXAMPLES = """
Example:

\b
  stemfit dataset check sets/chgnet --jobs 8

What fails is taken out of the shards: keep a copy. The same command goes on with a check that was stopped.

Exit codes: 0 done, 2 wrong usage, 3 data missing or damaged, 5 output cannot be written, 6 potential cannot be used.
"""

dataset = typer.Typer(help="Make and check training sets.", no_args_is_help=True)


def train(
    data: Annotated[
        list[Path], typer.Option(metavar="DIR", help="Training set; may be given several times.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of the run; a stopped run goes on.", show_default=False)
    ],
    channels: Annotated[int, typer.Option(min=1, help="Width of the network.")] = 32,
    layers: Annotated[int, typer.Option(min=1, help="Depth of the network.")] = 2,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the optimiser.")] = 4000,
    batch: Annotated[int, typer.Option(min=1, help="Structures per step, of all processes together.")] = 2,
    optimizer: Annotated[
        Literal["soap", "adamw"], typer.Option(help="adamw is the published one; soap gets further in the same time.")
    ] = "soap",
    lr: Annotated[float, typer.Option(help="Largest learning rate.")] = 5e-3,
    schedule: Annotated[
        Literal["cosine", "plateau"], typer.Option(help="Along a cosine, or down where the validation stands still.")
    ] = "cosine",
    validate_every: Annotated[int, typer.Option(min=1, help="Steps between validations.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Of initial weights and of the order of the structures.")] = 0,
    start: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Weights to begin with, of the same architecture.")
    ] = None,
    device: options.NetworkDevice = "auto",
    precision: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="Of matrix products; bfloat16 on a GPU only.")
    ] = "float32",
    verbose: options.Verbose = False,
    config: options.Config = None,
    debug: options.Debug = False,
) -> None:
    """Train the network on relaxed structures; the weights that are best on held-out ones are kept."""
    with exits.errors("train", verbose, debug), exits.interruptible():
        if not 0 < lr < float("inf"):
            raise OptionError(f"--lr {lr:g} is no learning rate", "Choose a positive number.")
        settings = {
            "steps": steps, "batch": batch, "optimizer": optimizer, "lr": lr, "schedule": schedule,
            "validate_every": validate_every, "seed": seed, "precision": precision,
        }  # fmt: skip
        one_thread()
        with exits.progress(verbose) as progress:
            said = _train(data, out, (channels, layers), settings, start, device, _pace(progress, verbose))
        if said:
            typer.echo(said)


def _train(
    data: list[Path],
    out: Path,
    size: tuple[int, int],
    settings: dict[str, Any],
    start: Path | None,
    device: str,
    progress: Callable[[str | Progress], None],
) -> str:
    """What is said at the end, by the first of several processes."""
    from definet.checkpoint import load_checkpoint
    from definet.dataset import data_sha256, load, split
    from definet.model import ModelConfig
    from definet.predict import resolve_device
    from definet.train import TrainConfig, joined, provenance
    from definet.train import train as run

    progress("reading")
    config = TrainConfig(ModelConfig(channels=size[0], layers=size[1]), **settings)
    begin = load_checkpoint(start) if start else None
    parts = split([sample for folder in data for sample in load(folder)])
    source = provenance(parts["train"], " ".join(data_sha256(folder) for folder in data))
    with joined(resolve_device(device)) as (processes, place):
        best = run(
            parts["train"], parts["valid"], config, out, source, begin,
            device=place, processes=processes, report=progress,
        )  # fmt: skip
    if not processes.first:
        return ""
    progress("drawing")
    unmoved = _draw(out)
    error = best.scores["validation_A"]
    return "\n".join(
        [
            f"structures  {len(parts['train'])} to learn from, {len(parts['valid'])} to validate on",
            f"validation  {100 * error:.2f} pm mean error; {100 * unmoved:.2f} if nothing moves: "
            f"{error / unmoved if unmoved else float('nan'):.2f} of that is left",
            f"weights     {out / 'best.safetensors'}",
            f"curves      {out / 'curves.png'}",
        ]
    )


def _draw(run: Path) -> float:
    """Draw the curves of a run; its validation error if nothing moves, Angstrom."""
    import json

    from definet.train.run import history
    from stemfit.figures import save
    from stemfit.figures.training import curves

    unmoved = float(json.loads((run / "config.json").read_text())["unmoved_A"])
    save(curves(history(run), unmoved), run / "curves.png")
    return unmoved


@dataset.command(epilog=MAKE_EXAMPLES)
def make(
    out: Annotated[Path, typer.Option(metavar="DIR", help="The set; one that was begun is gone on with.")],
    host: Annotated[
        list[str],
        typer.Option(metavar="NAME=WEIGHT", help="Host, and how often it is drawn; one or several."),
    ],
    count: Annotated[int, typer.Option(min=1, help="Defects to draw, in all.")],
    more: Annotated[list[str] | None, typer.Argument(metavar="[NAME=WEIGHT]...", help="More hosts.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn.")] = 0,
    potential: Annotated[
        str, typer.Option(metavar="NAME", help="chgnet, sevennet-0, or module:factory of an ASE calculator.")
    ] = "chgnet",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes.  [default: one per core]", show_default=False)
    ] = None,
    dask: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Let the workers of a Dask cluster do it.")
    ] = None,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Draw random defects and relax them with a potential: structures to learn from."""
    with exits.errors("dataset make", verbose, debug), exits.interruptible():
        one_thread()
        from definet.checking import counted
        from definet.making import make as making
        from definet.making import shards, weights

        done: list[str] = []
        with exits.progress(verbose) as progress:

            def report(line: str) -> None:
                done.append(line)
                progress(line if verbose else f"{len(done)} relaxed")

            progress("loading")
            hosts = weights([*host, *(more or [])])
            making(out, hosts, count, seed, potential, report, jobs=jobs or cores(), dask=dask)
            found = counted(shards(out, count))
        typer.echo(_counts(out, found))


@dataset.command(epilog=CHECK_EXAMPLES)
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A set that was made here.", show_default=False)],
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes.  [default: one per core]", show_default=False)
    ] = None,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Judge a set by today's rules; suspicious structures are relaxed a second time."""
    with exits.errors("dataset check", verbose, debug), exits.interruptible():
        one_thread()
        from definet.checking import check as checking

        with exits.progress(verbose) as progress:
            progress("loading")
            found = checking(folder, progress, jobs=jobs or cores())
        typer.echo(_counts(folder, found))


def _counts(folder: Path, found: Checked) -> str:
    """Samples that are there, and under them how many were left out of each host and why."""
    lines = [f"  {count:5d} {reason} {host}".rstrip() for (host, reason), count in sorted(found.left_out.items())]
    return "\n".join([f"{found.kept} samples in {folder}, {found.left_out.total()} left out", *lines])


def _pace(progress: Callable[[str], None], verbose: bool) -> Callable[[str | Progress], None]:
    """Words as they come; of the steps all on a terminal, with -v only those with a new validation."""
    last: list[float | None] = [None]

    def tell(news: str | Progress) -> None:
        if isinstance(news, str):
            progress(news)
        elif not verbose or news.validation_A != last[0]:
            last[0] = news.validation_A
            progress(_line(news))

    return tell


def _line(at: Progress) -> str:
    minutes, seconds = divmod(int(at.seconds_left), 60)
    told = "none yet" if at.validation_A is None else f"{100 * at.validation_A:.2f} pm"
    return (
        f"step {at.step} of {at.steps}, loss {at.loss:.3g}, validation {told} (unmoved {100 * at.unmoved_A:.2f}), "
        f"{at.steps_per_s:.1f} steps/s, {minutes // 60}:{minutes % 60:02d}:{seconds:02d} left"
    )
