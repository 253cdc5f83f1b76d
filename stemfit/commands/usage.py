"""Wrong usage in one line: the value, what is wrong with it, and what to write instead."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import typer
from typer.core import TyperGroup

from stemfit.commands import exits

CLICK_ERROR: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
"""Typer brings its own copy of click, or takes the installed one: its errors are told by what they descend from."""

KINDS = {"integer": "whole number", "number": "number", "float": "number"}
"""By what the versions of click and typer call them."""

WITH_UNIT = re.compile(r"(?P<number>[-+]?[\d.,]+(?:[eE][-+]?\d+)?)\s*(?P<unit>[^\d\s.,]*)")

UNITS = {
    "ANGSTROM": ("Angstrom", {"pm": 1e-2, "a": 1.0, "å": 1.0, "angstrom": 1.0, "nm": 10.0, "um": 1e4, "µm": 1e4,
                              "m": 1e10}),
    "KV": ("kV", {"v": 1e-3, "ev": 1e-3, "kv": 1.0, "kev": 1.0, "mv": 1e3, "mev": 1e3}),
    "MRAD": ("mrad", {"mrad": 1.0, "rad": 1e3, "deg": 17.453292519943295, "°": 17.453292519943295}),
    "KELVIN": ("Kelvin", {"k": 1.0}),
}  # fmt: skip
"""By the name that the help gives to the value: its unit, and others in it, in lower case."""


class OneLine(TyperGroup):
    """Commands whose wrong usage is told in one line on stderr, with exit code 2."""

    def main(
        self, args: Sequence[str] | None = None, prog_name: str | None = None, complete_var: str | None = None,
        standalone_mode: bool = True, windows_expand_args: bool = True, **extra: Any,
    ) -> Any:
        """Run the command line; a reader that has left, as `head` does, is no error."""
        run = partial(super().main, args, prog_name, complete_var, False, windows_expand_args, **extra)
        if not standalone_mode:
            return run()
        try:
            code = run()
        except CLICK_ERROR as error:
            _tell(error, sys.argv[1:] if args is None else args)
            sys.exit(getattr(error, "exit_code", 2))
        except typer.Abort:
            typer.echo("stopped", err=True)
            sys.exit(1)
        except SystemExit as end:
            if isinstance(end.__context__, BrokenPipeError):
                sys.exit(0)
            raise
        sys.exit(code if isinstance(code, int) else 0)


def _tell(error: Any, words: Sequence[str]) -> None:
    if type(error).__name__ == "NoArgsIsHelpError":  # nothing was asked: the help is the answer
        error.show()
        return
    exits.say(line_of(error, words))


def line_of(error: Any, words: Sequence[str]) -> str:
    """What is wrong with the usage, and what to do, of one of click's errors and the words that it is about."""
    context = getattr(error, "ctx", None)
    path = "stemfit" if context is None else str(context.command_path)
    said = " ".join(error.format_message().replace("Value error, ", "").split()).rstrip(".")
    option = getattr(error, "param", None)
    kind = next((kind for word, kind in KINDS.items() if re.search(rf"valid {word}\b", said)), None)
    for name, text in _given(getattr(option, "opts", ()), words):
        if kind is not None:
            instead = _instead(text, kind, name, str(getattr(option, "metavar", "")))
            return f"{path}: {name} {text!r} is no {kind}; {instead}"
    if not re.search(r"did you mean", said, re.IGNORECASE):
        said = f"{said}; see {path} --help"
    return f"{path}: {said[:1].lower()}{said[1:]}"


def _given(names: Sequence[str], words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The option and its value among the words of the command line, the last first: it is the one that counts."""
    for k in reversed(range(len(words))):
        name, equals, value = words[k].partition("=")
        if name in names and (equals or k + 1 < len(words)):
            yield name, value if equals else words[k + 1]


def _instead(text: str, kind: str, option: str, metavar: str) -> str:
    """What was probably meant, in the unit of the option."""
    unit, known = UNITS.get(metavar, ("", {}))
    match = WITH_UNIT.fullmatch(text.strip())
    try:
        value = None if match is None else float(match["number"].replace(",", "."))
    except ValueError:
        value = None
    factor = None if match is None else 1.0 if not match["unit"] else known.get(match["unit"].lower())
    of = f" of {unit}" if unit else ""
    if value is None or factor is None:
        return f"give a plain {kind}{of}"
    meant = value * factor
    if kind != "number" and meant != int(meant):
        return f"give a {kind}"
    return f"write {option} {meant:.6g}" + (f", it is a {kind}{of}" if unit else "")
