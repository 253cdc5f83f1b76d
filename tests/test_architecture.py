"""The order of the house: who may import whom, how long a file may be, what a look at the help may cost."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "cli.py", *sorted((ROOT / "stemfit").rglob("*.py")), *sorted((ROOT / "definet").rglob("*.py"))]
HEAVY = {"torch", "e3nn", "pymatgen", "matplotlib", "scipy", "skimage"}
# Of stemfit: they use the stages, no stage uses them.
OUTSIDE = {
    "analysis", "api", "batch", "commands", "export", "figures", "inputs", "notebook", "pages", "pipeline",
    "report", "strain",
}


def module(path: Path) -> str:
    """Dotted name of a source file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(source: str) -> Iterator[str]:
    """Every module that a source file imports, ``package.name`` for names taken from a package."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def forbidden(name: str, source: str) -> list[str]:
    """Imports of module `name` that break a rule."""
    package, stage = name.split(".")[0], (*name.split("."), "")[1]
    no: list[tuple[str, ...]] = []
    if package == "definet":
        no += [("stemfit",), ("cli",), ("typer",), ("matplotlib",), ("skimage",)]
    if package == "stemfit":
        no += [("cli",)]
        door = {"analysis", "api"} if name == "stemfit" else set()
        no += [("stemfit", other) for other in OUTSIDE - door if stage not in OUTSIDE]
    if name.startswith(("stemfit.columns", "stemfit.lattice", "stemfit.defects")):
        no += [("pymatgen",)]
    if name.startswith(("definet.crystals", "definet.structures")) or name in ("stemfit", "definet"):
        no += [("torch",), ("e3nn",)]
    if stage == "synthetic":  # agreement with the simulation that analyses images has to mean something
        no += [("stemfit", "simulate")]
    if package == "stemfit" and stage != "commands":  # only commands print
        no += [("typer",)]
    if package in ("definet", "stemfit"):  # there is one command line
        no += [("argparse",)]
    if package != "cli" and stage != "figures":
        no += [("matplotlib",)]
    return [i for i in imports(source) if any(tuple(i.split("."))[: len(rule)] == rule for rule in no)]


@pytest.mark.parametrize("path", FILES, ids=module)
def test_arrows_point_one_way(path: Path) -> None:
    assert forbidden(module(path), path.read_text()) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("definet.model", "from stemfit.columns import find"), ("definet.train", "import matplotlib.pyplot"),
        ("stemfit.lattice.cell", "def f():\n    from stemfit import figures"), ("stemfit.score", "import cli"),
        ("stemfit.defects", "from pymatgen.core import Structure"), ("definet.crystals", "import torch.nn"),
        ("stemfit.score", "from stemfit.pipeline import analyze"), ("stemfit", "import torch"),
        ("stemfit.synthetic", "from stemfit.simulate import image"), ("stemfit.relax", "import typer"),
        ("stemfit.score", "from stemfit.commands import exits"), ("definet.evaluate", "import argparse"),
        ("stemfit", "from stemfit import figures"),
    ],
)  # fmt: skip
def test_the_rules_bite(name: str, source: str) -> None:
    assert forbidden(name, source)


@pytest.mark.parametrize("path", FILES, ids=module)
def test_files_stay_readable(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 400


def test_no_module_name_in_both_packages() -> None:
    names = {package: {p.stem for p in (ROOT / package).glob("[!_]*")} for package in ("stemfit", "definet")}
    assert names["stemfit"] & names["definet"] <= {"py"}, "py.typed is no module"


def test_nothing_lies_about_unused() -> None:
    """Every public function and constant of a module is named a second time: in a source file, benchmark or test."""
    files = [*FILES, *(path for folder in ("benchmarks", "tests") for path in sorted((ROOT / folder).rglob("*.py")))]
    words = Counter(word for path in files for word in re.findall(r"\w+", path.read_text()))
    assert [name for path in FILES for name in defined(path.read_text()) if words[name] < 2] == []


def defined(source: str) -> Iterator[str]:
    """Public functions and constants at the top of a file; commands, which are called by their decorator, are none."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and not node.decorator_list and node.name[0] != "_":
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (to.id for to in node.targets if isinstance(to, ast.Name) and to.id[0] != "_")


def test_light_at_the_door() -> None:
    """What is imported when a package is, and not inside a function, costs everyone who asks for help."""
    for path in (ROOT / "stemfit/__init__.py", ROOT / "definet/__init__.py"):
        assert not HEAVY & {name.split(".")[0] for name in imports(path.read_text())}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"], ["--version"], ["analyze", "--help"], ["train", "--help"], ["dataset", "make", "--help"],
        ["dataset", "check", "--help"],
        ["match", "--help"], ["overlay", "--help"], ["export", "--help"], ["relax", "--help"],
        ["simulate", "--help"], ["config", "--help"],
        ["model", "--help"], ["model", "info", "-h"], ["model", "import", "--help"],
        ["model", "judge", "--help"], ["batch", "--help"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys, cli\n"
        "try:\n    cli.app(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print(*sorted(set(sys.modules) & {HEAVY | {'numpy', 'ase'}!r}), file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.split() == [] and done.stdout
