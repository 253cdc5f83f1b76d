"""What can go wrong, with the exit code and the remedy that belong to it.

::

    definet.exceptions.DefinetError
    └── StemfitError
        ├── UsageError         2   wrong usage or option value
        │   └── UnknownHost    2   a host name that is not in the list
        ├── InputError         3   missing, unreadable or truncated file, an empty folder
        ├── NotAnalysable      4   a readable image that cannot be analysed
        ├── OutputError        5   the output cannot be written
        ├── ModelError         6   a model or its weights cannot be used
        └── SomeFailed        10   some files of a batch failed

A stage that knows no file raises without `subject`; the command line puts the image's name in front.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from definet.exceptions import DefinetError


class StemfitError(DefinetError):
    """Base of everything that stemfit raises on purpose.

    Parameters
    ----------
    problem : str
        What is wrong, with the value and the limit.
    remedy : str
        What the user can do about it.
    subject : path or str, optional
        The file that it is about.

    """

    def __init__(self, problem: str, *, remedy: str, subject: Path | str | None = None) -> None:
        super().__init__(problem, remedy)
        self.subject = subject

    def __str__(self) -> str:
        return one_line(self)

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions cross processes by calling the class with `args`, which keyword-only parameters forbid.
        return _without_init, (type(self), self.args), self.__dict__


def _without_init(kind: type[StemfitError], args: tuple[Any, ...]) -> StemfitError:
    return kind.__new__(kind, *args)


def one_line(error: DefinetError, subject: Path | str | None = None) -> str:
    """What a user reads: ``subject: what is wrong; what to do``, without line breaks.

    Parameters
    ----------
    error : DefinetError
        Of either package.
    subject : path or str, optional
        The file at hand, used where the error names none itself.
    """
    named = getattr(error, "subject", None) or subject
    prefix = "" if named is None else f"{named}: "
    problem, remedy = (str(text).rstrip(". ") for text in (error.args[0], error.remedy))
    return " ".join(f"{prefix}{problem}; {remedy[:1].lower()}{remedy[1:]}".split())


class UsageError(StemfitError):
    """Wrong usage or option value."""

    exit_code = 2


class UnknownHost(UsageError):
    """A host name that is not in the list.

    Parameters
    ----------
    name : str
    known : iterable of str
        The names that can be used.
    """

    def __init__(self, name: str, known: Iterable[str]) -> None:
        names = list(known)
        close = get_close_matches(name.lower(), [known_name.lower() for known_name in names], n=1)
        meant = [known_name for known_name in names if close and known_name.lower() == close[0]]
        hint = f"did you mean {meant[0]}? " if meant else ""
        remedy = f"{hint}choose auto, one of {', '.join(names)}, or a .cif file"
        super().__init__(f"unknown host {name!r}", remedy=remedy)


class InputError(StemfitError):
    """The input is missing, unreadable or truncated."""

    exit_code = 3


class NotAnalysable(StemfitError):
    """The file can be read, but nothing can be found in it by this method."""

    exit_code = 4


class OutputError(StemfitError):
    """The output cannot be written."""

    exit_code = 5


class ModelError(StemfitError):
    """A model or its weights cannot be used."""

    exit_code = 6


class SomeFailed(StemfitError):
    """Some files of a batch failed; the others are done."""

    exit_code = 10


@contextmanager
def after_reading(notes: Sequence[str]) -> Iterator[None]:
    """Add what was noted while the file was read to the line of an image that cannot be analysed.

    Raises
    ------
    NotAnalysable
    """
    try:
        yield
    except NotAnalysable as error:
        if not notes:
            raise
        problem = f"{error.args[0]} ({'; '.join(notes)})"
        raise NotAnalysable(problem, remedy=error.remedy, subject=error.subject) from error
