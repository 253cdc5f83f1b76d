"""`stemfit model judge`: the errors printed are those that are measured, and go into the file if that is asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.testing
from relaxations import SMALL, sample, some

import cli
from definet.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from definet.dataset import data_sha256, write_shard
from definet.evaluate import evaluate
from definet.model import DefiNet
from definet.train import provenance

PARTS = {"train": some()[:2], "valid": some()[2:3], "test": [*some()[3:], sample("V_MoS3")]}


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Random weights that say that they learnt from the set beside them."""
    monkeypatch.chdir(tmp_path)
    Path("set").mkdir()
    samples = [replace(one, part=name) for name, part in PARTS.items() for one in part]
    write_shard(Path("set/shard-00000.npz"), samples, len(samples))
    torch.manual_seed(2)
    source = provenance(PARTS["train"], f"other {data_sha256(Path('set'))}")
    path = Path("m.safetensors")
    state = DefiNet(SMALL.model).state_dict()
    save_checkpoint(path, Checkpoint(SMALL.model, state, source, {"validation_A": 0.02, "old/structures": 1.0}))
    return path


def judge(*words: str) -> Any:
    return typer.testing.CliRunner().invoke(cli.app, ["model", "judge", *words], catch_exceptions=False)


@pytest.mark.parametrize("part", list(PARTS))
def test_the_table_is_that_of_the_part(weights: Path, part: str) -> None:
    done = judge(str(weights), "--data", "set", "--part", part, "--device", "cpu")
    assert (done.exit_code, done.stderr) == (0, "") and "warning" not in done.stdout
    rows = {line.split("|")[1].strip(): line.split("|")[2:] for line in done.stdout.splitlines()[2:]}
    wanted = {row.group: row for row in evaluate(load_checkpoint(weights), PARTS[part], "cpu")}
    assert set(rows) == set(wanted)
    for group, row in wanted.items():
        assert [cell.strip() for cell in rows[group][:2]] == [str(row.structures), f"{100 * row.in_plane_A:.2f}"]
    assert set(load_checkpoint(weights).scores) == {"validation_A", "old/structures"}, "nothing was asked to be written"


def test_errors_are_written_beside_what_training_says(weights: Path) -> None:
    before = load_checkpoint(weights)
    told = json.loads(judge(str(weights), "--data", "set", "--write", "--json", "--device", "cpu").stdout)
    after = load_checkpoint(weights)
    assert after.scores == {"validation_A": 0.02, **told["errors"]} and told["written"] and told["part"] == "test"
    [everything, *_] = evaluate(before, PARTS["test"], "cpu")
    assert told["errors"]["all/in_plane_A"] == pytest.approx(everything.in_plane_A, abs=1e-5)
    assert told["errors"]["all/structures"] == 3 and told["data_sha256"] == [data_sha256(Path("set"))]
    assert after.provenance == before.provenance and (told["sha256"], told["warnings"]) == (before.sha256, [])
    assert all(torch.equal(after.weights[name], value) for name, value in before.weights.items())
    assert "written    m.safetensors" in judge(str(weights), "--data", "set", "--write", "--device", "cpu").stdout


def test_sets_that_the_weights_did_not_learn_from_are_said(weights: Path) -> None:
    Path("more").mkdir()
    write_shard(Path("more/shard-00000.npz"), [replace(sample("V_S2"), part="test")], 1)
    done = judge(str(weights), "--data", "set", "--data", "more", "--device", "cpu")
    assert done.exit_code == 0 and "do not say that they learnt from these sets" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--part", "train", "--write"], 2, "--write does not go with --part train"),
        (["--part", "extrapolation"], 2, "no structures are in the part 'extrapolation'"),
        (["--data", "nowhere"], 3, "nowhere holds no samples"),
    ],
)
def test_what_cannot_be_judged(weights: Path, words: list[str], code: int, said: str) -> None:
    before = weights.read_bytes()
    done = judge(str(weights), "--data", "set", *words)
    assert (done.exit_code, done.stdout) == (code, "") and said in done.stderr and done.stderr.count("\n") == 1
    assert weights.read_bytes() == before


def test_a_folder_is_no_weights(weights: Path) -> None:
    done = judge("set", "--data", "set")
    assert done.exit_code == 6 and "set: is a folder" in done.stderr
