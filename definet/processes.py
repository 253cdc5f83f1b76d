"""Several processes on one machine, or a Dask cluster: how many, with how many threads, and how they are reached."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from definet.exceptions import OptionError

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""One thread per process is fastest for layers of a few hundred atoms; read when numpy and torch load."""

ADDRESS = "STEMFIT_NETWORK"
"""In the environment of a process that shall ask the network at this address (`definet.service`) and load none."""


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def one_thread() -> None:
    """For this process, before numpy and torch load, unless the user has said otherwise."""
    for name in THREADS:
        os.environ.setdefault(name, "1")


@contextmanager
def single_threaded(more: Mapping[str, str] | None = None) -> Iterator[None]:
    """Processes that are started within get one thread each, and `more` in their environment."""
    values = {**dict.fromkeys(THREADS, "1"), **(more or {})}
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def without_interrupt() -> Iterator[None]:
    """Processes started here ignore Ctrl-C, which a terminal sends to all: the one who started them ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def dask_client(address: str, **options: Any) -> Any:
    """Client of the scheduler of a Dask cluster that has workers.

    Raises
    ------
    OptionError
        `distributed` is not installed, nobody answers at the address, or there are no workers.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise OptionError("a Dask cluster needs the package distributed", "pip install 'stemfit[dask]'.") from error
    try:
        client = Client(address, timeout="10s", **options)
    except (OSError, ValueError) as error:
        remedy = "Give the address that dask scheduler prints, tcp://HOST:8786."
        raise OptionError(f"no Dask scheduler answers at {address!r}", remedy) from error
    if not client.nthreads():
        client.close()
        raise OptionError(f"the Dask cluster at {address} has no workers", f"Start some: dask worker {address}.")
    return client
