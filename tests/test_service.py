"""One process that holds the network for many: the same answers, together where they are asked together."""

from __future__ import annotations

import csv
import json
import multiprocessing
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Client, Listener
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from definet.checkpoint import Checkpoint, load_checkpoint, shipped
from definet.exceptions import InputFileError, ModelError, ServiceError
from definet.graph import DefectGraph
from definet.predict import Move, relax, relax_by
from definet.service import Arrivals, Asking, Greeting, answers, attend, serving
from definet.structures import DefectStructure, build, pristine
from stemfit import synthetic
from stemfit.batch import Request, run
from stemfit.batch.local import processes
from stemfit.batch.work import ANALYSIS

LABELS = ("V_S", "V_S2", "V_Mo", "Se_S", "W_Mo")


def defects(host: str = "MoS2") -> list[DefectStructure]:
    return [build(pristine(host, 5), label) for label in LABELS]


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(shipped())


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(shipped(), "cpu") as address:
        yield address


def test_the_same_answers(address: str, checkpoint: Checkpoint) -> None:
    ask = Asking(address)
    assert ask.greeting == Greeting(checkpoint.sha256, "cpu")
    for one, other in zip(relax_by(ask, defects(), checkpoint), relax(defects(), checkpoint), strict=True):
        np.testing.assert_allclose(one.positions_A, other.positions_A, atol=2e-6)
        np.testing.assert_allclose(one.sigma_A, other.sigma_A, rtol=1e-4, atol=1e-7)
        assert (one.in_range, one.reason) == (other.in_range, other.reason)


def test_everyone_gets_their_own(address: str, checkpoint: Checkpoint) -> None:
    """Several ask again and again at the same time, each for another defect."""
    right = {label: found.positions_A for label, found in zip(LABELS, relax(defects(), checkpoint), strict=True)}
    wrong: list[str] = []

    def guest(label: str, structure: DefectStructure) -> None:
        ask = Asking(address)
        for _ in range(5):
            [found] = relax_by(ask, [structure], checkpoint)
            if not np.allclose(found.positions_A, right[label], atol=2e-6):
                wrong.append(label)

    guests = [threading.Thread(target=guest, args=one) for one in zip(LABELS, defects(), strict=True)]
    for one in guests:
        one.start()
    for one in guests:
        one.join()
    assert wrong == []
    assert not np.allclose(right["V_S"], right["Se_S"], atol=2e-3)  # or the check could not fail


class Slow:
    """A network whose passes are counted, and which is at its first one until it is let go."""

    def __init__(self) -> None:
        self.passes: list[int] = []
        self.busy, self.go = threading.Event(), threading.Event()

    def __call__(self, graphs: Sequence[DefectGraph]) -> list[Move]:
        self.passes.append(len(graphs))
        self.busy.set()
        assert self.go.wait(20)
        return [Move(np.full((1, 3), float(graph)), None, None) for graph in graphs]  # type: ignore[arg-type]


def test_who_waits_is_answered_in_one_pass() -> None:
    """Numbers stand for graphs. Three who come while the network is busy share its next pass."""
    net, key = Slow(), multiprocessing.current_process().authkey
    arrivals = Arrivals(Listener(authkey=key))
    threading.Thread(target=attend, args=(arrivals, net, Greeting("", "")), daemon=True).start()
    guests, dead = [Asking(arrivals.address) for _ in range(4)], Asking(arrivals.address)
    said: dict[int, list[float]] = {}

    def ask(k: int) -> None:
        said[k] = [float(move.displacement_A[0, 0]) for move in guests[k]([10 * k, 10 * k + 1])]  # type: ignore[list-item]

    asking = [threading.Thread(target=ask, args=(k,)) for k in range(4)]
    asking[0].start()
    assert net.busy.wait(20)
    dead._connection.close()  # one who has died meanwhile does no harm
    for one in asking[1:]:
        one.start()
    time.sleep(0.5)  # their questions are on the way
    net.go.set()
    for one in asking:
        one.join(20)
    assert said == {k: [10.0 * k, 10.0 * k + 1] for k in range(4)}
    assert net.passes[0] == 2 and sum(net.passes) == 8 and len(net.passes) == 2


def test_strangers_are_not_served() -> None:
    arrivals = Arrivals(Listener(authkey=b"ours"))
    threading.Thread(target=attend, args=(arrivals, Slow(), Greeting("", "")), daemon=True).start()
    with pytest.raises(multiprocessing.AuthenticationError):
        Client(arrivals.address, authkey=b"theirs")
    with pytest.raises(ServiceError):
        Asking(arrivals.address)  # this process has another key
    assert Client(arrivals.address, authkey=b"ours")


def test_a_full_device_refuses_only_what_does_not_fit() -> None:
    def small(graphs: Sequence[DefectGraph]) -> list[Move]:
        if len(graphs) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.\n Tried to allocate much")
        return [Move(np.array([float(graph)]), None, None) for graph in graphs]  # type: ignore[arg-type]

    few, many = [1, 2], [3, 4, 5]
    first, refused, last = answers(small, [few, many, few])  # type: ignore[list-item]
    assert isinstance(first, list) and isinstance(last, list) and [float(m.displacement_A[0]) for m in last] == [1, 2]
    assert refused == "no room on the device of the network (CUDA out of memory. Tried to allocate much)"
    assert answers(small, []) == []


def test_a_refusal_is_an_error_of_the_image() -> None:
    def full(graphs: Sequence[DefectGraph]) -> list[Move]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    arrivals = Arrivals(Listener(authkey=multiprocessing.current_process().authkey))
    threading.Thread(target=attend, args=(arrivals, full, Greeting("", "")), daemon=True).start()
    with pytest.raises(ModelError, match="no room"):
        Asking(arrivals.address)([])


def test_weights_that_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"nothing")
    with pytest.raises((InputFileError, ModelError), match="weights"), serving(tmp_path / "weights", "cpu"):
        pass


def test_one_that_has_died_is_told() -> None:
    with serving(shipped(), "cpu") as address:
        ask = Asking(address)
    with pytest.raises(ServiceError, match="has died"):
        ask([])
    with pytest.raises(ServiceError):
        Asking(address)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for k in range(2):
        crystal = synthetic.crystal((160, 170), pixel_size_A=0.14, halved=1)
        recorded, _ = synthetic.record(crystal, synthetic.Acquisition(counts=200), k)
        (tmp_path / "in").mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / "in" / f"{k}.tif", recorded.image.astype(np.float32))
    return tmp_path


SETTINGS = {
    "host": "MoS2", "pixel_size": None, "voltage": None, "convergence": None, "detector": None, "roi": None,
    "mask": None, "signal": None, "frame": None, "relaxer": "definet", "checkpoint": None, "simulator": "fast",
    "temperature": None, "device": "auto",
}  # fmt: skip
GIB = 2**30


def test_a_batch_of_images(folder: Path, address: str) -> None:
    """Workers that ask find the same as one that has its own network, and say where it was."""
    asked = {name: Request(folder / "in", folder / name, SETTINGS) for name in ("own", "shared")}
    run(asked["own"], lambda: processes(1, ANALYSIS, 8 * GIB))
    ended = run(asked["shared"], lambda: processes(2, ANALYSIS, 8 * GIB, [address]))
    assert ended.done == 2 and not ended.failures
    for name in ("0.tif", "1.tif"):
        one, other = (folder / place / f"{name}.stemfit" for place in asked)
        environment = json.loads((other / "analysis.json").read_text())["environment"]
        assert environment["device"] == "cpu" and environment["network_device"] == "cpu"
        assert "network_device" not in json.loads((one / "analysis.json").read_text())["environment"]
        tables = [list(csv.DictReader((place / "defects.csv").read_text().splitlines())) for place in (one, other)]
        assert tables[0] and [row["label"] for row in tables[0]] == [row["label"] for row in tables[1]]
        for row, same in zip(*tables, strict=True):
            assert float(row["probability"]) == pytest.approx(float(same["probability"]), abs=1e-3)


def test_a_dead_network_is_held_against_no_image(folder: Path) -> None:
    with serving(shipped(), "cpu") as address:
        pass
    with pytest.raises(ServiceError, match="has died"):
        run(Request(folder / "in", folder / "out", SETTINGS), lambda: processes(1, ANALYSIS, 8 * GIB, [address]))
    assert not list((folder / "out").rglob("*.stemfit"))
    ended = run(Request(folder / "in", folder / "out", SETTINGS), lambda: processes(1, ANALYSIS, 8 * GIB))
    assert ended.done == 2 and not ended.failures
