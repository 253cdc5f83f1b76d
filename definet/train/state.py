"""All that changes while training, to and from disk."""

from __future__ import annotations

import math
import os
import pickle
from pathlib import Path

import torch
from torch import Tensor

from definet.checkpoint import Checkpoint, Provenance
from definet.exceptions import ModelError, OutputError
from definet.model import DefiNet
from definet.train.config import PLATEAU_FACTOR, PLATEAU_PATIENCE, TrainConfig
from definet.train.soap import SOAP


class State:
    """Weights, their average, the optimiser, and what the schedule and the log remember.

    Everything that the next step depends on is in here and in the step's number, and is stored: a run that goes on
    from a stored state computes what it would have computed.
    """

    def __init__(self, config: TrainConfig, start: Checkpoint | None, device: torch.device) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            net = DefiNet(config.model)
        if start is None:
            _start_small(net)
        else:
            net.load_state_dict(dict(start.weights))
        self.net = net.to(device)
        self.average = DefiNet(config.model).requires_grad_(False).to(device)
        self.average.load_state_dict(self.net.state_dict())
        self.optimizer = _optimizer(self.net, config)
        self.step = 0
        self.best_error = math.inf
        self.best_weights: dict[str, Tensor] = {}
        self.fallen, self.stale = 1.0, 0
        self.loss_sum, self.loss_count = torch.zeros((), dtype=torch.float64, device=device), 0

    @classmethod
    def resume(cls, config: TrainConfig, path: Path, start: Checkpoint | None, device: torch.device) -> State:
        """Go on from a stored state, or begin.

        Raises
        ------
        ModelError
            If the stored state is damaged.
        """
        state = cls(config, start, device)
        if not path.exists():
            return state
        try:
            # To the CPU: the optimiser takes to the device what belongs there, and its step counts do not.
            stored = torch.load(path, weights_only=True, map_location="cpu")
            state.net.load_state_dict(stored["net"])
            state.average.load_state_dict(stored["average"])
            state.optimizer.load_state_dict(stored["optimizer"])
            state.best_weights = {name: value.to(device) for name, value in stored["best_weights"].items()}
            state.loss_sum = stored["loss_sum"].to(device)
            for name in ("step", "best_error", "fallen", "stale", "loss_count"):
                setattr(state, name, stored[name])
        except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
            remedy = "Remove it to train from the beginning."
            raise ModelError(f"{path} is no readable state of a run: {str(error)[:100]}", remedy) from error
        return state

    def save(self, path: Path) -> None:
        """Write under a temporary name and rename: what stands there is whole at any time.

        Raises
        ------
        OutputError
        """
        values = {
            "net": self.net.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "best_error": self.best_error,
            "best_weights": self.best_weights,
            "fallen": self.fallen,
            "stale": self.stale,
            "loss_sum": self.loss_sum,
            "loss_count": self.loss_count,
        }
        staged = path.with_name(f".tmp-{path.name}")
        try:
            torch.save(values, staged)
            os.replace(staged, path)
        except (OSError, RuntimeError) as error:
            raise OutputError(f"{path} cannot be written: {str(error)[:100]}") from error

    def best(self, source: Provenance) -> Checkpoint:
        """The average that was best on the held-out samples."""
        weights = {name: value.cpu() for name, value in self.best_weights.items()}
        return Checkpoint(self.net.config, weights, source, {"validation_A": self.best_error})

    def judge(self, error: float, spread: float = 1.0) -> bool:
        """Keep the average if it is the best so far, else grow impatient; whether it is.

        What is kept states uncertainties that are larger by the factor `spread`.
        """
        if error < self.best_error:
            self.best_error, self.stale = error, 0
            self.best_weights = {name: value.clone() for name, value in self.average.state_dict().items()}
            if _SIGMA_BIAS in self.best_weights:
                self.best_weights[_SIGMA_BIAS] += math.log(max(spread, 1e-6))
            return True
        self.stale += 1
        if self.stale > PLATEAU_PATIENCE:
            self.fallen, self.stale = self.fallen * PLATEAU_FACTOR, 0
        return False

    def count(self, loss: Tensor) -> None:
        """Add a loss to the mean that the next line of the log tells."""
        self.loss_sum += loss
        self.loss_count += 1

    def mean_loss(self) -> float:
        """Mean since the last call."""
        mean = float(self.loss_sum) / max(1, self.loss_count)
        self.loss_sum, self.loss_count = torch.zeros_like(self.loss_sum), 0
        return mean


_SIGMA_BIAS = "uncertainty.mlp.2.bias"
_LAST = ("lin_vec2coord", "coord_mlp.2", "springs.mlp.2")


def _optimizer(net: DefiNet, config: TrainConfig) -> torch.optim.Optimizer:
    if config.optimizer == "adamw":
        return torch.optim.AdamW(net.parameters(), lr=config.lr, weight_decay=config.weight_decay, amsgrad=True)
    return SOAP(net.parameters(), lr=config.lr, weight_decay=config.weight_decay)


def _start_small(net: DefiNet) -> None:
    """Begin near doing nothing: fresh heads move atoms by half an Angstrom, relaxations by a tenth of that."""
    with torch.no_grad():
        for name, value in net.named_parameters():
            if any(part in name for part in _LAST):
                value.mul_(0.1)
