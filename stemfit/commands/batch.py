"""`stemfit batch`: a folder of images, with local processes or a cluster; what is said meanwhile and at the end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from definet.processes import cores
from stemfit.commands import asking, exits, options, saying
from stemfit.errors import InputError, SomeFailed, UsageError

if TYPE_CHECKING:
    from stemfit.batch import Ended, Plan, Request
    from stemfit.batch.local import Engine

EXAMPLES = """
Examples:

\b
  stemfit batch monday --out results
  stemfit batch monday '*_HAADF.dm4' 'spot5/*' --out results --host WSe2 --workers 8
  stemfit batch monday --out results --dry-run
  stemfit batch monday --out results --watch
  stemfit batch monday --out results --shard 1/4
  stemfit batch monday --out results --dask tcp://head:8786

Results are RESULTS/<path of the image>.stemfit; beside them summary.csv, summary.parquet, index.sqlite, statistics.csv,
index.html (a gallery) and log.jsonl. The same command goes on with a batch that was stopped, however it was: what is
finished is not computed again unless the file, the options or the code have changed. docs/batch.md tells more.

Exit codes: 0 done, 2 wrong usage, 3 folder missing or empty, 5 results cannot be written or are of another folder,
6 model cannot be used, 10 some images failed (the others are done), 130 stopped before all was done.
"""

LINE_S = 300.0
"""Between two lines that say how far it is, where nobody looks at a bar."""

MOST_LISTED = 10
"""Failures that the summary lists; the tables hold all."""


def batch(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Images, in it and below it.", show_default=False)],
    out: Annotated[Path, typer.Option(metavar="RESULTS", help="Folder of the results.", show_default=False)],
    patterns: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PATTERN]...", help="Names or paths with * and ?.  [default: all kinds of images]"),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Processes.  [default: one per core]", show_default=False),
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(metavar="GIB", help="Most for each process.  [default: its share of 90 %]", show_default=False),
    ] = None,
    dask: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Work on a Dask cluster, tcp://...; local: one of its own.")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Do the I-th of N shares, I from 1; several run side by side.")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed/--no-retry-failed", help="Try again all that failed before.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run/--no-dry-run", help="Say what there is to do, and do nothing.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch/--no-watch", help="Go on with files that appear, until Ctrl-C.")
    ] = False,
    settle: Annotated[
        float, typer.Option(metavar="SECONDS", help="With --watch: a file is complete that has not changed so long.")
    ] = 5.0,
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
    device: options.ImageDevice = "auto",
    verbose: options.Verbose = False,
    config: options.Config = None,
    debug: options.Debug = False,
) -> None:
    """Analyse all images of a folder, each by itself; go on where it was stopped."""
    with exits.errors(folder, verbose, debug), exits.interruptible():
        asked = asking.analysis(
            host, pixel_size, voltage, convergence, detector, roi, mask, signal, frame, relaxer, checkpoint, simulator,
            temperature, device,
        )  # fmt: skip
        if asking.positive("--settle", settle) and dry_run and watch:
            raise UsageError("--dry-run does not go with --watch", remedy="leave one of them out")
        request = _request(folder, out, patterns, asked, shard, retry_failed)
        if dry_run:
            from stemfit.batch import look

            typer.echo(_planned(request, look(request)))
            return
        from stemfit.batch import Watch, run

        engine, said = _engine(workers, asking.positive("--memory", memory), dask, asked)
        typer.echo(said, err=True)
        with _progress(verbose) as tell:
            ended = run(request, engine, tell, Watch(settle) if watch else None)
        typer.echo(_ended(request, ended))
        if ended.left:
            raise KeyboardInterrupt
        if ended.failures:
            what = f"{len(ended.failures)} of {ended.inputs} images failed"
            raise SomeFailed(what, remedy=f"see {out / 'summary.csv'}; --retry-failed tries them again")


def _request(
    folder: Path, out: Path, patterns: list[str] | None, asked: dict[str, Any], shard: str | None, retry_failed: bool
) -> Request:
    """Everything that can be wrong for all images is found out before the first."""
    from stemfit.batch import Request
    from stemfit.batch.inputs import shard as share
    from stemfit.crystal_file import asked_host

    asked_host(asked["host"])
    asking.check_microscope(asked["voltage"], asked["convergence"], asked["detector"])
    if asked["checkpoint"] is not None and asked["relaxer"] != "definet":
        raise UsageError(f"--checkpoint does not go with --relaxer {asked['relaxer']}", remedy="leave one of them out")
    if asked["mask"] is not None and not asked["mask"].is_file():
        raise InputError("no such file", remedy="check the path of --mask", subject=asked["mask"])
    settings = {name: str(value.absolute()) if isinstance(value, Path) else value for name, value in asked.items()}
    if settings["host"].lower().endswith(".cif"):
        settings["host"] = str(Path(settings["host"]).absolute())
    below = tuple(_below(folder, pattern) for pattern in patterns or ())
    return Request(folder.absolute(), out.absolute(), settings, below, share(shard), retry_failed)


def _below(folder: Path, pattern: str) -> str:
    """A pattern that begins with the folder is meant below it: the shell writes it so where quotes are missing."""
    for start in (f"{folder}/", f"{folder.absolute()}/"):
        if pattern.startswith(start) and not (folder / start.strip("/")).exists():
            return pattern.removeprefix(start)
    return pattern


def _engine(
    workers: int | None, memory_GiB: float | None, dask: str | None, asked: Mapping[str, Any]
) -> tuple[Callable[[], AbstractContextManager[Engine]], str]:
    """Who works, and a line that says so."""
    from definet.predict import resolve_device
    from stemfit.batch.local import gpus
    from stemfit.batch.memory import share_of_memory
    from stemfit.batch.work import ANALYSIS

    if dask not in (None, "local") and (workers or memory_GiB):
        what = f"--{'workers' if workers else 'memory'} does not go with --dask {dask}"
        raise UsageError(what, remedy="workers of a cluster are given to dask worker (--nworkers, --memory-limit)")
    count = workers or cores()
    memory = int(memory_GiB * 2**30) if memory_GiB else share_of_memory(count)
    each = f"1 thread and at most {memory / 2**30:.1f} GiB each"
    if dask is not None:
        from stemfit.batch.cluster import cluster

        here = f"{count} worker{'s' * (count > 1)} of a Dask cluster here, {each}"
        where = here if dask == "local" else f"the Dask cluster at {dask}"
        return lambda: cluster(dask, count, ANALYSIS, memory), f"workers     {where}"
    if asked["device"] == "cuda":
        resolve_device("cuda")
    devices = gpus() if asked["device"] != "cpu" and asked["relaxer"] == "definet" else 0
    on = f"; the network on {devices} GPU{'s' * (devices > 1)} for all" if devices else ""
    said = f"workers     {count} process{'es' * (count > 1)}, {each}{on}"
    return lambda: _on_this_machine(count, memory, [f"cuda:{k}" for k in range(devices)], asked["checkpoint"]), said


@contextmanager
def _on_this_machine(count: int, memory: int, devices: Sequence[str], weights: Path | None) -> Iterator[Engine]:
    """Processes for the images, and one for each GPU that holds the network."""
    from stemfit.batch.local import processes
    from stemfit.batch.work import ANALYSIS

    with ExitStack() as stack:
        networks: list[str] = []
        if devices:
            from definet.checkpoint import shipped
            from definet.service import serving

            networks = [stack.enter_context(serving(weights or shipped(), device)) for device in devices]
        yield stack.enter_context(processes(count, ANALYSIS, memory, networks))


# -- what is said --------------------------------------------------------------------------------------------------


@contextmanager
def _progress(verbose: bool) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A bar with rate, time left and failures on a terminal; a line for each image with -v; else one now and then."""
    if verbose:
        yield lambda event: None if event["event"] == "read" else typer.echo(_line(event), err=True)
        return
    if not sys.stderr.isatty():
        yield _now_and_then(Pace())
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
    from rich.text import Text

    pace = Pace()

    class PaceColumn(ProgressColumn):
        """Drawn anew all the time: an image that takes long makes the rest take longer, too."""

        def render(self, task: Any) -> Text:
            return Text(pace.text())

    columns = (
        TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), PaceColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task(pace.doing, total=None)

        def tell(event: Mapping[str, Any]) -> None:
            pace.take(event)
            shown.update(task, description=pace.doing, total=pace.total, completed=pace.ended)

        yield tell


def _now_and_then(pace: Pace) -> Callable[[Mapping[str, Any]], None]:
    """A line every few minutes, for a log that somebody looks at."""
    said = pace.clock()

    def tell(event: Mapping[str, Any]) -> None:
        nonlocal said
        pace.take(event)
        if pace.clock() - said >= LINE_S and pace.total:
            said = pace.clock()
            typer.echo("  ".join([f"{pace.doing:<12}{pace.ended} of {pace.total}", pace.text()]).rstrip(), err=True)

    return tell


class Pace:
    """How fast it goes, from what happens."""

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        import time

        self.clock = clock or time.monotonic
        self.doing, self.total = "looking", None
        self.ended = self.failed = 0
        self.began = self.clock()

    def take(self, event: Mapping[str, Any]) -> None:
        """Count an event."""
        kind = event["event"]
        if kind == "reading":
            self.doing, self.total, self.ended, self.began = "reading", event["inputs"], 0, self.clock()
        elif kind == "read":
            self.ended += 1
        elif kind == "plan":
            self.doing, self.total, self.ended, self.began = "analysing", event["todo"], 0, self.clock()
            self.failed = event["failed"]
        elif kind in ("done", "copied", "failed"):
            self.ended += 1
            self.failed += kind == "failed"

    def text(self) -> str:
        """Failures, images per minute, time left."""
        failed = f"{self.failed} failed" if self.failed else ""
        if not self.ended or self.total is None:
            return failed
        rate = self.ended / max(self.clock() - self.began, 1e-9)
        left = round((self.total - self.ended) / rate)
        time_left = f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"
        return "  ".join(filter(None, [failed, f"{60 * rate:.1f}/min", time_left]))


def _line(event: Mapping[str, Any]) -> str:
    """One event in words."""
    kind = event["event"]
    if kind == "plan":
        return f"{event['inputs']} images: {event['todo']} to do, {event['finished']} done, {event['failed']} failed"
    if kind in ("done", "copied", "failed"):
        what = f"{event['file']} ({event['seconds']:.1f} s)"
        return f"{kind:<8}{what}" + (f": {event['reason']}" if kind == "failed" else "")
    if kind in ("unreadable", "died"):
        what = "a worker died with it, it will be tried again: " if kind == "died" else ""
        return f"{kind:<8}{event['file']}: {what}{event['reason']}"
    return str(kind)


def _planned(request: Request, plan: Plan) -> str:
    """What a run would do."""
    todo = sum(len(job.inputs) for job in plan.jobs)
    unreadable = sum(one.key is None for one in plan.failures)
    names = [one.name for job in plan.jobs for one in job.inputs]
    return "\n".join(
        [
            f"images      {plan.inputs} in {request.folder}"
            + (f", share {request.share}" if request.share.of > 1 else ""),
            f"done        {plan.finished}",
            f"failed      {len(plan.failures) - unreadable}, not tried again without --retry-failed",
            *([f"unreadable  {unreadable}, tried again by every run"] if unreadable else []),
            f"to do       {todo}, {plan.equal} of them equal to others",
            *(f"  {name}" for name in names[: saying.MAX_ROWS]),
            *([f"  ... and {len(names) - saying.MAX_ROWS} more"] if len(names) > saying.MAX_ROWS else []),
            *_gone(plan.gone),
        ]
    )


def _gone(results: int) -> list[str]:
    """That results stand there of which the images do not."""
    what = "1 result here is of a file that is" if results == 1 else f"{results} results here are of files that are"
    return [f"gone        {what} gone"] if results else []


def _ended(request: Request, ended: Ended) -> str:
    """What a person wants to know first."""
    lines = [
        f"images      {ended.inputs}" + (f", share {request.share}" if request.share.of > 1 else ""),
        f"computed    {ended.done}, {ended.copied} more are equal to others, {ended.finished} were there",
        f"failed      {len(ended.failures)}",
        *(f"  {one.input}: {one.reason}" for one in ended.failures[:MOST_LISTED]),
        *([f"  ... and {len(ended.failures) - MOST_LISTED} more"] if len(ended.failures) > MOST_LISTED else []),
    ]
    lines += _gone(ended.gone)
    if ended.left:
        lines.append(f"not done    {ended.left}")
    if ended.peak_MB:
        lines.append(f"memory      at most {ended.peak_MB / 1024:.2f} GiB in a worker")
    if ended.told:
        from stemfit.batch.remarks import remarks

        lines += [f"note        {text}" for text in remarks(request.results)]
    later = "the last share to end makes the tables" if request.share.of > 1 else "not made yet"
    where = request.results / "index.html" if ended.told else later
    return "\n".join([*lines, f"gallery     {where}"])
