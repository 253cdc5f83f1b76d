"""Workers that are processes of this machine. One that dies takes nothing with it but the image that it was at."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING

from definet.processes import ADDRESS, single_threaded, without_interrupt
from stemfit.batch.memory import memory_of
from stemfit.batch.store import Failure
from stemfit.batch.work import DIED, Job, Method, Outcome, Report, carry_out
from stemfit.errors import SomeFailed

if TYPE_CHECKING:
    from multiprocessing.context import SpawnContext, SpawnProcess

Engine = Callable[[Iterable[Job]], Iterator[Report]]
"""From jobs, taken one by one as there is room, to what came of them, as they end."""

LOOK_S = 0.5
"""Between two looks at the memory of workers."""

HELD = 0.5
"""A worker that still holds this share of its memory after an image is replaced: a new one takes a few seconds."""

IN_A_ROW = 10
"""So many different images with which workers die, before there was an outcome of any: then it is not the images."""


class Worker:
    """A process that does one job at a time."""

    def __init__(self, context: SpawnContext, method: Method, environment: dict[str, str]) -> None:
        here, there = context.Pipe()
        self.connection = here
        self.job: Job | None = None
        self.killed = ""
        with without_interrupt(), single_threaded(environment):
            self.process: SpawnProcess = context.Process(target=_serve, args=(there, method), daemon=True)
            self.process.start()
        there.close()

    def begin(self, job: Job) -> None:
        """Hand it a job; a worker that has died in the meantime is noticed where all are looked at."""
        self.job = job
        with contextlib.suppress(OSError):
            self.connection.send(job)

    def kill(self, why: str) -> None:
        """End it whatever it is doing."""
        self.killed = why
        self.process.kill()

    def ending(self) -> str:
        """How it died."""
        self.process.join()
        code = self.process.exitcode or 0
        if self.killed:
            return self.killed
        if code == -signal.SIGKILL:
            return "it was killed, perhaps because memory ran out"
        return f"{signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def close(self) -> None:
        """End it and wait."""
        self.process.kill()
        self.process.join()
        self.connection.close()


@contextmanager
def processes(count: int, method: Method, memory_bytes: int, networks: Sequence[str] = ()) -> Iterator[Engine]:
    """Workers on this machine.

    Parameters
    ----------
    count : int
    method : Method
    memory_bytes : int
        A worker that holds more is ended.
    networks : sequence of str
        Addresses of processes that hold the network on a GPU each (`definet.service`). Workers ask them in turn and
        leave the GPUs to them. None: each worker holds its own.
    """
    context = multiprocessing.get_context("spawn")
    workers: list[Worker | None] = [None] * count

    def fresh(k: int) -> Worker:
        elsewhere = {"CUDA_VISIBLE_DEVICES": "", ADDRESS: networks[k % len(networks)]} if networks else {}
        return Worker(context, method, elsewhere)

    run = _Run(workers, fresh, memory_bytes)

    def engine(jobs: Iterable[Job]) -> Iterator[Report]:
        yield from run.reports(iter(jobs))

    try:
        yield engine
    finally:
        for worker in workers:
            if worker is not None:
                worker.close()


class _Run:
    """Jobs that go to workers and come back from them."""

    def __init__(self, workers: list[Worker | None], fresh: Callable[[int], Worker], memory_bytes: int) -> None:
        self.workers, self.fresh, self.memory_bytes = workers, fresh, memory_bytes
        self.again: deque[Job] = deque()
        self.deaths: dict[str, int] = {}
        self.in_a_row = 0
        self.works = False

    def reports(self, jobs: Iterator[Job]) -> Iterator[Report]:
        more, self.deaths = True, {}
        while True:
            for k, worker in enumerate(self.workers):
                if worker is None or worker.job is None:
                    job = next(jobs, None) if more else None
                    more = more and job is not None
                    if job is None and not self._busy() and self.again:
                        job = self.again.popleft()  # one at a time: with nobody else there is the most memory
                    if job is None:
                        break
                    self.workers[k] = worker = worker or self.fresh(k)
                    worker.begin(job)
            busy = self._busy()
            if not busy:
                return
            wait([x for worker in busy for x in (worker.connection, worker.process.sentinel)], timeout=LOOK_S)
            for worker in busy:
                report = self._look(worker)
                if report is not None:
                    yield report

    def _busy(self) -> list[Worker]:
        return [worker for worker in self.workers if worker is not None and worker.job is not None]

    def _look(self, worker: Worker) -> Report | None:
        """What it has done, if it has ended."""
        report = _received(worker.connection)
        if report is not None:
            worker.job, self.works = None, True
            if memory_of(worker.process.pid) > HELD * self.memory_bytes:
                self._drop(worker)
            return report
        if not worker.process.is_alive():
            return self._died(worker)
        held = memory_of(worker.process.pid)
        if held > self.memory_bytes:
            limit = f"{self.memory_bytes / 2**30:.1f}"
            worker.kill(f"it needed {held / 2**30:.1f} GiB, and {limit} is the limit; crop or bin it, or ask for fewer "
                        "--workers or more --memory")  # fmt: skip
        return None

    def _died(self, worker: Worker) -> Report | None:
        job, why = worker.job, worker.ending()
        assert job is not None
        self._drop(worker)
        self.deaths[job.key] = self.deaths.get(job.key, 0) + 1
        if worker.killed:
            return died(job, why, self.deaths[job.key])
        if self.deaths[job.key] == 1 and not self.works:
            self.in_a_row += 1
            if self.in_a_row >= IN_A_ROW:
                what = f"{self.in_a_row} workers have died one after the other ({why})"
                raise SomeFailed(what, remedy="try one image with stemfit analyze; the same command goes on")
        if self.deaths[job.key] < DIED:
            self.again.append(job)
            return Report((), notes=({"event": "died", "file": job.inputs[0].name, "reason": why},))
        return died(job, why, self.deaths[job.key])

    def _drop(self, worker: Worker) -> None:
        self.workers[self.workers.index(worker)] = None
        worker.close()


def died(job: Job, why: str, times: int) -> Report:
    """Outcome of images that no worker survives."""
    often = {1: "", 2: " twice"}.get(times, f" {times} times")
    reason = f"the worker died{often} with it: {why}"
    return Report(
        tuple(Outcome(one.name, Failure(one.name, job.key, 1, reason, passing=True), False, 0.0) for one in job.inputs)
    )


def _received(connection: Connection) -> Report | None:
    try:
        found: Report | None = connection.recv() if connection.poll() else None
    except (EOFError, OSError):  # it has died, perhaps while it was answering
        return None
    return found


def gpus() -> int:
    """CUDA devices that there are; torch, which knows, is only asked where there may be some."""
    if not Path("/proc/driver/nvidia").exists():
        return 0
    import torch

    return torch.cuda.device_count()


# -- in the worker -------------------------------------------------------------------------------------------------


def _serve(connection: Connection, method: Method) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.basicConfig(level=logging.CRITICAL)
    logging.captureWarnings(True)
    while True:
        try:
            job = connection.recv()
        except (EOFError, OSError):
            return
        connection.send(carry_out(job, method))


def _end_with_parent() -> None:
    """Without the one who started it a worker would go on in secret."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        time.sleep(0.01)
        os._exit(1)
