"""A batch from its beginning to its end: find, compare with what is on disk, analyse, tell."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from stemfit.batch import owner, store
from stemfit.batch.derive import derive
from stemfit.batch.hashes import Hashes
from stemfit.batch.inputs import ALL, Found, Input, find, hashed, settled
from stemfit.batch.local import Engine
from stemfit.batch.lock import held, turn
from stemfit.batch.plan import Contents, Plan, Request, complete, contents, planned
from stemfit.batch.store import Failure
from stemfit.batch.work import Report
from stemfit.errors import InputError, OutputError

Tell = Callable[[Mapping[str, Any]], None]
"""Told what happens as it does: `event` is "reading", "read" (one file), "plan", "unreadable", "done", "copied",
"failed", "died" (the worker, with an image that will be tried again), "tables" or "end"."""

REFRESH_S = 300.0
"""Between two times that the tables are made while images are analysed."""

PATIENCE = 20.0
"""So many times as long as making them took the tables stay as they are: 5 % of one core at most."""

SAVE_S = 60.0
"""Between two times that hashes are kept while files are read: who is killed does not read all of them again."""

LOOK_S = 2.0
"""Between two looks at a folder that is watched."""


class Watch(NamedTuple):
    """Keep looking for new images.

    Attributes
    ----------
    settle_s : float
        A file is complete when it has not changed for so long.
    """

    settle_s: float


class Ended(NamedTuple):
    """What a run has come to.

    Attributes
    ----------
    inputs : int
        Images of its share.
    finished, done, copied : int
        Results that were there, that were computed, and that were those of equal images.
    failures : tuple of Failure
        Of this run and of those before it.
    peak_MB : float
        Of the worker that needed most.
    told : bool
        Whether tables and pages were made: shards leave that to the last of them.
    left : int
        Images of which nothing is known yet: of a run that was interrupted.
    gone : int
        Results of images that are in the folder no more.
    """

    inputs: int
    finished: int
    done: int
    copied: int
    failures: tuple[Failure, ...]
    peak_MB: float
    told: bool
    left: int = 0
    gone: int = 0


def look(asked: Request, tell: Tell = lambda event: None) -> Plan:
    """Find out what a run would do, and write nothing.

    Raises
    ------
    InputError
        There are no images.
    OutputError
        The results of another folder are there, or files of no batch.
    """
    found = _found(asked)
    owner.check(asked.results, asked.folder, asked.share)
    return planned(asked, _contents(found, found.inputs, _known(asked), tell), asked.results)


def run(
    asked: Request, engine: Callable[[], AbstractContextManager[Engine]], tell: Tell = lambda event: None,
    watch: Watch | None = None,
) -> Ended:
    """Analyse all images of a folder that have no result yet.

    Parameters
    ----------
    asked : Request
    engine : callable
        Gives the workers, for as long as they are needed.
    tell : callable, optional
        Told everything that happens.
    watch : Watch, optional
        Do not end, but wait for new images until interrupted.

    Raises
    ------
    InputError
        There are no images.
    OutputError
        The results cannot be written, or another run writes there.
    StemfitError
        Whatever else keeps all images from being analysed.
    """
    if watch is None:
        _found(asked)  # before anything is made for it
    new = not asked.results.exists()
    owner.claim(asked.results, asked.folder, asked.share)
    with store.writing(asked.results):
        try:
            return _run(asked, engine, tell, watch)
        except BaseException:
            if new:
                owner.give_back(asked.results, asked.share)
            raise


def _run(
    asked: Request, engine: Callable[[], AbstractContextManager[Engine]], tell: Tell, watch: Watch | None
) -> Ended:
    with ExitStack() as until_told:
        with held(asked.results, asked.share) as work:
            note = until_told.enter_context(_journal(asked, tell))
            batch = _Batch(asked, work, note)
            try:
                with engine() as carry_out:
                    if watch is None:
                        found = _found(asked)
                        batch.do(batch.read(found, found.inputs), carry_out)
                    else:
                        batch.watch(watch, carry_out)
                if asked.share == ALL:
                    batch.tables()
            except (KeyboardInterrupt, Exception) as error:
                batch.leave(error)
                raise
        return batch.ended()


class _Batch:
    """The counts of a run."""

    def __init__(self, asked: Request, work: Path, tell: Tell) -> None:
        self.asked, self.work, self.tell = asked, work, tell
        self.contents: Contents | None = None
        self.hashes = _known(asked)
        self.inputs = self.finished = self.done = self.copied = self.left = self.gone = 0
        self.failures: dict[str, Failure] = {}
        self.unreadable: set[str] = set()
        self.peak_MB = 0.0
        self.made_s, self.made_at = 0.0, time.monotonic()
        self.told = self.interrupted = False

    def read(self, found: Found, inputs: Sequence[Input]) -> Contents:
        """What those of the images hold that are ready; what was read is remembered, also by who is interrupted."""
        saved = time.monotonic()

        def tell(event: Mapping[str, Any]) -> None:
            nonlocal saved
            self.tell(event)
            if time.monotonic() - saved > SAVE_S:
                self._remember()
                saved = time.monotonic()

        try:
            return _contents(found, inputs, self.hashes, tell)
        finally:
            self._remember()

    def _remember(self) -> None:
        with suppress(OSError):  # it only saves time
            self.hashes.save()

    def do(self, all_of_it: Contents, carry_out: Engine, again: bool = True) -> None:
        """One pass over a folder; `again` as in `planned`."""
        plan = planned(self.asked, all_of_it, self.work, again)
        self.contents, self.inputs, self.gone = all_of_it, plan.inputs, plan.gone
        self.finished = plan.finished - self.done - self.copied
        self.failures = {one.input: one for one in plan.failures}
        self.left = sum(len(job.inputs) for job in plan.jobs)
        self.tell({"event": "plan", "inputs": plan.inputs, "finished": plan.finished, "failed": len(plan.failures),
                   "todo": self.left, "equal": plan.equal})  # fmt: skip
        for one in plan.failures:
            if one.key is None and one.input not in self.unreadable:
                self.unreadable.add(one.input)
                self.tell({"event": "unreadable", "file": one.input, "reason": one.reason})
        for report in carry_out(plan.jobs):
            self._keep(report)
            if report.stopped is not None:
                raise report.stopped
            wait_s = max(REFRESH_S, PATIENCE * self.made_s)
            if self.asked.share == ALL and time.monotonic() - self.made_at > wait_s:
                self.tables()

    def _keep(self, report: Report) -> None:
        self.peak_MB = max(self.peak_MB, report.peak_MB)
        for event in report.notes:
            self.tell(event)
        for outcome in report.outcomes:
            failure, self.left = outcome.failure, self.left - 1
            if failure is None:
                store.forget_failure(self.asked.results, outcome.input)
                self.done += not outcome.copied
                self.copied += outcome.copied
            else:
                store.write_failure(self.asked.results, failure)
                self.failures[outcome.input] = failure
            told = {} if failure is None else {
                "exit_code": failure.exit_code, "reason": failure.reason, "trace": failure.trace
            }
            kind = "failed" if failure else "copied" if outcome.copied else "done"
            self.tell({"event": kind, "file": outcome.input, "seconds": round(outcome.seconds, 3), **told,
                       "worker_MB": round(report.peak_MB)})  # fmt: skip

    def watch(self, watch: Watch, carry_out: Engine) -> None:
        """Pass after pass over what has settled, until interrupted. What failed is tried again in the first alone."""
        before: dict[str, tuple[int, int]] = {}
        since: dict[str, float] = {}
        passed: dict[str, tuple[int, int]] | None = None
        stale = False
        try:
            while True:
                found = find(self.asked.folder, self.asked.patterns, self.asked.results)
                states, now = settled(found.inputs), time.monotonic()
                since = {name: since.get(name, now) if before.get(name) == state else now
                         for name, state in states.items()}  # fmt: skip
                before = states
                ready = {name: state for name, state in states.items() if now - since[name] >= watch.settle_s}
                self.left = sum(one.name not in (passed or {}) for one in found.inputs)
                if ready != (passed or {}):
                    inputs = [one for one in found.inputs if one.name in ready]
                    self.do(self.read(found, inputs), carry_out, again=passed is None)
                    passed, stale = ready, True
                if stale and self.asked.share == ALL and time.monotonic() - self.made_at > PATIENCE * self.made_s:
                    self.tables()
                    stale = False
                time.sleep(min(LOOK_S, watch.settle_s))
        except KeyboardInterrupt:
            self.interrupted = True

    def tables(self) -> None:
        """Make what is derived from the results, if it is known of what."""
        if self.contents is None:
            return
        began = time.monotonic()
        derive(self.asked, self.contents)
        self.made_at = time.monotonic()
        seconds = self.made_at - began
        self.made_s = seconds if self.told else 0.0  # the first time libraries are loaded for it
        self.told = True
        self.tell({"event": "tables", "seconds": round(seconds, 3)})

    def leave(self, error: BaseException) -> None:
        """Tables of what there is, when something has ended the run; who interrupts a second time does not wait.

        Where results cannot be written tables cannot either.
        """
        known = self.finished + self.done + self.copied + len(self.failures)
        try:
            if self.asked.share == ALL and known and not self.interrupted and not isinstance(error, OutputError):
                with suppress(Exception):
                    self.tables()
        finally:
            with suppress(OSError):
                self._end("interrupted" if isinstance(error, KeyboardInterrupt) else str(error))

    def ended(self) -> Ended:
        """The counts, when all is done; the last share makes the tables."""
        if self.asked.share != ALL and self.contents is not None:
            with turn(self.asked.results / store.OWN / "locks"):  # without it the last one wins, whose tables are whole
                if complete(self.asked, self.contents):
                    self.tables()
        self._end("interrupted" if self.interrupted else "done")
        failures = tuple(self.failures[name] for name in sorted(self.failures))
        return Ended(self.inputs, self.finished, self.done, self.copied, failures, self.peak_MB, self.told, self.left,
                     self.gone)  # fmt: skip

    def _end(self, why: str) -> None:
        self.tell({"event": "end", "why": why, "inputs": self.inputs, "finished": self.finished, "done": self.done,
                   "copied": self.copied, "failed": len(self.failures), "left": self.left})  # fmt: skip


def _known(asked: Request) -> Hashes:
    return Hashes(asked.results / store.OWN / "hashes.json", asked.folder)


def _contents(found: Found, inputs: Sequence[Input], known: Hashes, tell: Tell) -> Contents:
    """What those of the images hold that are ready to be read."""
    tell({"event": "reading", "inputs": len(inputs)})
    read = []
    for one in hashed(inputs, known):
        read.append(one)
        tell({"event": "read"})
    return contents(found, read)


def _found(asked: Request) -> Found:
    found = find(asked.folder, asked.patterns, asked.results)
    if not found.inputs and not found.unreadable:
        what = "there are no images in it" + (f" called {' or '.join(asked.patterns)}" if asked.patterns else "")
        others = ", or other patterns, in quotes: names, or paths below it" if asked.patterns else ""
        raise InputError(what, remedy=f"give the folder of the images{others}", subject=asked.folder)
    return found


@contextmanager
def _journal(asked: Request, tell: Tell) -> Iterator[Tell]:
    """Everything that happens also as lines of JSON, a file for each share; not each file that is read."""
    with (asked.results / owner.journal_of(asked.share)).open("a", encoding="utf-8") as file:

        def note(event: Mapping[str, Any]) -> None:
            tell(event)
            if event["event"] == "read":
                return
            stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
            file.write(json.dumps({"time": stamp, **event}) + "\n")
            file.flush()

        note({"event": "begin", "folder": str(asked.folder), "share": str(asked.share), "code": asked.code,
              "settings": {name: str(value) for name, value in asked.settings.items()}})  # fmt: skip
        yield note
