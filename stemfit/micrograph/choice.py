"""Which signal of a file is the annular dark field, and which signals are refused by their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from stemfit.errors import NotAnalysable, UsageError
from stemfit.micrograph.types import Signal

_EDGE, _END = r"(?<![A-Za-z])", r"(?![A-Za-z0-9]|-[A-D]\b)"
DARK_FIELDS = tuple(
    re.compile(f"{_EDGE}(?:{names}){_END}", re.IGNORECASE)
    for names in (
        "HAADF|high[- ]angle annular dark[- ]?field",
        "(?:MA)?ADF[0-9]?|(?:medium[- ]angle )?annular dark[- ]?field",
        "LAADF|low[- ]angle annular dark[- ]?field",
        "DF[0-9]?|DF-[SIO]|dark[- ]?field",
    )
)
"""Names of annular detectors, from the largest angles down: the more the angles, the more a column's brightness is that
of its atoms alone. Segments (DF4-A) are no rings, and are not among them."""

BRIGHT_FIELD = re.compile(f"{_EDGE}[EL]?(?:A?BF(?:-[SIO])?|(?:annular )?bright[- ]?field){_END}", re.IGNORECASE)
PHASE = re.compile(rf"{_EDGE}(?:filtered )?[id]?DPC{_END}|ptychograph|centre of mass|\bCOM[xy]?\b", re.IGNORECASE)

SHOWN = 12
"""Signals that a warning names."""


def choose(path: Path, signals: Sequence[Signal], asked: str | None) -> tuple[Signal, tuple[str, ...]]:
    """The signal to analyse, and what to tell the user of the choice.

    Parameters
    ----------
    signals : sequence of Signal
        At least one.
    asked : str or None
        Name, in any case, or number from 0; None for the annular dark field.

    Raises
    ------
    NotAnalysable
        If none or several could be meant, or the one that is meant has no bright atoms.
    UsageError
        If there is no signal of this name.
    """
    signal = _dark_field(path, signals) if asked is None else _asked(path, signals, asked)
    _refuse_other_contrast(path, signal)
    if asked is not None or len(signals) == 1:
        return signal, ()
    return signal, (f"{_listed(signals)}; {signal.name} taken; --signal NAME for another",)


def _dark_field(path: Path, signals: Sequence[Signal]) -> Signal:
    if len(signals) == 1:
        return signals[0]
    named = [[s for s in signals if s.name and kind.search(s.name)] for kind in DARK_FIELDS]
    best = next((group for group in named if group), [])
    if len(best) == 1:
        return best[0]
    problem = f"{len(best)} of them are called {best[0].name}" if best else "none is called a dark field"
    raise NotAnalysable(f"{_listed(signals)}; {problem}", remedy="choose one with --signal NAME or N", subject=path)


def _asked(path: Path, signals: Sequence[Signal], asked: str) -> Signal:
    found = [s for s in signals if s.name is not None and s.name.casefold() == asked.strip().casefold()]
    if not found and asked.strip().isdecimal() and int(asked) < len(signals):
        return signals[int(asked)]
    if len(found) == 1:
        return found[0]
    if len(signals) == 1:
        raise UsageError(f"no signal {asked}, the file has one", remedy="leave --signal out", subject=path)
    what = f"{len(found)} signals are called {asked}" if found else f"no signal {asked}"
    remedy = f"choose one by its number, --signal 0 to {len(signals) - 1}"
    raise UsageError(f"{what}: {_listed(signals)}", remedy=remedy, subject=path)


def _refuse_other_contrast(path: Path, signal: Signal) -> None:
    """Atoms are dark in the bright field, and their brightness in a phase image is not that of the tables."""
    name = signal.name or ""
    if any(kind.search(name) for kind in DARK_FIELDS):
        return
    what = "bright field" if BRIGHT_FIELD.search(name) else "phase contrast" if PHASE.search(name) else None
    if what is not None:
        raise NotAnalysable(
            f"the signal {name} is {what}: what is known of columns' brightness holds in the annular dark field only",
            remedy="give the annular dark field that was recorded with it", subject=path,
        )  # fmt: skip


def _listed(signals: Sequence[Signal]) -> str:
    """How many signals a file holds, and their names."""
    names = [signal.name or f"number {k}" for k, signal in enumerate(signals)]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} signals: {', '.join(names[:SHOWN])}{more}"
