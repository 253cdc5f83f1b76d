"""`stemfit relax`: structures in files in, relaxed ones out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from definet.exceptions import DefinetError, StructureError
from stemfit.commands import exits, options
from stemfit.errors import OutputError, SomeFailed, UsageError, one_line

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

    from definet.checkpoint import Checkpoint
    from definet.markers import Nodes
    from definet.relaxation import Method, Outcome

SCHEMA = "stemfit.relax/1"

EXAMPLES = """
Examples:

\b
  stemfit relax defect.cif --host MoS2 --out relaxed.cif
  stemfit relax POSCAR --host WSe2 --refine teacher:5 --out CONTCAR
  stemfit relax marked.extxyz --out relaxed.extxyz --json
  stemfit relax *.cif --host MoS2 --out relaxed/

Formats go by the names: .cif, POSCAR or .vasp, .extxyz or .xyz. A column "marker" in extended XYZ (0 pristine,
1 exchanged or added, 2 vacancy node) is taken as it is; without one, --host says where atoms are missing. Other columns
and facts of the input are not carried over: extended XYZ gets displacement_A, sigma_A, relaxer, checkpoint_sha256
and host as far as known.

Exit codes: 0 done, 2 wrong usage or unknown host, 3 input missing or damaged, 4 structure cannot be relaxed,
5 output cannot be written, 6 model cannot be used, 10 some of several files failed.
"""


def relax(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Structures.", show_default=False)],
    out: Annotated[
        Path, typer.Option(metavar="OUT", help="File, or a folder for several files.", show_default=False)
    ],
    host: Annotated[
        str | None, typer.Option(metavar="NAME", help="Crystal; needed where the file has no markers.")
    ] = None,
    relaxer: Annotated[
        Literal["definet", "teacher", "keep"],
        typer.Option(help="The network, the potential that taught it (slow), or neither."),
    ] = "definet",
    marker_from_host: Annotated[
        bool,
        typer.Option(
            "--marker-from-host/--marker-from-file", help="Derive markers from --host even if the file has some."
        ),
    ] = False,
    refine: Annotated[
        str | None, typer.Option(metavar="teacher:N", help="Polish with N steps of the teacher.")
    ] = None,
    potential: Annotated[
        str | None, typer.Option(metavar="NAME", help="The teacher: chgnet, sevennet-0, module:factory; default "
                                 "the one that taught the weights.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Weights, see stemfit model; default those that come along.")
    ] = None,
    device: options.NetworkDevice = "auto",
    as_json: Annotated[bool, typer.Option("--json/--no-json", help="Print JSON instead of the table.")] = False,
    verbose: options.Verbose = False,
    config: options.Config = None,
    debug: options.Debug = False,
) -> None:  # fmt: skip
    """Relax defect structures: by the network in one pass, polished by its teacher if asked."""
    with exits.errors("relax" if len(files) > 1 else files[0], verbose, debug):
        steps = _refinement(refine, relaxer)
        if checkpoint is not None and relaxer != "definet":
            raise UsageError(f"--checkpoint does not go with --relaxer {relaxer}", remedy="leave one of them out")
        if potential is not None and relaxer != "teacher" and not steps:
            raise UsageError("--potential is given, but nothing asks it", remedy="add --relaxer teacher or --refine")
        places = _places(files, out)
        how, models = (relaxer, steps, device), (checkpoint, potential)
        done, failed = _relax(files, places, host, marker_from_host, how, models, verbose)
        typer.echo(exits.as_text({**_header(), "structures": done}) if as_json else _summary(done))
        for line in failed:
            typer.echo(line, err=True)
        if failed:
            raise SomeFailed(f"{len(failed)} of {len(files)} files failed", remedy="mend these; the others are done")


# -- options -------------------------------------------------------------------------------------------------------


def _refinement(text: str | None, relaxer: str) -> int:
    """Steps of the teacher that are asked for."""
    if text is None:
        return 0
    name, _, count = text.partition(":")
    if name != "teacher" or not count.isascii() or not count.isdigit() or not 0 < int(count) < 10_000:
        raise UsageError(f"--refine {text!r} is not teacher:N", remedy="write for example --refine teacher:5")
    if relaxer == "teacher":
        raise UsageError("--refine after --relaxer teacher does nothing", remedy="leave one of them out")
    return int(count)


def _places(files: Sequence[Path], out: Path) -> list[Path]:
    """Where each result goes: the file named, or in the folder under the name of the input."""
    from definet.structure_file import check_output

    if len(files) == 1 and not out.is_dir():
        places = [out]
        check_output(out)
    else:
        places = [out / path.name for path in files]
        _folder(out)
    for path, place in zip(files, places, strict=True):
        if path.exists() and place.exists() and path.samefile(place):
            raise UsageError(f"--out {place} is the input itself", remedy="choose another --out")
    twice = sorted({str(place) for place in places if places.count(place) > 1})
    if twice:
        raise UsageError(f"several inputs would be written to {twice[0]}", remedy="run them with different --out")
    return places


def _folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"is no folder that can be made ({error.strerror})"
        raise OutputError(what, remedy="choose another --out", subject=out) from error


# -- what is done --------------------------------------------------------------------------------------------------


def _relax(
    files: Sequence[Path],
    places: Sequence[Path],
    host: str | None,
    from_host: bool,
    asked: tuple[Any, int, str],
    models: tuple[Path | None, str | None],
    verbose: bool,
) -> tuple[list[dict[str, Any]], list[str]]:
    """What is said of each result, and one line for each file of several that failed."""
    if host is not None:
        from definet.crystals import host as listed

        listed(host)
    with exits.progress(verbose) as progress:
        progress("loading")
        from definet.checkpoint import load_checkpoint, shipped
        from definet.relaxation import Method, relax_nodes

        method, net = Method(*asked), load_checkpoint(models[0] or shipped())
        nodes, failed = _read(files, host, from_host, net, method)
        name, potential, lattice = _teacher(models[1], net) if method.needs_teacher else ("", None, lambda host: None)
        progress("relaxing")
        here = sorted(nodes)
        outcomes = relax_nodes([nodes[k] for k in here], method, net, potential, lattice, progress)
        done = []
        for k, found in zip(here, outcomes, strict=True):
            if not found.failure:
                done.append(_write(files[k], places[k], nodes[k], found, method, net, name))
                continue
            error = StructureError(found.failure, "Nothing was written; see whether markers and host are right.")
            if len(files) == 1:
                raise error
            failed.append(one_line(error, files[k]))
    return done, failed


def _teacher(asked: str | None, net: Checkpoint) -> tuple[str, Calculator, Callable[[str], float | None]]:
    """Tag of the potential that is asked, or that taught the weights; the potential; its lattice constants."""
    from definet.teacher import fidelity
    from stemfit.relax import taught_by, teacher, teacher_lattice

    name = asked or taught_by(net)
    potential = teacher(name)
    return fidelity(name), potential, teacher_lattice(name, net)


def _read(
    files: Sequence[Path], host: str | None, from_host: bool, net: Checkpoint, method: Method
) -> tuple[dict[int, Nodes], list[str]]:
    """Nodes of every file that can be used; an only file's error is raised."""
    from definet.layer import VACUUM_A
    from definet.markers import nodes_of
    from definet.predict import check_elements
    from definet.structure_file import read_structure

    # The network must not see the layer's own image across the vacuum.
    vacuum_A = max(VACUUM_A, net.config.cutoff) if method.relaxer == "definet" else VACUUM_A
    nodes: dict[int, Nodes] = {}
    failed: list[str] = []
    for k, path in enumerate(files):
        try:
            found = nodes_of(
                read_structure(path), host, from_host=from_host, known=net.hosts, vacuum_A=vacuum_A
            )
            if method.relaxer == "definet":
                check_elements(found.crystal, net)
            nodes[k] = found
        except DefinetError as error:
            if len(files) == 1:
                raise
            failed.append(one_line(error, path))
    return nodes, failed


def _write(
    path: Path, place: Path, nodes: Nodes, outcome: Outcome, method: Method, net: Checkpoint, teacher: str
) -> dict[str, Any]:
    """Write one result; what is said of it."""
    from definet.structure_file import Columns, write_structure

    here = outcome.crystal.occupied
    per_atom = {"displacement_A": outcome.displacement_A[here]}
    if outcome.sigma_A is not None:
        per_atom["sigma_A"] = outcome.sigma_A[here]
    facts: dict[str, str | float | int | bool] = {"relaxer": _named(method)}
    if method.relaxer == "definet":
        facts["checkpoint_sha256"] = net.sha256
    if outcome.crystal.host:
        facts["host"] = outcome.crystal.host
    write_structure(place, outcome.crystal.atoms, Columns(per_atom, facts))
    return _document(path, place, nodes, outcome, method, net, teacher)


# -- what is said --------------------------------------------------------------------------------------------------


def _header() -> dict[str, Any]:
    import stemfit

    return {"schema": SCHEMA, "version": stemfit.__version__}


def _named(method: Method) -> str:
    polished = f"+teacher:{method.refine_steps}" if method.refine_steps else ""
    return method.relaxer + polished


def _document(
    path: Path, place: Path, nodes: Nodes, outcome: Outcome, method: Method, net: Checkpoint, teacher: str
) -> dict[str, Any]:
    crystal, moved, descent = outcome.crystal, outcome.moved_A, outcome.descent
    sigma = None if outcome.sigma_A is None else outcome.sigma_A[crystal.occupied]
    return {
        "input": str(path),
        "output": str(place),
        "relaxer": {
            "name": _named(method),
            "checkpoint_sha256": net.sha256 if method.relaxer == "definet" else None,
            "teacher": teacher or None,
        },
        "host": {
            "name": crystal.host or None, "source": nodes.host_source, "lattice_constant_A": _short(crystal.a_A),
        },
        "markers": nodes.marker_source,
        "defects": crystal.label if crystal.host else None,
        "atoms": int(crystal.occupied.sum()),
        "changed_atoms": int((crystal.marker == 1).sum()),
        "vacancy_nodes": int((~crystal.occupied).sum()),
        "displacement_A": {
            "mean": _short(float(moved.mean())), "max": _short(float(moved.max())), "max_atom": int(moved.argmax()) + 1,
        },
        "sigma_A": None if sigma is None else {"mean": _short(float(sigma.mean())), "max": _short(float(sigma.max()))},
        "energy_drop_eV": _short(outcome.energy_drop_eV),
        "teacher": None if descent is None else {
            "steps": descent.steps, "fmax_eV_A": _short(descent.fmax_eV_A),
            "initial_fmax_eV_A": _short(descent.initial_fmax_eV_A), "energy_drop_eV": _short(descent.energy_drop_eV),
            "converged": descent.converged,
        },
        "warnings": list(outcome.warnings),
    }  # fmt: skip


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _summary(done: Sequence[dict[str, Any]]) -> str:
    """A block of lines for each structure."""
    return "\n\n".join("\n".join(_lines(document)) for document in done)


def _counted(label: str | None) -> str:
    """Label with equal defects counted: "2 V_S, W_Mo"."""
    from collections import Counter

    parts = Counter((label or "unknown").split("+"))
    return ", ".join(name if count == 1 else f"{count} {name}" for name, count in parts.items())


def _lines(document: dict[str, Any]) -> list[str]:
    host, moved, sigma, teacher = (document[key] for key in ("host", "displacement_A", "sigma_A", "teacher"))
    drop = document["energy_drop_eV"]
    scale = "" if host["lattice_constant_A"] is None else f", a = {host['lattice_constant_A']:.4f} A"
    facts = {
        "structure": f"{document['input']}, {document['atoms']} atoms, {document['vacancy_nodes']} vacancy nodes",
        "host": f"{host['name'] or 'unknown'} ({host['source']}{scale}), markers from the {document['markers']}",
        "defects": _counted(document["defects"]),
        "relaxer": document["relaxer"]["name"],
        "displaced": f"mean {moved['mean']:.4f} A, largest {moved['max']:.4f} A (atom {moved['max_atom']})",
        "sigma": "not stated by these weights" if sigma is None else f"mean {sigma['mean']:.4f} A, largest "
        f"{sigma['max']:.4f} A per axis",
        "energy": "not stated" if drop is None else f"{drop:.3f} eV lower",
    }
    if document["relaxer"]["name"] != "definet" and sigma is None:
        facts["sigma"] = "not stated"
    if teacher is not None:
        facts["teacher"] = (
            f"{teacher['steps']} steps, largest force {teacher['initial_fmax_eV_A']:.3f} -> "
            f"{teacher['fmax_eV_A']:.3f} eV/A" + ("" if teacher["converged"] else ", not at rest")
        )
    lines = [f"{name:<10} {text}" for name, text in facts.items()]
    return [*lines, *(f"warning: {warning}" for warning in document["warnings"]), f"written    {document['output']}"]
