"""`stemfit train` and `stemfit dataset make`, and several processes that train together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.testing
from relaxations import SMALL, sample, some
from together import CONFIG

import cli
from definet.checkpoint import load_checkpoint
from definet.dataset import load, write_shard
from definet.exceptions import OptionError
from definet.losses import total_loss
from definet.model import DefiNet, ModelConfig
from definet.train import Processes, example, provenance, train
from definet.train.examples import batched

ROOT = Path(__file__).parents[1]
RUNNER = typer.testing.CliRunner()
OPTIONS = ("--channels", "8", "--layers", "1", "--batch", "4", "--validate-every", "3", "--lr", "1e-4")


def run(*arguments: str) -> Any:
    return RUNNER.invoke(cli.app, [*arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven structures, one to validate on."""
    path = tmp_path_factory.mktemp("set")
    samples = [*some(), sample("V_MoS3"), sample("V_MoS6")]
    samples = [replace(one, part="valid" if k == 1 else "train") for k, one in enumerate(samples)]
    write_shard(path / "shard-00000.npz", samples, len(samples))
    return path


def test_a_run_from_the_command_line(folder: Path, tmp_path: Path) -> None:
    done = run("train", "--data", str(folder), "--out", str(tmp_path / "run"), *OPTIONS, "--steps", "7")
    assert done.exit_code == 0, done.stderr
    best = load_checkpoint(tmp_path / "run" / "best.safetensors")
    assert f"{100 * best.scores['validation_A']:.2f} pm mean error" in done.stdout and "6 to learn from" in done.stdout
    assert best.config.channels == 8 and best.provenance.hosts["MoS2"].structures == 4
    about = json.loads((tmp_path / "run" / "config.json").read_text())
    assert about["structures"] == {"train": 6, "valid": 1} and about["settings"]["batch"] == 4
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"config.json", "metrics.jsonl", "state.pt", "best.safetensors", "curves.png"}
    begin = ("--start", str(tmp_path / "run" / "best.safetensors"))
    more = run("train", "--data", str(folder), "--out", str(tmp_path / "more"), *OPTIONS, "--steps", "1", *begin, "-v")
    assert more.exit_code == 0 and "step 1 of 1" in more.stderr and "steps/s" in more.stderr


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (("--steps", "0"), 2, "--steps"),
        (("--lr", "-1"), 2, "--lr"),
        (("--precision", "bfloat16", "--device", "cpu"), 2, "GPU"),
        (("--data", "nowhere"), 3, "nowhere holds no samples"),
        (("--start", "nowhere.safetensors"), 6, "no such checkpoint"),
        (("--out", "file"), 5, "file"),
    ],
)
def test_bad_input_gives_one_line(
    arguments: tuple[str, ...], exit_code: int, words: str, folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("not a folder")
    done = run("train", "--data", str(folder), "--out", "run", *OPTIONS, "--steps", "1", *arguments)
    assert (done.exit_code, done.stdout) == (exit_code, "") and words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1 or done.stderr.startswith("Usage")


def test_a_set_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("dataset", "make", "--out", "set", "--count", "2", "--potential", "springs:Springs", "--jobs", "1")
    done = run(*words, "--host", "MoS2=3", "MoSe2", "-v")
    assert done.exit_code == 0 and "2 samples in set, 0 left out" in done.stdout and "converged" in done.stderr
    assert json.loads(Path("set/set.json").read_text())["hosts"] == {"MoS2": 3.0, "MoSe2": 1.0}
    assert len(load(Path("set"))) == 2
    for host, exit_code, text in (("MoS3", 2, "unknown host"), ("MoS2=x", 2, "positive"), ("MoS2", 5, "settings")):
        wrong = run(*words, "--host", host)
        assert (wrong.exit_code, wrong.stdout) == (exit_code, "") and text in wrong.stderr
        assert wrong.stderr.count("\n") == 1


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """Both hold the same bits, those of one process with the same batches but for rounding."""
    paths = os.pathsep.join(str(path) for path in (ROOT, ROOT / "tests"))
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, str(ROOT / "tests" / "together.py"), str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first[name], value) for name, value in second.items())
    source = provenance(some(), "hash")
    one = train(some(), some()[:3], CONFIG, tmp_path / "one", source)
    half = train(some(), some()[:3], replace(CONFIG, batch=2), tmp_path / "half", source)
    assert load_checkpoint(tmp_path / "two" / "best.safetensors").scores == pytest.approx(one.scores, rel=1e-6)

    def apart(weights: Any) -> float:
        return max(float((weights[name] - value).abs().max()) for name, value in one.weights.items())

    assert apart(first) < 1e-6 < 1e-4 < apart(half.weights)


def test_more_processes_than_structures_in_a_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="3 processes"):
        train(some(), some(), SMALL, tmp_path, provenance(some(), ""), processes=Processes(0, 3))


def test_bfloat16_changes_little() -> None:
    """Products of half the bits, coordinates of all: displacements, loss and gradient stay within 8 bits' rounding."""
    torch.manual_seed(3)
    net = DefiNet(ModelConfig(channels=32, layers=3))
    batch = batched([example(one, net.config) for one in some()])
    found = []
    for enabled in (False, True):
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = total_loss(batch.graph, net.predict(batch.graph), batch.target)
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
        found.append((loss.detach(), gradient))
    (exact, whole), (rounded, half) = found
    assert rounded.dtype == torch.float32 and rounded != exact
    assert abs(rounded / exact - 1) < 2**-7
    assert torch.nn.functional.cosine_similarity(whole, half, dim=0) > 0.99
