"""How numbers are put to people."""

from __future__ import annotations

HOPELESS = 100.0
"""Log Bayes factor above which its size says nothing.

The evidence of a model that fits nothing is that of whatever its free parameters make of the image: which of its poor
maxima is met decides over hundreds of nats.
"""


def sure(probability: float) -> str:
    """Three digits, and never certainty."""
    if probability > 0.9995:
        return ">0.999"
    return "<0.001" if probability < 0.0005 else f"{probability:.3f}"


def log_bayes(value: float | None) -> str:
    """A log Bayes factor as far as it means anything; a dash where there is none."""
    if value is None or value != value:
        return "–"
    return f">{HOPELESS:.0f}" if value > HOPELESS else f"{value:.1f}"
