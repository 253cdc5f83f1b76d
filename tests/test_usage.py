"""Wrong usage: one line on stderr that names the value and what to write instead, and exit code 2."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.testing

import cli

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("analyze", "analyze: missing argument 'image'; see"),
        ("analyse x", "no such command 'analyse'. Did you mean 'analyze'?"),
        ("model judgement", "model: no such command"),
        ("analyze x y", "unexpected extra argument"),
        ("analyze x --hots MoS2", "no such option: --hots"),
        ("analyze x --voltage", "option '--voltage' requires an argument; see"),
        ("analyze x --device tpu", "'--device': 'tpu' is not one of 'auto', 'cpu', 'cuda'; see"),
        ("simulate a.cif", "simulate: missing option '--out'; see"),
        ("simulate a.cif --out b.tif --seed 1.5", "--seed '1.5' is no whole number; give a whole number"),
        ("analyze x --pixel-size 0.02nm",
         "--pixel-size '0.02nm' is no number; write --pixel-size 0.2, it is a number of Angstrom"),
        ("analyze x --pixel-size=20pm", "write --pixel-size 0.2, it"),
        ("analyze x --pixel-size '0.2 Å'", "write --pixel-size 0.2, it"),
        ("analyze x --pixel-size 0,2", "write --pixel-size 0.2, it"),
        ("analyze x --voltage 60kV", "write --voltage 60, it is a number of kV"),
        ("analyze x --voltage 60000V", "write --voltage 60, it"),
        ("analyze x --voltage 80 --voltage 1e5eV", "'1e5eV' is no number; write --voltage 100, it"),
        ("analyze x --convergence 0.03rad", "write --convergence 30, it is a number of mrad"),
        ("match x y.cif --convergence high", "--convergence 'high' is no number; give a plain number of mrad"),
        ("analyze x --pixel-size 3px", "'3px' is no number; give a plain number of Angstrom"),
    ],
)  # fmt: skip
def test_one_line(words: str, said: str) -> None:
    done = typer.testing.CliRunner().invoke(cli.app, shlex.split(words))
    assert (done.exit_code, done.stdout) == (2, "") and done.stderr.count("\n") == 1
    assert said in done.stderr


def test_a_whole_number_keeps_its_name() -> None:
    """A half is no whole number: nothing can be written instead but one."""
    done = typer.testing.CliRunner().invoke(cli.app, ["simulate", "a.cif", "--out", "b.tif", "--seed", "two"])
    assert "--seed 'two' is no whole number; give a plain whole number" in done.stderr


def test_nothing_asked_is_answered_with_the_help() -> None:
    done = typer.testing.CliRunner().invoke(cli.app, [])
    assert done.exit_code == 2 and "analyze" in done.output and "Usage" in done.output


@pytest.mark.parametrize("words", [["--help"], ["config", "--show"], ["model", "info"]], ids=" ".join)
def test_a_reader_that_has_enough_is_no_error(words: list[str]) -> None:
    """As behind `head -1`: the pipe is closed before anything is written."""
    read, write = os.pipe()
    os.close(read)
    own = {**os.environ, "PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run([sys.executable, "-m", "cli", *words], cwd=ROOT, env=own, stdout=write,
                              stderr=subprocess.PIPE, text=True, check=False)  # fmt: skip
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_stages_that_nobody_reads_do_not_stop_what_is_done(tmp_path: Path) -> None:
    """`stemfit analyze -v ... 2>&1 | head -1`: the result is written all the same."""
    program = (
        "import sys, typer\nfrom stemfit.commands import exits\n"
        "def command():\n    with exits.errors('x'), exits.progress(True) as progress:\n"
        "        progress('columns'); progress('lattice'); open(sys.argv[1], 'w').write('done')\n"
        "sys.argv, path = sys.argv[:1], sys.argv[1]; sys.argv.append(path)\n"
        "app = typer.Typer(); app.command()(lambda: command()); app(args=[])\n"
    )
    read, write = os.pipe()
    os.close(read)
    place = tmp_path / "done"
    own = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    try:
        done = subprocess.run([sys.executable, "-c", program, str(place)], env=own, stderr=write, check=False)
        assert done.returncode == 0 and place.read_text() == "done"
    finally:
        os.close(write)
