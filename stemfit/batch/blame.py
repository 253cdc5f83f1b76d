"""What an error says of an image, and whether it is the image that is to blame."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

from definet.exceptions import DefinetError
from stemfit.errors import NotAnalysable, OutputError, StemfitError, one_line

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
"""The output cannot be written, whatever the image: the run ends, and the image is none that failed."""

PASSING = {
    errno.EIO, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ESTALE, errno.ENOMEM, errno.EMFILE, errno.ENFILE,
    errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT, errno.ECONNRESET,
    errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH,
}  # fmt: skip
"""What the system says of disks, file servers, permissions and memory. Parsers raise OSError for damaged files, too:
without a number, or because they seek where nothing is (EINVAL)."""


def said(error: Exception, path: Path) -> tuple[int, str]:
    """Exit code and one line of an error about the image at `path`, which the line does not name."""
    if isinstance(error, MemoryError):
        what = "there is not enough memory for this image; crop or bin it, or ask for fewer --workers"
        return NotAnalysable.exit_code, what
    if not isinstance(error, DefinetError):
        return 1, " ".join(f"unexpected {type(error).__name__} ({error})".split())
    line, subject = one_line(error), getattr(error, "subject", None)
    if subject is not None and isinstance(error, StemfitError) and Path(subject) == path:
        line = line.removeprefix(" ".join(f"{subject}:".split())).strip()
    return error.exit_code, line


def full(error: BaseException) -> int | None:
    """Why nothing can be written, if that is what is behind an error."""
    return next((one.errno for one in _behind(error) if isinstance(one, OSError) and one.errno in FULL), None)


def passing(error: BaseException) -> bool:
    """Whether the cause may be gone at the next try, with the same file, options and code."""
    if isinstance(error, (MemoryError, OutputError)):
        return True
    return any(
        (isinstance(one, OSError) and one.errno in PASSING)
        or (isinstance(one, RuntimeError) and ("CUDA" in str(one) or "memory" in str(one)))  # torch says it so
        for one in _behind(error)
    )


def _behind(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
