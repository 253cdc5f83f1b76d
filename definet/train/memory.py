"""Keep freed memory for the next step."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
"""Options of `mallopt`, malloc.h of the GNU C library."""
_MEBIBYTE = 1024 * 1024


def keep_freed_memory() -> None:
    """Tell the allocator not to hand freed memory back to the system.

    A training step frees and asks again for the same few hundred megabytes; each time the system would fill new pages
    with zeros, which took a third of the time of a step. Does nothing where the C library is not GNU's.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_MMAP_THRESHOLD, 32 * _MEBIBYTE)  # the largest that it takes
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_TOP_PAD, 64 * _MEBIBYTE)
