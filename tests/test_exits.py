"""How a command ends when nobody reads on, as behind `head`, whether the output waits in a buffer or not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAM = """
import typer
from stemfit.commands import exits

def command():
    with exits.errors("image.stemfit"):
        {body}

typer.run(command)
"""


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("body", ["typer.echo('a path')", "print('a path' * 9999)", "print('x'); typer.echo('y')"])
def test_a_reader_that_has_left_is_no_error(body: str, unbuffered: str) -> None:
    command = [sys.executable, "-c", PROGRAM.format(body=body)]
    own = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered}
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(command, env=own, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, "")

