"""Read an HDF5 file through in another process: in a damaged one the library may run forever, or crash.

Python can stop neither in its own. What is visited is what reading an image needs.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from stemfit.errors import InputError

PATIENCE_S = 60.0
"""What is visited takes a second in files of some thousand groups."""

SMALL_BYTES = 2**22
"""Data sets up to this size, metadata among them, are read as a whole, of others the first value."""

PROGRAM = f"import pathlib, sys; from {__name__} import visit; visit(pathlib.Path(sys.argv[1]))"


def try_hdf5(path: Path, patience_s: float = PATIENCE_S) -> None:
    """Do it; errors that the library raises are left to whoever reads the file.

    Raises
    ------
    InputError
        If it comes to no end, or the library crashes.
    """
    if not sys.executable or getattr(sys, "frozen", False):  # inside of another program, which is no interpreter
        return
    command = [sys.executable, "-c", PROGRAM, str(path.resolve())]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=patience_s, check=False,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        what = f"a damaged HDF5 file: reading it comes to no end in {patience_s:g} s"
        raise InputError(what, remedy="copy it again from where it was recorded", subject=path) from None
    if done.returncode < 0:
        what = "a damaged HDF5 file: the library that reads it crashes"
        raise InputError(what, remedy="copy it again from where it was recorded", subject=path)


def visit(path: Path) -> None:
    """Attributes of everything, small data whole, of large data the first value."""
    import h5py

    def look(name: str, item: object) -> None:
        for key in item.attrs:  # type: ignore[attr-defined]
            item.attrs[key]  # type: ignore[attr-defined]
        if isinstance(item, h5py.Dataset) and item.size:
            item[()] if item.nbytes <= SMALL_BYTES else item[(0,) * item.ndim]

    with path.open("rb") as file, h5py.File(file, "r") as root:
        look("/", root)
        root.visititems(look)
