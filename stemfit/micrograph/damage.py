"""What is said of a file that cannot be read: what is wrong with the file, not what a parser stumbled over."""

from __future__ import annotations

import errno
import re
from pathlib import Path

from stemfit.errors import InputError

CUT_SHORT = re.compile(
    r"truncat|unpack requires a buffer|mmap length|failed to read \d+|end of file|\bEOF\b|not a zip file|incomplete",
    re.IGNORECASE,
)
"""Words of the libraries for a file that ends before what it announces."""

CODEC = re.compile(r"<COMPRESSION\.(\w+)")
DEVICE = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENXIO, errno.ENODEV, errno.EHOSTDOWN, errno.ECONNRESET}
"""Errors of the disk or network that the file lies on, not of the file."""


def damaged(path: Path, kind: str, error: BaseException) -> InputError:
    """What a user reads when a parser gives up; the parser's own words are the cause, which --debug shows.

    Parameters
    ----------
    path : path
    kind : str
        Of file, as in "TIFF".
    error : exception
        Of the parser.
    """
    if isinstance(error, PermissionError):
        return InputError("cannot be opened (Permission denied)", remedy="check its permissions", subject=path)
    if "imagecodecs" in str(error):
        codec = CODEC.search(str(error))
        what = f"a compressed {kind}{f' ({codec.group(1)})' if codec else ''}, which the package imagecodecs reads"
        return InputError(what, remedy="install imagecodecs, or save the image without compression", subject=path)
    if isinstance(error, ImportError):
        return InputError(f"{kind} needs {error.name}", remedy=f"install {error.name}", subject=path)
    if isinstance(error, MemoryError):
        what = f"the {kind} asks for more memory than there is: it is damaged, or too large for this machine"
        return InputError(what, remedy="copy it again, or crop it", subject=path)
    if isinstance(error, OSError) and error.errno in DEVICE:
        what = f"cannot be read ({error.strerror}): the disk or the network fails"
        return InputError(what, remedy="copy it to another disk and try again", subject=path)
    if isinstance(error, EOFError) or CUT_SHORT.search(str(error)):
        return cut_short(path, kind)
    what = f"a damaged {kind}: what it says of itself does not fit together"
    return InputError(what, remedy="copy or export it again (--debug shows where reading ends)", subject=path)


def cut_short(path: Path, kind: str) -> InputError:
    """What is said of a file that is shorter than its header announces."""
    what = f"the {kind} ends before its data do: it is truncated, or damaged"
    return InputError(what, remedy="copy it again from where it was recorded", subject=path)
