"""`stemfit export`: the structures of a result for other programs."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stemfit.commands import asking, exits, options
from stemfit.errors import UsageError

if TYPE_CHECKING:
    from stemfit.export import Potential

KNOWN = ("cif", "poscar", "extxyz", "lammps", "gpaw", "vasp", "qe")

EXAMPLES = """
Examples:

\b
  stemfit export image.stemfit --format poscar,cif
  stemfit export image.stemfit --what all --format extxyz --out structures
  stemfit export image.stemfit --candidate 3-1 --format vasp,qe --lattice-constant 3.19 --out dft
  stemfit export image.stemfit --candidate 3-1 --format gpaw --hessian --out dft

Candidates are periodic patches with one defect, the whole field stands in a box of its own. The lattice constant is the
experimental one; --lattice-constant stretches candidates in the plane to that of a functional or potential, which is
what a calculation should start from. The first line of every file says what it is, how probable, and in which scale.

gpaw, vasp and qe write candidates as input that runs: a script, a folder without POTCAR, pw.in. k points, spin and
dipole follow from the structure, and every file says why; read it before you run it. --hessian adds the Hessian of
a potential and a script that relaxes with it, with any calculator of ASE: fewer steps to the same minimum. It takes
six force calls per atom, with CHGNet some minutes per candidate.

Exit codes: 0 done, 2 wrong usage, 3 input missing or damaged, 5 output cannot be written, 6 a potential is missing.
"""


def export(
    result: Annotated[Path, typer.Argument(help="Result folder of analyze or match.", show_default=False)],
    formats: Annotated[
        str, typer.Option("--format", metavar="NAME,...", help="Any of cif, poscar, extxyz, lammps, gpaw, vasp, qe.")
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
    hessian: Annotated[
        bool, typer.Option("--hessian/--no-hessian", help="Add a potential's Hessian, and a script that uses it.")
    ] = False,
    potential: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="For --hessian: chgnet, sevennet-0, module:factory; default the one that taught the "
            "weights.", show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder to write.  [default: IMAGE.structures here]", show_default=False),
    ] = None,
    verbose: options.Verbose = False,
    config: options.Config = None,
    debug: options.Debug = False,
) -> None:  # fmt: skip
    """Write the structures of a result as CIF, POSCAR, extended XYZ, LAMMPS data or input of GPAW, VASP and QE."""
    with exits.errors(result, verbose, debug):
        asked = _formats(formats)
        if candidate and what is not None:
            raise UsageError("--candidate and --what both say what to write", remedy="leave one of them out")
        if potential is not None and not hessian:
            raise UsageError("--potential is given, but nothing asks it", remedy="add --hessian")
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
        with exits.progress(verbose) as progress:
            asks = _potential(potential) if hessian else None
            written = exporting.write(structures, asked, folder, asks, progress)
        for path in written:
            typer.echo(path)


def _potential(asked: str | None) -> Potential:
    """That with the Hessian: what is asked for, or what taught the weights that come along."""
    from definet.checkpoint import load_checkpoint, shipped
    from definet.teacher import fidelity
    from stemfit.export import Potential
    from stemfit.relax import taught_by, teacher

    name = asked or taught_by(load_checkpoint(shipped()))
    return Potential(teacher(name), fidelity(name))


def _formats(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip().lower() for part in text.split(",")))
    for name in names:
        if name not in KNOWN:
            close = get_close_matches(name, KNOWN, 1)
            remedy = f"did you mean {close[0]}?" if close else f"there are {', '.join(KNOWN)}"
            raise UsageError(f"--format {name!r} is not known", remedy=remedy)
    return names
