"""A run that was cut off ends as one that was not, to the bit, wherever it was cut."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from relaxations import SMALL, some

import definet.train.loop as loop
from definet.checkpoint import Checkpoint
from definet.exceptions import ModelError
from definet.train import Progress, TrainConfig, learning_rate, provenance, train

TINY = replace(
    SMALL, model=replace(SMALL.model, channels=8, layers=1), steps=14, validate_every=5, schedule="plateau", warmup=2
)


def trained(run: Path, config: TrainConfig = TINY, **options: object) -> Checkpoint:
    return train(some(), some()[:2], config, run, provenance(some(), "hash"), **options)  # type: ignore[arg-type]


def log(run: Path) -> list[dict[str, float]]:
    """What the log says, but for when."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name != "time"} for line in lines]


def same(one: Checkpoint, other: Checkpoint) -> bool:
    return one.scores == other.scores and all(
        torch.equal(one.weights[name], value) for name, value in other.weights.items()
    )


class Cut(Exception):
    """Power failure."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Checkpoint]:
    run = tmp_path_factory.mktemp("whole")
    return run, trained(run)


@pytest.mark.parametrize("steps_done", [0, 5, 8])
@pytest.mark.parametrize("place", ["_update", "save_checkpoint", "log", "save"])
def test_cut_anywhere(
    steps_done: int, place: str, whole: tuple[Path, Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a step, or while weights, log or state are written after one; the state is stored after every step."""
    owner = {"_update": loop, "save_checkpoint": loop, "log": loop.folder, "save": loop.State}[place]
    real, seen = getattr(owner, place), 0

    def cutting(*arguments: object, **named: object) -> object:
        nonlocal seen
        seen += 1
        if place == "_update" and seen > steps_done:
            raise Cut
        if place == "save" and seen > steps_done:
            (tmp_path / ".tmp-state.pt").write_bytes(b"half of it")
            raise Cut
        if place in ("log", "save_checkpoint") and seen > steps_done // 5:
            raise Cut
        return real(*arguments, **named)

    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr(owner, place, cutting)
        trained(tmp_path, save_every_s=0.0)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    resumed = trained(tmp_path, save_every_s=0.0)
    assert same(resumed, whole[1])
    assert log(tmp_path) == log(whole[0])


def test_the_state_between_validations_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut at step 9 of 14 with validations at 5 and 10: the second start begins at 8, not at 5."""
    real, steps = loop._update, []

    def watched(state: loop.State, config: TrainConfig, batch: object, step: int, *rest: object) -> object:
        steps.append(step)
        if step == 8 and steps.count(8) == 1:
            raise Cut
        return real(state, config, batch, step, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "_update", watched)
    with pytest.raises(Cut):
        trained(tmp_path, save_every_s=0.0)
    trained(tmp_path, save_every_s=0.0)
    assert steps == [*range(9), *range(8, 14)]


def test_a_finished_run_is_not_trained_again(whole: tuple[Path, Checkpoint], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_update", None)
    assert same(trained(whole[0]), whole[1])


def test_a_damaged_state_is_said(tmp_path: Path) -> None:
    trained(tmp_path, replace(TINY, steps=2))
    stored = (tmp_path / "state.pt").read_bytes()
    (tmp_path / "state.pt").write_bytes(stored[: len(stored) // 2])
    with pytest.raises(ModelError, match=r"state\.pt") as caught:
        trained(tmp_path, replace(TINY, steps=2))
    assert "Remove it" in caught.value.remedy


def test_the_rate_falls_on_plateaus(tmp_path: Path) -> None:
    """With weights that do not change no validation is better than the first: down by 0.8 after every six others."""
    trained(tmp_path, replace(TINY, lr=0.0, steps=14, validate_every=1))
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert (state["fallen"], state["stale"]) == (pytest.approx(0.8**2), 1)
    assert learning_rate(TINY, 10, 0.8) == pytest.approx(0.8 * TINY.lr)
    assert learning_rate(TINY, 0, 0.8) == pytest.approx(0.8 * TINY.lr / 2)


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[Progress] = []
    best = trained(tmp_path, report=told.append)
    assert [at.step for at in told if at.validation_A is not None][-1] == 14
    assert told[0].validation_A is None and told[0].steps == 14
    assert min(at.validation_A for at in told if at.validation_A is not None) == best.scores["validation_A"]
    assert all(at.steps_per_s > 0 and at.unmoved_A == told[0].unmoved_A > 0 for at in told)
    assert told[-1].seconds_left == 0
    idle = [one.displacement[one.marker != 2] for one in some()[:2]]
    lengths = [((move - move.mean(axis=0)) ** 2).sum(axis=1) ** 0.5 for move in idle]
    expected = sum(length.sum() for length in lengths) / sum(map(len, lengths))
    assert told[0].unmoved_A == pytest.approx(expected, rel=1e-5)
