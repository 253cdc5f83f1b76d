"""What each part of the network is worth: trained from scratch with equal CPU seconds, with and without it.

Every run has the same samples, optimiser, loss and cosine schedule (in the share of the seconds that is used; the first
twentieth warms up); graphs are built before the clock starts. The published layers get three widths and three learning
rates; of each width the rate that is best on the validation split with the first seed is run with the others too.
Finished runs are kept in --out: a stopped benchmark goes on there.

Run: ``python benchmarks/network_ablation.py --data DIR ... --out FILE [--only ours,published-32] [--curve docs/C.csv]``
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from machine import headline, table

from definet.checkpoint import Checkpoint
from definet.dataset import data_sha256, load, split
from definet.evaluate import evaluate
from definet.graph import VACANCY
from definet.losses import total_loss
from definet.model import ModelConfig
from definet.samples import Sample
from definet.train import Example, TrainConfig, example, provenance
from definet.train.examples import batched
from definet.train.memory import keep_freed_memory
from definet.train.state import State

WARM = 0.05
RATES = (1e-4, 1e-3, 3e-3)
"""Of the published layers; the first is the published one."""
Record = dict[str, Any]
Parts = Mapping[str, Sequence[Sample]]


class Variant(NamedTuple):
    """What is trained: its name, architecture and schedule, whether defects are told."""

    name: str
    config: TrainConfig
    markers: bool = True


def variants() -> list[Variant]:
    """All of them, those with the same graphs together."""
    ours = TrainConfig()
    change = partial(replace, ours.model)
    published = ModelConfig(
        layers=4, gaussians=128, cutoff=6.0, basis_cutoff=30.0, smooth=False, elastic=False, self_edges=False
    )
    return [
        Variant("ours", ours),
        *(Variant(f"degree-{n}", replace(ours, model=change(degree=n))) for n in (0, 1)),
        Variant("no-springs", replace(ours, model=change(elastic=False))),
        Variant("cutoff-5.45", replace(ours, model=change(cutoff=5.45, basis_cutoff=5.45))),
        Variant("64-channels", replace(ours, model=change(channels=64))),
        Variant("3-layers", replace(ours, model=change(layers=3))),
        Variant("adamw", replace(ours, optimizer="adamw")),
        Variant("no-markers", ours, markers=False),
        *(
            Variant(f"published-{width}", replace(ours, model=replace(published, channels=width), lr=rate))
            for width in (32, 64, 128)
            for rate in RATES
        ),
    ]


def untold(sample: Sample) -> Sample:
    """The atoms alone, none of them marked: an ordinary graph, figure 1d of arXiv:2503.15391."""
    here = sample.marker != VACANCY
    kept = {name: getattr(sample, name)[here] for name in ("numbers", "positions", "relaxed")}
    return replace(sample, **kept, marker=np.zeros(int(here.sum()), np.int64))


def rate(config: TrainConfig, share: float) -> float:
    """Learning rate when this share of the seconds is used."""
    if share < WARM:
        return config.lr * max(share, WARM / 100) / WARM
    return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, (share - WARM) / (1 - WARM)))))


def trained(variant: Variant, examples: Sequence[Example], seconds: float, seed: int) -> tuple[State, float]:
    """Train for so many CPU seconds; what came of it, and the seconds taken."""
    config = replace(variant.config, seed=seed)
    state = State(config, None, torch.device("cpu"))
    rng = np.random.default_rng(seed)
    began, order = time.process_time(), list[int]()
    while (used := time.process_time() - began) < seconds:
        if len(order) < config.batch:
            order = rng.permutation(len(examples)).tolist()
        picked, order = order[: config.batch], order[config.batch :]
        if not _step(state, config, batched([examples[k] for k in picked]), used / seconds):
            raise FloatingPointError(f"diverged at step {state.step}")
    return state, time.process_time() - began


def _step(state: State, config: TrainConfig, batch: Example, share: float) -> bool:
    """One step as `definet.train` makes it; whether its gradient is finite."""
    for group in state.optimizer.param_groups:
        group["lr"] = rate(config, share)
    state.optimizer.zero_grad()
    total_loss(batch.graph, state.net.predict(batch.graph), batch.target).backward()
    if not torch.nn.utils.clip_grad_norm_(state.net.parameters(), config.clip).isfinite():
        return False
    state.optimizer.step()
    decay = min(config.ema, (1 + state.step) / (10 + state.step))
    with torch.no_grad():
        for mean, now in zip(state.average.parameters(), state.net.parameters(), strict=True):
            mean.lerp_(now, 1 - decay)
    state.step += 1
    return True


def run(variant: Variant, parts: Parts, examples: Sequence[Example], seconds: float, seed: int) -> Record:
    """Train and judge."""
    try:
        state, used = trained(variant, examples, seconds, seed)
    except FloatingPointError as error:
        return {"diverged": str(error)}
    weights = state.average.state_dict()
    checkpoint = Checkpoint(variant.config.model, weights, provenance(parts["train"], ""))
    record: Record = {"steps": state.step, "cpu_s": used, "parameters": sum(v.numel() for v in weights.values())}
    for name in ("valid", "test", "extrapolation"):
        samples = [one if variant.markers else untold(one) for one in parts[name]]
        if samples:
            errors = evaluate(checkpoint, samples, "cpu")[0]
            record[name] = [errors.in_plane_ratio, errors.out_of_plane_ratio]
    return record


def key(variant: Variant, seconds: float, seed: int, data: str) -> Record:
    """What makes a run this one."""
    about = {"settings": asdict(variant.config), "markers": variant.markers}
    digest = hashlib.sha256(json.dumps([about, data], sort_keys=True).encode()).hexdigest()[:16]
    return {"name": variant.name, "lr": variant.config.lr, "seconds": seconds, "seed": seed, "hash": digest}


def known(path: Path) -> list[Record]:
    """Finished runs; a line that was cut off is none."""
    records = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


class Bench:
    """Runs that are not in the file yet are made and added to it."""

    def __init__(self, parts: Parts, data: str, out: Path) -> None:
        self.parts, self.data, self.out = parts, data, out
        self.built: tuple[tuple[object, ...], list[Example]] = ((), [])

    def get(self, variant: Variant, seconds: float, seed: int) -> Record:
        """One run, from the file or made now."""
        asked = key(variant, seconds, seed, self.data)
        for record in known(self.out):
            if all(record.get(name) == value for name, value in asked.items()):
                return record
        print(f"{variant.name} lr {variant.config.lr:g} seed {seed}, {seconds:g} s", file=sys.stderr, flush=True)
        record = asked | run(variant, self.parts, self._examples(variant), seconds, seed)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        with self.out.open("a") as file:
            file.write("\n" + json.dumps(record) + "\n")
        return record

    def _examples(self, variant: Variant) -> list[Example]:
        model = variant.config.model
        wanted = (model.cutoff, model.self_edges, variant.markers)
        if self.built[0] != wanted:
            samples = self.parts["train"]
            made = [example(one if variant.markers else untold(one), model) for one in samples]
            self.built = (wanted, made)
        return self.built[1]


HEAD = (
    "", "learning rate", "parameters", "steps", "validation, in plane", "test, in plane", "out of plane",
    "extrapolation, in plane", "out of plane",
)  # fmt: skip


def row(records: Sequence[Record]) -> tuple[str, ...]:
    """Means over the seeds and half their range; runs that diverged are counted."""
    first, good = records[0], [record for record in records if "diverged" not in record]
    name = first["name"] + (f" ({len(records) - len(good)} diverged)" if len(good) < len(records) else "")
    if not good:
        return (name, f"{first['lr']:g}", *["-"] * (len(HEAD) - 2))
    steps = f"{np.mean([record['steps'] for record in good]):.0f}"
    return (
        name, f"{first['lr']:g}", str(good[0]["parameters"]), steps, _mean(good, "valid", 0),
        *(_mean(good, part, k) for part in ("test", "extrapolation") for k in (0, 1)),
    )  # fmt: skip


def _mean(records: Sequence[Record], part: str, k: int) -> str:
    values = [record[part][k] for record in records if part in record]
    return f"{np.mean(values):.3f} ± {np.ptp(values) / 2:.3f}" if values and np.isfinite(values).all() else "-"


def promising(done: Mapping[int, Sequence[Record]], chosen: Sequence[Variant]) -> list[int]:
    """All variants, of those that differ by the learning rate alone the one that is best after the first seed."""
    best: dict[str, int] = {}
    for k, records in done.items():
        name = chosen[k].name
        if name not in best or _first_error(records) < _first_error(done[best[name]]):
            best[name] = k
    return sorted(best.values())


def _first_error(records: Sequence[Record]) -> float:
    return math.inf if "diverged" in records[0] else float(records[0]["valid"][0])


def best_published(done: Mapping[int, Sequence[Record]], chosen: Sequence[Variant]) -> Variant | None:
    """Width and rate with the least mean validation error in plane; one that diverged once is none."""
    scores = {
        k: float(np.mean([record["valid"][0] for record in done[k]]))
        for k in promising(done, chosen)
        if chosen[k].name.startswith("published") and not any("diverged" in record for record in done[k])
    }
    return chosen[min(scores, key=lambda k: scores[k])] if scores else None


def curve(bench: Bench, pair: Sequence[Variant], seconds: float, seeds: int) -> Iterator[tuple[Any, ...]]:
    """Errors after a quarter, half and all of the seconds, each with a schedule of its own."""
    for variant in pair:
        for share in (0.25, 0.5, 1.0):
            for seed in range(seeds):
                record = bench.get(variant, share * seconds, seed)
                if "diverged" not in record:
                    yield variant.name, variant.config.lr, share * seconds, seed, record["steps"], *record["test"]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of samples")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines of finished runs")
    parser.add_argument("--seconds", type=float, default=60.0, help="CPU seconds of training per run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", help=f"of {', '.join(dict.fromkeys(v.name for v in variants()))}")
    parser.add_argument("--curve", type=Path, help="CSV of error against cost: ours and the best published")
    asked = parser.parse_args(arguments)
    names = asked.only.split(",") if asked.only else [variant.name for variant in variants()]
    if unknown := set(names) - {variant.name for variant in variants()}:
        parser.error(f"no variant {', '.join(sorted(unknown))}")
    chosen = [variant for variant in variants() if variant.name in names]
    parts = split([sample for folder in asked.data for sample in load(folder)])
    bench = Bench(parts, " ".join(data_sha256(folder) for folder in asked.data), asked.out)
    keep_freed_memory()
    done: dict[int, list[Record]] = {}
    for seed in range(asked.seeds):  # a busy hour then hits all variants
        worth = range(len(chosen)) if seed == 0 else promising(done, chosen)
        for k in worth:
            done.setdefault(k, []).append(bench.get(chosen[k], asked.seconds, seed))
    counts = ", ".join(f"{name} {len(samples)}" for name, samples in parts.items())
    print(headline(), f"{asked.seconds:g} CPU s, {asked.seeds} seeds, structures: {counts}", sep="; ")
    print("\nErrors as shares of leaving every atom where it was; mean and half range over the seeds.\n")
    print(table(HEAD, [row(records) for records in done.values()]))
    if asked.curve:
        pair = [*(v for v in chosen if v.name == "ours"), *filter(None, [best_published(done, chosen)])]
        with asked.curve.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["variant", "lr", "cpu_s", "seed", "steps", "in_plane_ratio", "out_of_plane_ratio"])
            writer.writerows(curve(bench, pair, asked.seconds, asked.seeds))


if __name__ == "__main__":
    main()
