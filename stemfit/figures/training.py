"""Curves of a training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from stemfit.figures.sheet import BLUE, VERMILLION, plain
from stemfit.figures.style import NATURE

HEIGHT_MM = 70.0


def curves(history: Sequence[Mapping[str, float]], unmoved_A: float) -> Figure:
    """Validation error, loss and learning rate against the optimiser's steps.

    Parameters
    ----------
    history : sequence of mappings
        `step`, `loss`, `validation_A` and `lr` of each validation, as in a run's metrics.jsonl.
    unmoved_A : float
        Validation error of leaving every atom in place: what has not been beaten by far has not been learnt.
    """
    size = (NATURE.width_mm / 25.4, HEIGHT_MM / 25.4)
    figure = Figure(figsize=size, dpi=NATURE.dpi, facecolor="white", layout="constrained")
    errors, losses, rates = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 1))
    steps = [entry["step"] for entry in history]
    validation = [100 * entry["validation_A"] for entry in history]
    errors.plot(steps, validation, color=VERMILLION, linewidth=0.8, marker=".", markersize=2.5)
    errors.axhline(100 * unmoved_A, color="black", linewidth=0.6, linestyle="--")
    errors.annotate(
        "nothing moved", (1, 100 * unmoved_A), (0, -1.5), xycoords=("axes fraction", "data"),
        textcoords="offset points", size=NATURE.small_pt, ha="right", va="top",
    )  # fmt: skip
    errors.set_ylim(bottom=0)
    losses.plot(steps, [entry["loss"] for entry in history], color=BLUE, linewidth=0.8)
    rates.plot(steps, [entry["lr"] for entry in history], color="black", linewidth=0.8)
    rates.set_yscale("log")
    for axes, name in ((errors, "validation\nerror (pm)"), (losses, "training\nloss"), (rates, "learning\nrate")):
        axes.set_ylabel(name, size=NATURE.text_pt)
        plain(axes)
    rates.set_xlabel("optimiser step", size=NATURE.text_pt)
    figure.align_ylabels()
    return figure
