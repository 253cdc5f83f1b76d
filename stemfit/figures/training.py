"""Curves of a training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stemfit.figures.sheet import BLUE, DPI, SMALL_PT, TEXT_PT, VERMILLION, WIDTH_MM

HEIGHT_MM = 62.0


def curves(history: Sequence[Mapping[str, float]], unmoved_A: float) -> Figure:
    """Errors and learning rate against the optimiser's steps, on logarithmic axes.

    Parameters
    ----------
    history : sequence of mappings
        `step`, `loss_A`, `validation_A` and `lr` of each validation, as in a run's metrics.jsonl.
    unmoved_A : float
        Validation error of leaving every atom in place: what has not been beaten by far has not been learnt.
    """
    figure = Figure(figsize=(WIDTH_MM / 25.4, HEIGHT_MM / 25.4), dpi=DPI, facecolor="white", layout="constrained")
    errors, rates = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    steps = [entry["step"] for entry in history]
    errors.plot(steps, [100 * entry["loss_A"] for entry in history], color=BLUE, linewidth=0.8, label="training loss")
    validation = [100 * entry["validation_A"] for entry in history]
    errors.plot(steps, validation, color=VERMILLION, linewidth=0.8, marker=".", markersize=2.5, label="validation")
    errors.axhline(100 * unmoved_A, color="black", linewidth=0.6, linestyle="--", label="validation, nothing moved")
    rates.plot(steps, [entry["lr"] for entry in history], color="black", linewidth=0.8)
    errors.set_ylabel("mean error (pm)", size=TEXT_PT)
    errors.legend(fontsize=SMALL_PT, frameon=False)
    rates.set_ylabel("learning rate", size=TEXT_PT)
    rates.set_xlabel("optimiser step", size=TEXT_PT)
    for axes in (errors, rates):
        _plain(axes)
    return figure


def _plain(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.tick_params(which="both", labelsize=SMALL_PT, width=0.5, length=2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_linewidth(0.5)
