"""How numbers are put to people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HOPELESS = 100.0
"""Log Bayes factor above which its size says nothing.

The evidence of a model that fits nothing is that of whatever its free parameters make of the image: which of its poor
maxima is met decides over hundreds of nats.
"""


SURE_HOST = 0.99
"""A host that is so probable need not be named with everything that holds under it alone."""


def given(host: Mapping[str, Any]) -> str:
    """The host under which candidates are compared, as in given MoS2 (P 0.56); nothing where it is in no doubt.

    Posteriors of candidates are among structures of that host. Probabilities of defects are over all hosts.

    Parameters
    ----------
    host : mapping
        As in `analysis.json`.
    """
    if host["source"] == "user" or host["probability"] > SURE_HOST:
        return ""
    return f"given {host['name']} (P {host['probability']:.2f})"


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
