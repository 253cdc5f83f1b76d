"""How a command ends and what it says meanwhile: one line and an exit code for what is wrong; the stage at hand."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from definet.exceptions import DefinetError
from stemfit.errors import NotAnalysable, one_line


@contextmanager
def errors(subject: Path | str, verbose: bool = False, debug: bool = False) -> Iterator[None]:
    """One line on stderr and the exit code that the error owns; the traceback with --debug.

    Parameters
    ----------
    subject : path or str
        The file or command that the line begins with, where the error names none itself.
    verbose : bool
        Show warnings of libraries.
    debug : bool
        Show the traceback, too.

    Raises
    ------
    typer.Exit
        With the exit code.
    """
    _quiet(verbose or debug)
    try:
        yield
    except (DefinetError, MemoryError) as error:
        known = error if isinstance(error, DefinetError) else _out_of_memory()
        _report(known.exit_code, one_line(known, subject), debug)
    except typer.Exit:
        raise
    except BrokenPipeError:
        _to_nowhere()
        raise typer.Exit(0) from None
    except Exception as error:
        what = f"{subject}: unexpected {type(error).__name__} ({error})"
        _report(1, " ".join(f"{what}; run again with --debug and report the traceback".split()), debug)


def _to_nowhere() -> None:
    """Drop what waits in a stream whose reader has left, as `head` does: it would fail again at the interpreter's end.

    The reader has all that it wanted, and what was done is done: the exit code is that of success.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def _out_of_memory() -> NotAnalysable:
    return NotAnalysable("there is not enough memory for this", remedy="give less at once, or close other programs")


def _report(exit_code: int, line: str, debug: bool) -> None:
    if debug:
        import traceback

        traceback.print_exc()
    say(line)
    raise typer.Exit(exit_code)


def say(line: str) -> None:
    """Write a line on stderr, if anyone reads it: what is done does not stop where nobody does."""
    try:
        typer.echo(line, err=True)
    except BrokenPipeError:
        _to_nowhere()


def _quiet(verbose: bool) -> None:
    """Keep warnings and logs of libraries off stderr unless they are asked for."""
    import logging

    logging.basicConfig(level=logging.WARNING if verbose else logging.CRITICAL, format="%(name)s: %(message)s")
    logging.captureWarnings(True)


@contextmanager
def progress(verbose: bool) -> Iterator[Callable[[str], None]]:
    """Name the current stage: in place on a terminal, line by line with -v, else not at all."""
    if sys.stderr.isatty() and not verbose:
        from rich.console import Console

        with Console(stderr=True).status("") as status:
            yield lambda stage: status.update(stage)
    elif verbose:
        yield say
    else:
        yield lambda stage: None


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C, and the end that a cluster sets, end with one line, not with a traceback: nothing is lost."""
    with _terminated():
        try:
            yield
        except KeyboardInterrupt:
            typer.echo("stopped; the same command goes on", err=True)
            raise typer.Exit(130) from None


@contextmanager
def _terminated() -> Iterator[None]:
    """SIGTERM, which batch systems send before they kill, as Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def as_text(document: Any) -> str:
    """JSON as it is printed: no NaN, one space of indent."""
    import json

    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
