"""A batch from its beginning to its end: find, compare with what is on disk, analyse, tell."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from stemfit.batch import owner, store
from stemfit.batch.derive import derive
from stemfit.batch.inputs import ALL, Found, find, hashed, settled
from stemfit.batch.local import Engine
from stemfit.batch.lock import held, turn
from stemfit.batch.plan import Contents, Plan, Request, complete, contents, planned
from stemfit.batch.store import Failure
from stemfit.batch.work import Report
from stemfit.errors import InputError

Tell = Callable[[Mapping[str, Any]], None]
"""Told what happens as it does: `event` is "reading", "plan", "done", "copied", "failed", "tables" or "end"."""

REFRESH_S = 300.0
"""Between two times that the tables are made while images are analysed."""

PATIENCE = 20.0
"""So many times as long as making them took the tables stay as they are: 5 % of one core at most."""

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
    """

    inputs: int
    finished: int
    done: int
    copied: int
    failures: tuple[Failure, ...]
    peak_MB: float
    told: bool


def look(asked: Request, tell: Tell = lambda event: None) -> Plan:
    """Find out what a run would do, and write nothing.

    Raises
    ------
    InputError
        There are no images.
    """
    return planned(asked, _contents(asked, tell), asked.results)


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
    owner.claim(asked.results, asked.folder, asked.share)
    with store.writing(asked.results):
        return _run(asked, engine, tell, watch)


def _run(
    asked: Request, engine: Callable[[], AbstractContextManager[Engine]], tell: Tell, watch: Watch | None
) -> Ended:
    with held(asked.results, asked.share) as work, _journal(asked, tell) as note, engine() as carry_out:
        batch = _Batch(asked, work, carry_out, note)
        if watch is None:
            all_of_it = _contents(asked, note)
            batch.do(all_of_it)
        else:
            all_of_it = batch.watch(watch)
        if asked.share == ALL:
            batch.tables(all_of_it)
    told = asked.share == ALL
    if not told:
        with turn(asked.results):
            if complete(asked, all_of_it):
                derive(asked, all_of_it)
                told = True
    return batch.ended(told)


class _Batch:
    """The counts of a run."""

    def __init__(self, asked: Request, work: Path, carry_out: Engine, tell: Tell) -> None:
        self.asked, self.work, self.carry_out, self.tell = asked, work, carry_out, tell
        self.inputs = self.finished = self.done = self.copied = 0
        self.failures: dict[str, Failure] = {}
        self.peak_MB = 0.0
        self.made_s, self.made_at = 0.0, time.monotonic()

    def do(self, all_of_it: Contents) -> None:
        """One pass over a folder."""
        plan = planned(self.asked, all_of_it, self.work)
        self.inputs, self.finished = plan.inputs, plan.finished - self.done - self.copied
        self.failures = {one.input: one for one in plan.failures}
        todo = sum(len(job.inputs) for job in plan.jobs)
        self.tell({"event": "plan", "inputs": plan.inputs, "finished": plan.finished, "failed": len(plan.failures),
                   "todo": todo, "equal": plan.equal})  # fmt: skip
        for report in self.carry_out(plan.jobs):
            self._keep(report)
            if report.stopped is not None:
                raise report.stopped
            wait_s = max(REFRESH_S, PATIENCE * self.made_s)
            if self.asked.share == ALL and time.monotonic() - self.made_at > wait_s:
                self.tables(all_of_it)

    def _keep(self, report: Report) -> None:
        self.peak_MB = max(self.peak_MB, report.peak_MB)
        for outcome in report.outcomes:
            failure = outcome.failure
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
            event = "failed" if failure else "copied" if outcome.copied else "done"
            self.tell({"event": event, "file": outcome.input, "seconds": round(outcome.seconds, 3), **told,
                       "worker_MB": round(report.peak_MB)})  # fmt: skip

    def watch(self, watch: Watch) -> Contents:
        """Pass after pass over what has settled, until interrupted."""
        before: dict[str, tuple[int, int]] = {}
        since: dict[str, float] = {}
        passed: dict[str, tuple[int, int]] = {}
        all_of_it = Contents({}, ())
        try:
            while True:
                found = find(self.asked.folder, self.asked.patterns, self.asked.results)
                states, now = settled(found.inputs), time.monotonic()
                since = {name: since.get(name, now) if before.get(name) == state else now
                         for name, state in states.items()}  # fmt: skip
                before = states
                ready = {name: state for name, state in states.items() if now - since[name] >= watch.settle_s}
                if ready != passed:
                    inputs = [one for one in found.inputs if one.name in ready]
                    all_of_it = contents(found, list(hashed(inputs)))
                    self.do(all_of_it)
                    passed = ready
                    if self.asked.share == ALL:
                        self.tables(all_of_it)
                time.sleep(min(LOOK_S, watch.settle_s))
        except KeyboardInterrupt:
            return all_of_it

    def tables(self, all_of_it: Contents) -> None:
        """Make what is derived from the results."""
        began = time.monotonic()
        derive(self.asked, all_of_it)
        self.made_at = time.monotonic()
        self.made_s = self.made_at - began
        self.tell({"event": "tables", "seconds": round(self.made_s, 3)})

    def ended(self, told: bool) -> Ended:
        """The counts, when all is done."""
        failures = tuple(self.failures[name] for name in sorted(self.failures))
        return Ended(self.inputs, self.finished, self.done, self.copied, failures, self.peak_MB, told)


def _contents(asked: Request, tell: Tell) -> Contents:
    found = _found(asked)
    tell({"event": "reading", "inputs": len(found.inputs)})
    return contents(found, list(hashed(found.inputs)))


def _found(asked: Request) -> Found:
    found = find(asked.folder, asked.patterns, asked.results)
    if not found.inputs and not found.unreadable:
        what = "there are no images in it" + (f" called {' or '.join(asked.patterns)}" if asked.patterns else "")
        raise InputError(what, remedy="give the folder of the images, or other patterns", subject=asked.folder)
    return found


@contextmanager
def _journal(asked: Request, tell: Tell) -> Iterator[Tell]:
    """Everything that happens also as lines of JSON, a file for each share."""
    with (asked.results / owner.journal_of(asked.share)).open("a", encoding="utf-8") as file:

        def note(event: Mapping[str, Any]) -> None:
            stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
            file.write(json.dumps({"time": stamp, **event}) + "\n")
            file.flush()
            tell(event)

        note({"event": "begin", "folder": str(asked.folder), "share": str(asked.share), "code": asked.code,
              "settings": {name: str(value) for name, value in asked.settings.items()}})  # fmt: skip
        yield note
