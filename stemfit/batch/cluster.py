"""Workers of a Dask cluster: they share nothing with this process but the files."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from definet.exceptions import OptionError
from definet.processes import dask_client, single_threaded
from stemfit.batch.local import Engine, died
from stemfit.batch.work import Job, Method, Report, carry_out
from stemfit.errors import SomeFailed

AHEAD = 2
"""Jobs for each worker that the scheduler knows: one at work and one that waits. It never holds the whole folder."""

COUNT_S = 5.0
"""Between two times that the workers are counted, which may come and go."""


@contextmanager
def cluster(address: str, count: int, method: Method, memory_bytes: int) -> Iterator[Engine]:
    """Workers of a cluster.

    Parameters
    ----------
    address : str
        Of a scheduler, or "local" for a cluster of its own on this machine.
    count : int
        Processes of that one; those of another cluster are counted.
    method : Method
    memory_bytes : int
        For each process of an own cluster.

    Raises
    ------
    OptionError
    """
    with ExitStack() as stack:
        if address == "local":
            try:
                from distributed import LocalCluster
            except ImportError as error:
                raise OptionError("--dask needs the package distributed", "pip install 'stemfit[dask]'.") from error
            _as_quiet()
            stack.enter_context(single_threaded())
            own = stack.enter_context(
                LocalCluster(
                    n_workers=count, threads_per_worker=1, memory_limit=memory_bytes, dashboard_address="127.0.0.1:0",
                    silence_logs=logging.CRITICAL,
                )
            )
            address = own.scheduler_address
        client = stack.enter_context(dask_client(address))
        _as_quiet()

        def engine(jobs: Iterable[Job]) -> Iterator[Report]:
            yield from _reports(client, jobs, method)

        yield engine


def _as_quiet() -> None:
    """Dask tells of every step unless it is told not to, when it is imported: let it be as quiet as this process is."""
    least = logging.getLogger().getEffectiveLevel()
    for name in list(logging.root.manager.loggerDict):
        logger = logging.getLogger(name)
        if name.partition(".")[0] == "distributed" and logger.getEffectiveLevel() < least:
            logger.setLevel(least)


def _reports(client: Any, jobs: Iterable[Job], method: Method) -> Iterator[Report]:
    from distributed import as_completed

    waiting, ended = iter(jobs), as_completed()
    known: dict[str, tuple[Any, Job]] = {}
    slots, counted = 0, -COUNT_S
    more = True
    try:
        while True:
            if time.monotonic() - counted > COUNT_S:
                slots, counted = len(client.nthreads()), time.monotonic()
            while more and len(known) < AHEAD * max(slots, 1):
                job = next(waiting, None)
                more = job is not None
                if job is not None:
                    future = client.submit(carry_out, job, method, pure=False)
                    known[future.key] = (future, job)
                    ended.add(future)
            if not known:
                return
            future = next(ended)
            _, job = known.pop(future.key)
            yield _report(future, job)
            future.release()
    finally:
        for future, _ in known.values():
            future.cancel()


def _report(future: Any, job: Job) -> Report:
    from distributed import KilledWorker

    try:
        report: Report = future.result()
    except KilledWorker as error:
        what = f"killed on the cluster ({type(error).__name__}), perhaps because memory ran out"
        return died(job, what, error.allowed_failures + 1)  # Dask gives up when there are more than it allows
    except Exception as error:
        what = f"the Dask cluster has given up ({type(error).__name__})"
        raise SomeFailed(what, remedy="look whether its scheduler runs; the same command goes on") from error
    return report
