"""Errors of the network's positions and energies on held-out structures, against leaving every atom where it was.

Tables of `network.py`. Errors are pooled over the atoms of a group; their uncertainty is that of drawing other
structures (bootstrap over structures).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from machine import table
from numpy.typing import NDArray

from definet.checkpoint import Checkpoint
from definet.dataset import beyond
from definet.evaluate import Errors, evaluate, family
from definet.graph import VACANCY
from definet.outliers import SUSPICIOUS_MOVE_A
from definet.predict import predictions, resolve_device
from definet.samples import Sample
from definet.train import example

FloatArray = NDArray[np.float64]
FLAT = ("hBN", "graphene")
"""One atom thick: nothing but the rounding of the potential moves them out of plane, save at a few defects."""
EXTENDED = ("LINE", "TREFOIL")
POINTS = ("SV", "DV", "VM", "SUB", "mixed")
"""Vacancies and substitutions, and several of them."""
DRAWS = 1000
BINS = 5


class Judged(NamedTuple):
    """One structure and its errors."""

    sample: Sample
    errors: Errors


GENTLE = f"no atom moves by {SUSPICIOUS_MOVE_A} A"
"""Where the potential does not reconstruct the defect."""


class Target(NamedTuple):
    """What is asked of a ratio."""

    what: str
    group: str
    ratio: str
    limit: float | None


TARGETS = (
    Target("all hosts, in plane", "all hosts", "in_plane", 0.10),
    Target("all hosts, in plane, 8 x 8 cells", "all hosts, 8 x 8 cells", "in_plane", 0.10),
    Target("vacancies and substitutions, in plane, within 6 A", "vacancies and substitutions", "near", 0.10),
    Target("all structures, in plane, within 6 A", "all hosts", "near", 0.10),
    Target("lines and trefoils within the training range, in plane", "lines and trefoils", "in_plane", 0.12),
    Target("extrapolation, in plane", "extrapolation", "in_plane", 0.25),
    Target(f"structures none of whose atoms moves by {SUSPICIOUS_MOVE_A} A, in plane", GENTLE, "in_plane", None),
    Target("without flat hosts, out of plane", "without hBN and graphene", "out_of_plane", None),
)
WORST_HOST = 0.15


def judged(checkpoint: Checkpoint, samples: Sequence[Sample], device: str = "auto") -> list[Judged]:
    """Errors of each structure by itself."""
    return [Judged(sample, evaluate(checkpoint, [sample], device)[0]) for sample in samples]


def pooled(name: str, members: Sequence[Judged]) -> Errors:
    """Errors of several structures as of one group, as `definet.evaluate` pools them."""
    atoms = np.array([one.errors.atoms for one in members], float)
    lengths = [
        float(np.array([getattr(one.errors, field) for one in members]) @ atoms / atoms.sum()) for field in _LENGTHS
    ]
    excess = np.array([one.errors.excess for one in members])
    energies = [float(np.mean([getattr(one.errors, field) for one in members])) for field in _ENERGIES]
    return Errors(name, len(members), int(atoms.sum()), *lengths, float(np.sqrt(excess**2 @ atoms / atoms.sum())),
                  *energies)  # fmt: skip


_LENGTHS = ("in_plane_A", "idle_in_plane_A", "out_of_plane_A", "idle_out_of_plane_A", "near_A", "idle_near_A")
_ENERGIES = ("energy_eV", "idle_energy_eV")


def spread(members: Sequence[Judged], ratio: str, seed: int = 0) -> float:
    """Standard error of a pooled ratio, had other structures been drawn; nan for a single one."""
    if len(members) < 2:
        return float("nan")
    sums = np.array(
        [[one.errors.atoms * getattr(one.errors, f"{head}{ratio}_A") for head in ("", "idle_")] for one in members]
    )
    counts = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), DRAWS)
    drawn = counts @ sums
    good = drawn[:, 1] > 0
    return float(np.std(drawn[good, 0] / drawn[good, 1])) if good.any() else float("nan")


# -- groups --------------------------------------------------------------------------------------------------------


def inside(members: Sequence[Judged]) -> dict[str, list[Judged]]:
    """Groups of the test split: everything, pools that are judged, hosts, families."""
    groups: dict[str, list[Judged]] = {
        "all hosts": list(members),
        "without hBN and graphene": [one for one in members if one.sample.host not in FLAT],
        "lines and trefoils": [one for one in members if _family(one) in EXTENDED],
        "vacancies and substitutions": [one for one in members if _family(one) in POINTS],
        GENTLE: [one for one in members if _farthest_A(one) <= SUSPICIOUS_MOVE_A],
        "some atom goes farther": [one for one in members if _farthest_A(one) > SUSPICIOUS_MOVE_A],
    }
    for key in (lambda one: one.sample.host, _family):
        for name in sorted({key(one) for one in members}):
            groups[name] = [one for one in members if key(one) == name]
    return {name: group for name, group in groups.items() if group}


def outside(members: Sequence[Judged]) -> dict[str, list[Judged]]:
    """Groups of the extrapolation split: everything, then by what is new, then hosts."""
    groups = {"extrapolation": list(members)}
    for name in ("longer lines", "larger trefoils", "new pairs"):
        groups[name] = [one for one in members if name in novelties(one.sample.label)]
    for name in sorted({one.sample.host for one in members}):
        groups[name] = [one for one in members if one.sample.host == name]
    return {name: group for name, group in groups.items() if group}


def novelties(label: str) -> set[str]:
    """By which rules a defect lies beyond those that are learnt from; a pair counts where neither part is new."""
    alone = {
        "larger trefoils" if re.match(r"T\d", part) else "longer lines" for part in label.split("+") if beyond(part)
    }
    return alone or ({"new pairs"} if beyond(label) else set())


def _farthest_A(one: Judged) -> float:
    return float(np.linalg.norm(one.sample.displacement[one.sample.marker != VACANCY], axis=1).max())


def _family(one: Judged) -> str:
    return family(one.sample.host, one.sample.label)


# -- tables --------------------------------------------------------------------------------------------------------

HEAD = (
    "group", "structures", "in plane, pm", "unmoved", "ratio", "within 6 A: ratio", "out of plane, pm", "unmoved",
    "ratio", "rms error / sigma", "energy gained, eV", "error",
)  # fmt: skip


def rows(groups: Mapping[str, Sequence[Judged]]) -> list[tuple[str, ...]]:
    """One line per group."""
    return [_row(pooled(name, group), group) for name, group in groups.items()]


def _row(row: Errors, group: Sequence[Judged]) -> tuple[str, ...]:
    return (
        row.group, str(row.structures), f"{100 * row.in_plane_A:.2f}", f"{100 * row.idle_in_plane_A:.2f}",
        with_error(row.in_plane_ratio, spread(group, "in_plane")), with_error(row.near_ratio, spread(group, "near")),
        f"{100 * row.out_of_plane_A:.2f}", f"{100 * row.idle_out_of_plane_A:.2f}",
        with_error(row.out_of_plane_ratio, spread(group, "out_of_plane")), number(row.excess, 2),
        f"{row.idle_energy_eV:.2f}", number(row.energy_eV, 3),
    )  # fmt: skip


def number(value: float, digits: int) -> str:
    """Rounded, or a dash where there is none."""
    return f"{value:.{digits}f}" if np.isfinite(value) else "-"


def with_error(value: float, error: float) -> str:
    """A ratio and its standard error."""
    if not np.isfinite(value):
        return "-"
    return f"{value:.3f} ± {error:.3f}" if np.isfinite(error) else f"{value:.3f}"


def targets(groups: Mapping[str, Sequence[Judged]]) -> list[tuple[str, ...]]:
    """What is asked, what was measured, and whether that is met; the worst host by itself."""
    found = []
    for asked in TARGETS:
        if group := groups.get(asked.group):
            value = getattr(pooled(asked.group, group), f"{asked.ratio}_ratio")
            found.append(_verdict(asked.what, value, spread(group, asked.ratio), asked.limit))
    hosts = sorted({one.sample.host for one in groups.get("all hosts", ())} & set(groups))
    if hosts:
        worst = max(hosts, key=lambda name: pooled(name, groups[name]).in_plane_ratio)
        value, error = pooled(worst, groups[worst]).in_plane_ratio, spread(groups[worst], "in_plane")
        found.append(_verdict(f"worst host ({worst}), in plane", value, error, WORST_HOST))
    return found


def _verdict(what: str, value: float, error: float, limit: float | None) -> tuple[str, ...]:
    met = "-" if limit is None else "yes" if value <= limit else "no"
    if limit is not None and abs(value - limit) < error:
        met += ", within one standard error"
    return what, with_error(value, error), "-" if limit is None else f"<= {limit:.2f}", met


class Stated(NamedTuple):
    """Of every atom: standard error along each axis (A,) and errors (A, 3), Angstrom."""

    sigma_A: FloatArray
    error_A: FloatArray


def stated(checkpoint: Checkpoint, samples: Sequence[Sample], device: str = "auto") -> Stated | None:
    """What the network says of its errors and what they are; None if it says nothing."""
    net = checkpoint.network(resolve_device(device))
    moves = predictions(net, [example(sample, checkpoint.config).graph for sample in samples])
    sigmas, errors = [], []
    for sample, move in zip(samples, moves, strict=True):
        if move.sigma_A is None:
            return None
        atoms = sample.marker != VACANCY
        wanted = sample.displacement[atoms]
        errors.append(move.displacement_A[atoms] - (wanted - wanted.mean(axis=0)))
        sigmas.append(move.sigma_A[atoms])
    return Stated(np.concatenate(sigmas), np.concatenate(errors))


CALIBRATION_HEAD = (
    "stated sigma, pm", "atoms", "rms of sigma", "rms error", "rms error / sigma", "in plane", "out of plane",
    "beyond 2 sigma, % (normal: 4.6)",
)  # fmt: skip


def calibration(said: Stated) -> Iterator[tuple[str, ...]]:
    """Five bins of equally many atoms by stated sigma, then all."""
    edges = np.quantile(said.sigma_A, np.linspace(0, 1, BINS + 1))
    place = np.clip(np.searchsorted(edges, said.sigma_A, side="right") - 1, 0, BINS - 1)
    for k in range(BINS):
        if (place == k).any():
            yield _bin(f"{100 * edges[k]:.2f} to {100 * edges[k + 1]:.2f}", said, place == k)
    yield _bin("all", said, np.ones(len(place), bool))


def _bin(name: str, said: Stated, here: NDArray[np.bool_]) -> tuple[str, ...]:
    sigma, error = said.sigma_A[here], said.error_A[here]
    squares, variance = (error**2).mean(axis=0), (sigma**2).mean()
    ratios = (np.sqrt(part.mean() / variance) for part in (squares, squares[:2], squares[2:]))
    wide = (np.abs(error) > 2 * sigma[:, None]).mean()
    return (
        name, str(len(sigma)), f"{100 * np.sqrt(variance):.2f}", f"{100 * np.sqrt(squares.mean()):.2f}",
        *(f"{ratio:.2f}" for ratio in ratios), f"{100 * wide:.1f}",
    )  # fmt: skip


def section(
    checkpoint: Checkpoint, parts: Mapping[str, Sequence[Sample]], device: str, say: Callable[[str], None]
) -> Iterator[str]:
    """Markdown of all of it."""
    say(f"errors: {len(parts['test'])} structures of the test split, {len(parts['extrapolation'])} beyond")
    test = judged(checkpoint, parts["test"], device)
    groups = inside(test)
    yield "**Test split** (configurations that were not learnt from)\n\n" + table(HEAD, rows(groups))
    large = inside([one for one in test if one.sample.shape == (8, 8)])
    if large:
        yield "**Test split, 8 x 8 supercells only**\n\n" + table(HEAD, rows(large))
        groups["all hosts, 8 x 8 cells"] = large["all hosts"]
    if parts["extrapolation"]:
        new = outside(judged(checkpoint, parts["extrapolation"], device))
        yield "**Beyond the training range**\n\n" + table(HEAD, rows(new))
        groups["extrapolation"] = new["extrapolation"]
    asked = ("ratio to leaving every atom where it was", "measured", "target", "met")
    yield "**Targets**\n\n" + table(asked, targets(groups))
    for name, part in (("test", parts["test"]), ("extrapolation", parts["extrapolation"])):
        said = stated(checkpoint, part, device) if part else None
        if said is not None:
            yield f"**Stated uncertainty, {name}**\n\n" + table(CALIBRATION_HEAD, list(calibration(said)))
