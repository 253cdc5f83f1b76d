"""The scripts that judge the network, on relaxations that are a formula."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from relaxations import SMALL, sample, some
from springs import Springs

from definet.checkpoint import Checkpoint, save_checkpoint
from definet.dataset import write_shard
from definet.evaluate import evaluate
from definet.model import DefiNet
from definet.teacher import relax
from definet.train import provenance


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    yield


@pytest.fixture
def data(tmp_path: Path) -> Path:
    parts = ("train", "valid", "test", "test", "extrapolation")
    kept = [replace(one, part=part, source="springs:Springs") for one, part in zip(some(), parts, strict=True)]
    write_shard(tmp_path / "shard-00000.npz", kept, len(kept))
    return tmp_path


def untrained() -> Checkpoint:
    torch.manual_seed(1)
    return Checkpoint(SMALL.model, DefiNet(SMALL.model).state_dict(), provenance(some(), "hash"))


def test_tables(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import network

    weights = data / "weights.safetensors"
    save_checkpoint(weights, untrained())
    network.main(["--data", str(data), "--checkpoint", str(weights), "--only", "errors,forces,size", "--device", "cpu",
                  "--teacher", "springs:Springs"])  # fmt: skip
    said = capsys.readouterr().out
    assert "Test split" in said and "| extrapolation" in said and "median fmax" in said and "parameters" in said


def test_errors_of_single_structures_pool_to_those_of_all() -> None:
    import network_errors

    found, [whole, *_] = (call(untrained(), some(), "cpu") for call in (network_errors.judged, evaluate))
    pooled = network_errors.pooled("all", found)
    for name in ("in_plane_A", "near_A", "out_of_plane_A", "excess", "energy_eV", "idle_energy_eV"):
        assert getattr(pooled, name) == pytest.approx(getattr(whole, name), rel=1e-4)
    assert network_errors.novelties("SVL-9+V_S") == {"longer lines"}
    assert network_errors.novelties("T1+V_S2") == {"new pairs"} and not network_errors.novelties("T3")


def test_a_true_sigma_has_a_ratio_of_one_in_every_bin() -> None:
    import network_errors

    rng = np.random.default_rng(3)
    sigma = rng.uniform(0.01, 0.1, 20000)
    error = rng.normal(size=(20000, 3)) * sigma[:, None]
    for factor, expected in ((1.0, 1.0), (0.5, 2.0)):
        rows = list(network_errors.calibration(network_errors.Stated(factor * sigma, error)))
        assert len(rows) == 6 and all(float(row[4]) == pytest.approx(expected, rel=0.05) for row in rows)


def test_a_sample_is_what_was_built_and_its_minimum_takes_no_calls() -> None:
    import network_forces

    start = network_forces.as_structure(sample("V_S"))
    minimum = relax(start, Springs(), fmax=0.01)
    assert minimum.steps > 0
    assert relax(network_forces.moved(start, minimum.positions_A), Springs(), fmax=0.011).steps == 0


def test_runs_are_made_once(data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import network_ablation

    few = [network_ablation.Variant("ours", SMALL), network_ablation.Variant("no-markers", SMALL, markers=False)]
    monkeypatch.setattr(network_ablation, "variants", lambda: few)
    out = data / "runs.jsonl"
    asked = ["--data", str(data), "--out", str(out), "--seconds", "0.2", "--seeds", "1"]
    network_ablation.main(asked)
    first, made = capsys.readouterr().out, out.read_text()
    out.write_text(made + '{"name": "ours", "cut o')
    network_ablation.main(asked)
    assert capsys.readouterr().out.split("\n", 1)[1] == first.split("\n", 1)[1]
    assert len(network_ablation.known(out)) == 2 and "no-markers" in first
    gone = network_ablation.untold(some()[0])
    assert len(gone.numbers) == len(some()[0].numbers) - 1 and not gone.marker.any()
