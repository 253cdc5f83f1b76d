"""`stemfit export`: the structures of a result for other programs."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

import typer

from stemfit.commands import asking, exits, options
from stemfit.errors import UsageError

KNOWN = ("cif", "poscar", "extxyz", "lammps")

EXAMPLES = """
Examples:

\b
  stemfit export image.stemfit --format poscar,cif
  stemfit export image.stemfit --what all --format extxyz --out structures
  stemfit export image.stemfit --candidate 3-1 --vacuum 18 --lattice-constant 3.18 --out dft

Candidates are periodic patches with one defect, the whole field stands in a box of its own. The lattice constant is the
experimental one; --lattice-constant stretches candidates in the plane to that of a functional or potential, which is
what a calculation should start from. The first line of every file says what it is, how probable, and in which scale.

Exit codes: 0 done, 2 wrong usage, 3 input missing or damaged, 5 output cannot be written.
"""


def export(
    result: Annotated[Path, typer.Argument(help="Result folder of analyze or match.", show_default=False)],
    formats: Annotated[
        str, typer.Option("--format", metavar="NAME,...", help="Any of cif, poscar, extxyz, lammps.")
    ] = "poscar",
    what: Annotated[
        Literal["field", "best", "all"] | None,
        typer.Option(help="The whole field; also the best candidate of every defect [default]; or all candidates."),
    ] = None,
    candidate: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Only this candidate, as 3-1; may be given again.", show_default=False),
    ] = None,
    vacuum: Annotated[float, typer.Option(metavar="ANGSTROM", help="Between one layer and the next.")] = 20.0,
    lattice_constant: Annotated[
        float | None,
        typer.Option(
            metavar="ANGSTROM", help="a that candidates get in the plane.  [default: experimental]", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder to write.  [default: IMAGE.structures here]", show_default=False),
    ] = None,
    config: options.Config = None,
    debug: options.Debug = False,
) -> None:
    """Write the structures of a result as CIF, POSCAR, extended XYZ or LAMMPS data."""
    with exits.errors(result, debug=debug):
        asked = _formats(formats)
        if candidate and what is not None:
            raise UsageError("--candidate and --what both say what to write", remedy="leave one of them out")
        lattice_constant = asking.positive("--lattice-constant", lattice_constant)
        from stemfit import export as exporting
        from stemfit.analysis import Analysis

        analysis = Analysis.load(result)
        folder = Path(f"{Path(result.resolve().name).stem}.structures") if out is None else out
        structures = tuple(
            exporting.chosen(
                analysis, what=what or "best", candidates=tuple(candidate or ()), vacuum_A=vacuum,
                lattice_constant_A=lattice_constant,
            )
        )  # fmt: skip
        for path in exporting.write(structures, asked, folder):
            typer.echo(path)


def _formats(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip().lower() for part in text.split(",")))
    for name in names:
        if name not in KNOWN:
            close = get_close_matches(name, KNOWN, 1)
            remedy = f"did you mean {close[0]}?" if close else f"there are {', '.join(KNOWN)}"
            raise UsageError(f"--format {name!r} is not known", remedy=remedy)
    return names
