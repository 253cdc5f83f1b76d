"""What can go wrong in definet: each error owns its exit code and says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar


class DefinetError(Exception):
    """Base of all errors of this package.

    The message is one line: what is wrong and which value. `remedy` says what to do about it, `subject` names the file
    that it is about, where it is about one.
    """

    exit_code: ClassVar[int] = 1
    remedy: str = "Run again with --debug and report the traceback."

    def __init__(self, message: str, remedy: str | None = None, *, subject: Path | str | None = None) -> None:
        super().__init__(message)
        self.subject = subject
        if remedy is not None:
            self.remedy = remedy

    def __str__(self) -> str:
        return str(self.args[0]) if self.subject is None else f"{self.subject}: {self.args[0]}"


class UnknownHostError(DefinetError):
    """A host name that is not in the table."""

    exit_code = 2
    remedy = "Choose one of the host names listed by `definet.crystals.HOSTS`."


class OptionError(DefinetError):
    """An option value that cannot be used."""

    exit_code = 2
    remedy = "See --help for the values that are allowed."


class InputFileError(DefinetError):
    """A file that is missing, unreadable or truncated."""

    exit_code = 3
    remedy = "Check the path, and make the file again if it is damaged."


class StructureError(DefinetError):
    """A defect that cannot be built in this crystal or supercell, or a structure that cannot be relaxed."""

    exit_code = 4
    remedy = "Use a larger supercell, another location or another label."


class OutputError(DefinetError):
    """Something that cannot be written."""

    exit_code = 5
    remedy = "Choose a folder that is writable and holds nothing else."


class ModelError(DefinetError):
    """A network or its weights that cannot be used."""

    exit_code = 6
    remedy = "Choose another checkpoint."


class ServiceError(DefinetError):
    """The process that holds the network for others is gone."""

    exit_code = 6
    remedy = "The same command goes on; with --device cpu there is no such process."


class TeacherError(DefinetError):
    """A potential that is missing or cannot describe the structure."""

    exit_code = 6
    remedy = "Install the potential, or choose another one."
