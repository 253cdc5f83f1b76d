"""One loop: batch, loss, gradient, step, average, now and then a validation.

The loss follows Yang et al., arXiv:2503.15391: the mean length of the position error over the atoms (vacancy nodes do
not count), and so does the exponential moving average of the weights for validation and use. Here the rigid shift of
each structure is taken out of prediction and target, the learning rate may fall along a cosine, and the optimiser is
SOAP unless AdamW is asked for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from definet.checkpoint import Checkpoint, Provenance, save_checkpoint
from definet.exceptions import ModelError, OptionError
from definet.graph import without_drift
from definet.losses import errors, excess, position_loss, total_loss
from definet.model import DefiNet
from definet.samples import Sample
from definet.train import run as folder
from definet.train.config import TrainConfig, learning_rate
from definet.train.examples import Example, batches, example, stream
from definet.train.memory import keep_freed_memory
from definet.train.processes import Processes
from definet.train.run import Progress
from definet.train.state import State

SAVE_EVERY_S = 60.0
"""What a run that is cut off between validations loses at most."""
REPORT_EVERY_S = 1.0


def train(
    samples: Sequence[Sample],
    held_out: Sequence[Sample],
    config: TrainConfig,
    run: Path,
    source: Provenance,
    start: Checkpoint | None = None,
    *,
    device: torch.device | str = "cpu",
    processes: Processes | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    save_every_s: float = SAVE_EVERY_S,
) -> Checkpoint:
    """Train until `config.steps` and keep the moving average that is best on the held-out samples.

    Parameters
    ----------
    samples, held_out : sequences of Sample
        They must share no defect configuration.
    run : Path
        Folder of the run: config.json, metrics.jsonl, state.pt, best.safetensors. A run that was cut off goes on where
        its state was last stored, and on a CPU ends with the same bits as one that was not (a GPU adds in any order).
    source : Provenance
        What the checkpoint says of data and teacher.
    start : Checkpoint, optional
        Weights to begin with, of the same architecture; default random ones.
    device : torch.device or str
    processes : Processes, optional
        Those that train together, see `joined`; default one alone.
    report : callable
        Told how far it is, about once a second and at each validation.
    save_every_s : float
        The state is stored at each validation, and between them this often.

    Raises
    ------
    OptionError
        If there are no samples, the folder holds a run with other settings or data, or the options do not fit the
        device or the number of processes.
    ModelError
        If the training diverges, or `start` is another architecture.
    OutputError
        If the folder cannot be written.
    """
    device, processes = torch.device(device), processes or Processes()
    if device.type == "cpu":
        keep_freed_memory()
    _check(samples, held_out, config, start, device, processes)
    source = replace(source, start_sha256=start.sha256 if start else "")
    checks = batches([example(sample, config.model) for sample in held_out], config.batch)
    idle = unmoved(checks)
    about = {"structures": {"train": len(samples), "valid": len(held_out)}, "unmoved_A": idle}
    if processes.first:
        folder.claim(run, config, source, source.start_sha256, about)
    processes.wait()
    folder.claim(run, config, source, source.start_sha256, about)
    examples = [example(sample, config.model) for sample in samples]
    state = State.resume(config, run / "state.pt", start, device)
    if processes.first:
        folder.forget_after(run, state.step)
    processes.wait()
    keeper = _Keeper(run, config, idle, state.step, report, save_every_s)
    for step, batch in stream(examples, config, state.step, processes):
        value = _update(state, config, batch.to(device), step, processes)
        validated = state.step % config.validate_every == 0 or state.step == config.steps
        if validated:
            error, spread = _validate(state, checks, processes)
            better, mean = state.judge(error, spread), state.mean_loss()
            if processes.first:
                keeper.judged(state, error, mean, state.best(source) if better else None)
        if processes.first:
            keeper.after(state, value, validated)
    return state.best(source)


class _Keeper:
    """Writes and tells what happens, in the first process."""

    def __init__(
        self, run: Path, config: TrainConfig, unmoved_A: float, first: int,
        report: Callable[[Progress], None], save_every_s: float,
    ) -> None:  # fmt: skip
        self.run, self.config, self.unmoved_A, self.first = run, config, unmoved_A, first
        self.report, self.save_every_s = report, save_every_s
        self.began = self.stored = time.monotonic()
        self.told = -math.inf
        self.latest: float | None = None

    def judged(self, state: State, error: float, mean_loss: float, better: Checkpoint | None) -> None:
        """Log a validation, and store the weights if they are the best so far."""
        self.latest = error
        if better is not None:
            save_checkpoint(self.run / "best.safetensors", better)
        rate = learning_rate(self.config, state.step - 1, state.fallen)
        folder.log(self.run, step=state.step, loss=mean_loss, validation_A=error, lr=rate)

    def after(self, state: State, value: Tensor, validated: bool) -> None:
        """Store the state and tell how far it is, when it is time."""
        now = time.monotonic()
        if validated or now - self.stored >= self.save_every_s:
            state.save(self.run / "state.pt")
            self.stored = now
        if validated or now - self.told >= REPORT_EVERY_S:
            speed = (state.step - self.first) / max(now - self.began, 1e-9)
            left = (self.config.steps - state.step) / speed
            where = Progress(state.step, self.config.steps, value.item(), self.latest, self.unmoved_A, speed, left)
            self.report(where)
            self.told = now


def unmoved(checks: Sequence[Example]) -> float:
    """Validation error of leaving every atom where it was, Angstrom."""
    lengths = [
        without_drift(b.graph, b.target.displacement)[b.graph.occupied].double().norm(dim=1) for b in checks
    ]
    return float(torch.cat(lengths).mean())


def _check(
    samples: Sequence[Sample],
    held_out: Sequence[Sample],
    config: TrainConfig,
    start: Checkpoint | None,
    device: torch.device,
    processes: Processes,
) -> None:
    if not samples or not held_out:
        raise OptionError("training needs at least one sample to learn from and one to validate on")
    if start is not None and start.config != config.model:
        mine, theirs = asdict(config.model), asdict(start.config)
        different = ", ".join(f"{name} {theirs[name]} for {mine[name]}" for name in mine if mine[name] != theirs[name])
        raise ModelError(f"cannot start from weights of another architecture: {different}", "Train from random ones.")
    if config.precision == "bfloat16" and device.type != "cuda":
        raise OptionError(f"precision bfloat16 is for a GPU, not for {device}", "Choose float32.")
    if min(config.batch, len(samples)) < processes.count:
        raise OptionError(
            f"a batch of {min(config.batch, len(samples))} structures leaves nothing for some of {processes.count} "
            "processes",
            "Choose a larger batch, or start fewer processes.",
        )


def _update(state: State, config: TrainConfig, batch: Example, step: int, processes: Processes) -> Tensor:
    """One step; the loss, of the whole batch."""
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(config, step, state.fallen)
    state.optimizer.zero_grad()
    with torch.autocast(batch.graph.positions.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
        try:
            value = total_loss(batch.graph, state.net.predict(batch.graph), batch.target)
        except ModelError as error:  # springs that are not finite have no rest
            raise ModelError(f"training diverged at step {step}", "Choose a smaller learning rate.") from error
    value.backward()
    value = _shared(state.net, value.detach(), int(batch.graph.occupied.sum()), processes)
    norm = torch.nn.utils.clip_grad_norm_(state.net.parameters(), config.clip)
    if not norm.isfinite():
        raise ModelError(f"training diverged at step {step}", "Choose a smaller learning rate.")
    state.optimizer.step()
    # Early on a long memory would only remember the random start.
    decay = min(config.ema, (1 + step) / (10 + step))
    with torch.no_grad():
        for mean, now in zip(state.average.parameters(), state.net.parameters(), strict=True):
            mean.lerp_(now, 1 - decay)
    state.step = step + 1
    state.count(value)
    return value


def _shared(net: DefiNet, value: Tensor, atoms: int, processes: Processes) -> Tensor:
    """Replace the gradient and the loss of a share of the batch by those of the whole: means weighted by atoms."""
    if processes.count == 1:
        return value
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), value[None], value.new_ones(1)]) * atoms
    flat = processes.total(flat)
    flat = flat / flat[-1]
    parts = flat.split([*(gradient.numel() for gradient in gradients), 1, 1])
    for gradient, part in zip(gradients, parts[:-2], strict=True):
        gradient.copy_(part.view_as(gradient))
    whole: Tensor = parts[-2][0]
    return whole


def _validate(state: State, checks: Sequence[Example], processes: Processes) -> tuple[float, float]:
    """Over all held-out atoms, of the averaged weights: mean error, Angstrom, and by what sigma is too small."""
    device = state.loss_sum.device
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    with torch.no_grad():
        for batch in (check.to(device) for check in processes.share(checks)):
            atoms = int(batch.graph.occupied.sum())
            predicted = state.average.predict(batch.graph)
            error = errors(batch.graph, predicted.displacement, batch.target.displacement)
            sigma = predicted.sigma
            squares = error.new_ones(1) if sigma is None else excess(sigma[batch.graph.occupied], error)
            mean = torch.stack([position_loss(error).double(), squares.double().mean()])
            sums += torch.cat([mean * atoms, mean.new_tensor([atoms])])
    total, squares_in_all, atoms_in_all = processes.total(sums).tolist()
    return total / atoms_in_all, math.sqrt(squares_in_all / atoms_in_all)
