"""One image in isolation: what a worker does, wherever it runs."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from definet.exceptions import ServiceError
from definet.processes import ADDRESS
from stemfit.batch import blame, store
from stemfit.batch.inputs import Input
from stemfit.batch.keys import code_version
from stemfit.batch.store import Failure, Sidecar
from stemfit.batch.thumbnail import NAME as PICTURE
from stemfit.batch.whole import copied, restore
from stemfit.errors import InputError, NotAnalysable, OutputError, StemfitError, UsageError

DIED = 2
"""A worker that dies with an image is replaced, and the image tried again; so many deaths are the image's own."""


class Method(NamedTuple):
    """How images are analysed, by functions that every worker can import.

    Attributes
    ----------
    prepare : callable
        Told the settings once in every worker: loads models. What it raises ends the run.
    analyse : callable
        From the path of an image, the settings and the path of a folder: writes the result.
    """

    prepare: Callable[[Mapping[str, Any]], None]
    analyse: Callable[[Path, Mapping[str, Any], Path], None]


@dataclass(frozen=True)
class Job:
    """One content: an image, and all others that are equal to it.

    Attributes
    ----------
    inputs : tuple of Input
        Those without a result; never empty.
    sha256 : str
        What they hold.
    settings : mapping
        Keyword arguments of `stemfit.analyze`.
    settings_sha256, code, key : str
    known : str or None
        Image that has this result already.
    root, work : path
        Of the results, and of what is not finished.
    """

    inputs: tuple[Input, ...]
    sha256: str
    settings: Mapping[str, Any]
    settings_sha256: str
    code: str
    key: str
    known: str | None
    root: Path
    work: Path

    def sidecar(self, name: str) -> Sidecar:
        """What the result of one of the images is of."""
        return Sidecar(name, self.sha256, self.settings_sha256, self.code, self.key)


class Outcome(NamedTuple):
    """What became of one image.

    Attributes
    ----------
    input : str
    failure : Failure or None
    copied : bool
        The result was that of an equal image.
    seconds : float
    """

    input: str
    failure: Failure | None
    copied: bool
    seconds: float


class Report(NamedTuple):
    """What came of a job.

    Attributes
    ----------
    outcomes : tuple of Outcome
    stopped : Exception or None
        Why nothing further can be done, whatever the image.
    peak_MB : float
        Of the worker's memory until now.
    notes : tuple of mapping
        What happened on the way, as events: a worker that died with an image that will be tried again.
    """

    outcomes: tuple[Outcome, ...]
    stopped: Exception | None = None
    peak_MB: float = 0.0
    notes: tuple[Mapping[str, Any], ...] = ()


_ALONE = threading.Lock()
"""Drawing is not made for several threads, which workers of a cluster may have."""


def carry_out(job: Job, method: Method) -> Report:
    """Analyse an image, and write its result for each of those that are equal to it.

    Whatever an image does is an outcome. What raises is the way in which the work is set up.
    """
    with _ALONE:
        outcomes: list[Outcome] = []
        try:
            _check(job)
            _prepared(method.prepare, json.dumps(job.settings, sort_keys=True, default=str))
            done = job.known
            for one in job.inputs:
                outcome = _outcome(job, one, done, method)
                outcomes.append(outcome)
                done = done if outcome.failure else one.name
                if outcome.failure and not outcome.copied and outcome.failure.exit_code != OutputError.exit_code:
                    outcomes += [_likewise(outcome, other) for other in job.inputs[len(outcomes) :]]
                    break
        except Exception as error:
            return Report(tuple(outcomes), _portable(error), peak_MB())
        return Report(tuple(outcomes), None, peak_MB())


def _check(job: Job) -> None:
    """That this worker would do the same as any other."""
    where = socket.gethostname()
    if not job.root.is_dir():
        remedy = "workers need the folders of images and results under the same path"
        raise InputError(f"is not there for the worker on {where}", remedy=remedy, subject=job.root)
    if job.code != code_version():
        what = f"the worker on {where} has another version of stemfit ({code_version()}, not {job.code})"
        raise UsageError(what, remedy="install the same one everywhere, and start the workers again")


@cache
def _prepared(prepare: Callable[[Mapping[str, Any]], None], settings: str) -> None:
    """Once in every worker; settings as text, which can be compared."""
    prepare(json.loads(settings))


def _outcome(job: Job, one: Input, done: str | None, method: Method) -> Outcome:
    """Raises only what ends the run."""
    began, copied = time.monotonic(), done is not None
    place: Path | None = None
    restore(job.work, job.root, one.name)  # a worker may have died while it replaced the result
    if store.finished(job.root, one.name) == job.sidecar(one.name):
        return Outcome(one.name, None, copied, 0.0)  # by a worker that died before it could say so
    try:
        store.check_free(job.root, one.name, job.sha256)
        place = Path(tempfile.mkdtemp(dir=job.work)) / "result"
        if done is None:
            _analysed(job, one, place, method)
        else:
            _again(store.folder_of(job.root, done), one, place)
        store.publish(place, job.root, job.sidecar(one.name))
        failure = None
    except ServiceError:
        raise
    except Exception as error:
        full = blame.full(error)
        if full is not None:
            with store.writing(job.root):
                raise OSError(full, os.strerror(full)) from error
        code, reason = blame.said(error, one.path)
        trace = "".join(traceback.format_exception(error))
        failure = Failure(one.name, job.key, code, reason, trace, blame.passing(error))
    finally:
        if place is not None:
            store.keep_picture(place.parent / PICTURE, job.root, one.name)
            shutil.rmtree(place.parent, ignore_errors=True)
    return Outcome(one.name, failure, copied, time.monotonic() - began)


def _likewise(outcome: Outcome, other: Input) -> Outcome:
    """What an equal image does, too."""
    assert outcome.failure is not None
    return Outcome(other.name, replace(outcome.failure, input=other.name), True, 0.0)


def _analysed(job: Job, one: Input, place: Path, method: Method) -> None:
    method.analyse(one.path, job.settings, place)
    document = json.loads((place / "analysis.json").read_text(encoding="utf-8"))
    if document["input"]["sha256"] != job.sha256:
        raise InputError("changed while it was read", remedy="run again when it is complete", subject=one.path)


def _again(result: Path, one: Input, place: Path) -> None:
    """The result of an equal image, with the name of this one."""
    from stemfit.result.document import to_json

    copied(result, place)
    path = place / "analysis.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["input"]["path"] = str(one.path)
    path.write_text(to_json(document), encoding="utf-8", newline="\n")
    if (place / "report.html").exists():
        from stemfit.analysis import Analysis
        from stemfit.pages import draw_again

        draw_again(Analysis.load(place), place)


def _portable(error: Exception) -> Exception:
    """An error that crosses processes: those of other packages may hold anything."""
    from definet.exceptions import DefinetError

    if isinstance(error, DefinetError):
        return error
    what = " ".join(f"unexpected {type(error).__name__} ({error})".split())
    return StemfitError(what, remedy="run again with --debug and report the traceback")


def peak_MB() -> float:
    """Peak memory of this process."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# -- the analysis --------------------------------------------------------------------------------------------------


def _prepare(settings: Mapping[str, Any]) -> None:
    """Load the network, or whatever relaxes: what keeps it from being used keeps every image from being analysed."""
    import torch

    from stemfit import relax

    torch.set_num_threads(1)
    weights = settings.get("checkpoint")
    relax.relaxer(settings["relaxer"], _device(settings), None if weights is None else Path(weights))


def _analyse(path: Path, settings: Mapping[str, Any], out: Path) -> None:
    from stemfit import api
    from stemfit.batch import thumbnail

    here = {**settings, "device": _device(settings)}
    try:
        found = api.analyze(path, **here, out=out)
    except NotAnalysable:
        with suppress(StemfitError):  # where it is no single grey image
            thumbnail.save(api.open(path, frame=settings["frame"], signal=settings["signal"]).image, out.parent)
        raise
    thumbnail.save(found.image, out)


def _device(settings: Mapping[str, Any]) -> str:
    """Of this process: where another one holds the network on a GPU, that GPU is not for the columns of all others."""
    return "cpu" if ADDRESS in os.environ else str(settings["device"])


ANALYSIS = Method(_prepare, _analyse)
"""`stemfit analyze`."""
