"""What fixes a training run besides the data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from definet.exceptions import OptionError
from definet.model import ModelConfig

PLATEAU_FACTOR, PLATEAU_PATIENCE = 0.8, 5
"""Yang et al., arXiv:2503.15391: by what the learning rate falls, after how many validations without a better one."""


_CHOICES = {
    "optimizer": ("soap", "adamw"),
    "schedule": ("cosine", "plateau"),
    "precision": ("float32", "bfloat16"),
}


@dataclass(frozen=True)
class TrainConfig:
    """Everything that fixes a training run besides the data.

    Attributes
    ----------
    model : ModelConfig
    steps, batch : int
        Optimiser steps; structures per step, of all processes together (at equal work, two per step learn more than
        four).
    warmup : int
        Steps of linear growth of the learning rate before the schedule.
    optimizer : str
        "soap", or "adamw" as published.
    lr, weight_decay : float
    schedule : str
        "cosine": down to one hundredth along a cosine. "plateau": times 0.8 after five validations without a better
        one, as published.
    clip : float
        Largest norm of the gradient.
    ema : float
        Decay of the moving average of the weights per step.
    validate_every : int
        Steps between validations; the best average by validation error is kept.
    seed : int
        Of the initial weights and of the order of the samples.
    precision : str
        "float32", or "bfloat16": matrix products in half the bits, weights and coordinates in float32; on a GPU only.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    steps: int = 4000
    batch: int = 2
    warmup: int = 100
    optimizer: Literal["soap", "adamw"] = "soap"
    lr: float = 5e-3
    weight_decay: float = 1e-4
    schedule: Literal["cosine", "plateau"] = "cosine"
    clip: float = 10.0
    ema: float = 0.999
    validate_every: int = 200
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "validate_every"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} is {getattr(self, name)}, at least 1 is needed")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise OptionError(f"unknown {name} {getattr(self, name)!r}", f"Choose {' or '.join(known)}.")


def learning_rate(config: TrainConfig, step: int, fallen: float = 1.0) -> float:
    """Linear growth, then a cosine down to one hundredth, or a constant times what it has `fallen` by on plateaus."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup * fallen
    if config.schedule == "plateau":
        return config.lr * fallen
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))
