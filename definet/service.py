"""One process that holds the network for many.

What several ask while it is busy goes through the network in one batch when it is free again: nobody waits for a batch
to fill, and the busier a device is, the larger its batches are.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from multiprocessing.connection import Client, Connection, Listener, wait
from pathlib import Path
from typing import Any, NamedTuple

import torch

from definet.exceptions import DefinetError, ModelError, ServiceError
from definet.graph import DefectGraph
from definet.predict import Move, predictions, resolve_device
from definet.processes import ADDRESS, single_threaded, without_interrupt

GONE = "the process that runs the network has died"

Ask = Callable[[Sequence[DefectGraph]], list[Move]]
"""From graphs to what the network says of each, in their order."""


class Greeting(NamedTuple):
    """What a process that asks is told first.

    Attributes
    ----------
    sha256 : str
        Of the weights.
    device : str
        Where they are: "cuda" or "cpu".
    """

    sha256: str
    device: str


class Asking:
    """Asks the network of another process, as `definet.predict.predictions` asks one that is here.

    Parameters
    ----------
    address : str
        As `serving` gives it to the same process or one that it has started.

    Raises
    ------
    ServiceError
        Nobody is there.
    """

    def __init__(self, address: str) -> None:
        try:
            self._connection = Client(address, authkey=multiprocessing.current_process().authkey)
            self.greeting: Greeting = _receive(self._connection)
        except (OSError, EOFError, multiprocessing.AuthenticationError) as error:
            raise ServiceError(GONE) from error

    def __call__(self, graphs: Sequence[DefectGraph]) -> list[Move]:
        """Ask.

        Raises
        ------
        ServiceError
            The process has died.
        ModelError
            The device has no room for these graphs.
        """
        try:
            _send(self._connection, list(graphs))
            answer: list[Move] | str = _receive(self._connection)
        except (OSError, EOFError) as error:
            raise ServiceError(GONE) from error
        if isinstance(answer, str):
            raise ModelError(answer, "Use a smaller image, or --device cpu.")
        return answer


def shared() -> Asking | None:
    """The network that this process was told to use when it was started; None if it is to load its own.

    Raises
    ------
    ServiceError
        It is gone.
    """
    address = os.environ.get(ADDRESS)
    return None if address is None else _asking(address)


@lru_cache(maxsize=1)
def _asking(address: str) -> Asking:
    return Asking(address)


@contextmanager
def serving(weights: Path, device: str) -> Iterator[str]:
    """Run such a process on one device.

    Parameters
    ----------
    weights : Path
    device : str
        As for `definet.predict.relax`.

    Yields
    ------
    str
        Its address, for processes that this one starts.

    Raises
    ------
    DefinetError
        The weights cannot be loaded there.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, weights, device), daemon=True)
    with without_interrupt(), single_threaded():
        process.start()
    there.close()
    try:
        try:
            said: str | DefinetError = _receive(here)
        except EOFError as error:
            raise ServiceError(GONE) from error
        if isinstance(said, DefinetError):
            raise said
        yield said
    finally:
        process.kill()
        process.join()


# -- in that process -----------------------------------------------------------------------------------------------


def _serve(parent: Connection, weights: Path, device: str) -> None:
    from definet.checkpoint import load_checkpoint

    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    logging.captureWarnings(True)
    try:
        place = resolve_device(device)
        checkpoint = load_checkpoint(weights)
        net = checkpoint.network(place)
    except DefinetError as error:
        _send(parent, error)
        return
    arrivals = Arrivals(Listener(authkey=multiprocessing.current_process().authkey))
    _send(parent, arrivals.address)
    attend(arrivals, lambda graphs: predictions(net, graphs), Greeting(checkpoint.sha256, place.type))


def _end_with(parent: Connection) -> None:
    """Nobody needs it when the one who started it is gone."""
    wait([parent])
    os._exit(0)


class Arrivals:
    """Those who come, so that one who answers can wait for them and for those who are there at the same time."""

    def __init__(self, listener: Listener) -> None:
        self.address = str(listener.address)
        self._listener = listener
        self._new: deque[Connection] = deque()
        self.bell, self._ring = multiprocessing.Pipe(duplex=False)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
            except (OSError, EOFError, multiprocessing.AuthenticationError):
                continue  # one who died at the door, or has no business here
            self._new.append(connection)
            self._ring.send_bytes(b".")

    def next(self) -> Connection:
        """Whoever the bell has rung for."""
        self.bell.recv_bytes()
        return self._new.popleft()


def attend(arrivals: Arrivals, ask: Ask, greeting: Greeting) -> None:
    """Answer all who ask, those together who ask at the same time, until the process ends."""
    guests: list[Connection] = []
    while True:
        ready = wait([arrivals.bell, *guests])
        if arrivals.bell in ready:
            guest = arrivals.next()
            if _told(guest, greeting):
                guests.append(guest)
        asked: list[tuple[Connection, list[DefectGraph]]] = []
        for guest in [one for one in guests if one in ready]:
            try:
                asked.append((guest, _receive(guest)))
            except (OSError, EOFError):
                guests.remove(guest)
        for (guest, _), answer in zip(asked, answers(ask, [graphs for _, graphs in asked]), strict=True):
            if not _told(guest, answer):
                guests.remove(guest)


def answers(ask: Ask, requests: Sequence[Sequence[DefectGraph]]) -> list[list[Move] | str]:
    """What the network says of several requests, asked at once; why not, where the device has no room for one alone."""
    if not requests:
        return []
    try:
        moves = iter(ask([graph for graphs in requests for graph in graphs]))
    except torch.OutOfMemoryError as error:
        if len(requests) == 1:
            return [f"no room on the device of the network ({' '.join(str(error).split())[:100]})"]
        return [answer for graphs in requests for answer in answers(ask, [graphs])]
    return [[next(moves) for _ in graphs] for graphs in requests]


def _told(guest: Connection, what: Any) -> bool:
    """Whether they are still there."""
    try:
        _send(guest, what)
    except OSError:
        return False
    return True


def _send(connection: Connection, what: Any) -> None:
    # By value: torch would hand tensors over as open files, of which there are few, and which die with their owner.
    connection.send_bytes(pickle.dumps(what, pickle.HIGHEST_PROTOCOL))


def _receive(connection: Connection) -> Any:
    return pickle.loads(connection.recv_bytes())
