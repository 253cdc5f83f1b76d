"""Relax structures from files: by the network, by the teacher or not at all, and polish what came out.

Network and teacher each know a host at their own lattice constant. There a structure is relaxed, and the displacements
are added to the coordinates that were given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from definet.checkpoint import Checkpoint
from definet.exceptions import ModelError
from definet.layer import closest
from definet.markers import Nodes
from definet.predict import out_of_range
from definet.predict import relax as predict
from definet.structures import PRISTINE, VACANCY, DefectStructure, elements_of

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

    from definet.host_fit import HostFit
    from definet.teacher import Minimum

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

FULL_STEPS = 200
"""Of the teacher where it relaxes all the way."""

FAR = 0.02
"""Relative distance of lattice constants above which the user is told: potentials and experiments differ by 1 %."""

TOO_CLOSE_A = 1.0
"""No two atoms of these hosts come closer when they are relaxed."""


OFF_SITE_A = 0.05
"""Distance from its site above which an atom was relaxed before, or placed by hand."""

TOO_FAR_A = 3.0
"""No atom goes farther in a relaxation, reconstructed bonds included: what moves farther is no training sample."""


@dataclass(frozen=True)
class Method:
    """How to relax.

    Attributes
    ----------
    relaxer : "definet", "teacher" or "keep"
    refine_steps : int
        Steps of the teacher afterwards, one force call each; 0 for none.
    device : str
        For the network, as in `definet.predict.resolve_device`.
    """

    relaxer: Literal["definet", "teacher", "keep"] = "definet"
    refine_steps: int = 0
    device: str = "auto"

    @property
    def needs_teacher(self) -> bool:
        """Whether a potential is asked."""
        return self.relaxer == "teacher" or self.refine_steps > 0


@dataclass(frozen=True)
class Descent:
    """What the teacher did: force calls, largest force before and after (eV/A), energy lost (eV), whether at rest."""

    steps: int
    initial_fmax_eV_A: float
    fmax_eV_A: float
    energy_drop_eV: float
    converged: bool


@dataclass(frozen=True, eq=False)
class Outcome:
    """One relaxed structure, vacancy nodes left out.

    Attributes
    ----------
    crystal : DefectStructure
        Relaxed nodes in the frame of the file, order as in `Nodes`.
    displacement_A : (N, 3) array
        Of every node, in the frame of the file; zero at vacancy nodes, zero mean over the atoms.
    sigma_A : (N,) array or None
        Standard error of each position per axis; None where the weights state none, or the teacher moved on from there.
    energy_drop_eV : float or None
        Unrelaxed less relaxed energy.
    descent : Descent or None
        What the teacher did.
    warnings : tuple of str
    failure : str
        Why it is no relaxed structure at all; empty if it may be one.
    """

    crystal: DefectStructure
    displacement_A: FloatArray
    sigma_A: FloatArray | None
    energy_drop_eV: float | None
    descent: Descent | None
    warnings: tuple[str, ...]
    failure: str = ""

    @property
    def moved_A(self) -> FloatArray:
        """(A,) how far each atom went."""
        return np.asarray(np.linalg.norm(self.displacement_A[self.crystal.occupied], axis=1))


@dataclass(frozen=True, eq=False)
class _Moves:
    """Displacements (N, 3), what is known of them, what is to be said of them."""

    moves: FloatArray
    sigma_A: FloatArray | None = None
    energy_drop_eV: float | None = None
    descent: Descent | None = None
    warnings: tuple[str, ...] = ()


def relax_nodes(
    nodes: Sequence[Nodes],
    method: Method,
    checkpoint: Checkpoint,
    teacher: Calculator | None = None,
    teacher_a_A: Callable[[str], float | None] = lambda host: None,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Outcome]:
    """Relax structures, those for the network in batches.

    Parameters
    ----------
    nodes : sequence of Nodes
    method : Method
    checkpoint : Checkpoint
    teacher : ASE calculator, optional
        Where `method.needs_teacher`.
    teacher_a_A : callable
        Lattice constant of a host in the teacher; None where it is not known: then the cell stays as it is.
    progress : callable
        Told one line per structure that the teacher relaxes.

    Raises
    ------
    ModelError, OptionError, TeacherError
        As of `definet.predict.relax` and `definet.teacher.relax`.
    """
    first = [_Moves(np.zeros((len(n.crystal.marker), 3))) for n in nodes]
    if method.relaxer == "definet":
        first = _predicted(nodes, checkpoint, method.device)
    outcomes = []
    for k, (given, found) in enumerate(zip(nodes, first, strict=True)):
        if method.needs_teacher:
            progress(f"teacher: structure {k + 1} of {len(nodes)}")
            assert teacher is not None
            found = _descended(given, found, method, teacher, teacher_a_A(given.crystal.host))
        outcomes.append(_outcome(given, found))
    return outcomes


def _predicted(nodes: Sequence[Nodes], checkpoint: Checkpoint, device: str) -> list[_Moves]:
    crystals = [given.crystal for given in nodes]
    found = predict(crystals, checkpoint, device)
    if not all(np.isfinite(relaxed.positions_A).all() for relaxed in found):
        raise ModelError("the network gives positions that are not finite")
    return [
        _Moves(
            relaxed.positions_A - crystal.structure.cart_coords,
            # Of crystals that it never saw the network cannot know how wrong it is.
            *((relaxed.sigma_A, relaxed.energy_drop_eV) if crystal.host in checkpoint.hosts else (None, None)),
            None, (*_doubts(crystal, checkpoint), *_relaxed_before(given)),
        )
        for given, crystal, relaxed in zip(nodes, crystals, found, strict=True)
    ]  # fmt: skip


def _doubts(crystal: DefectStructure, checkpoint: Checkpoint) -> tuple[str, ...]:
    """Why the network's answer may be wrong."""
    reason, seen = out_of_range(crystal, checkpoint), checkpoint.hosts.get(crystal.host)
    said = [f"outside the training range: {reason}"] if reason else []
    if seen is not None and crystal.a_A is not None and abs(crystal.a_A / seen.a_A - 1) > FAR:
        said.append(
            f"lattice constant {crystal.a_A:.3f} A, {crystal.a_A / seen.a_A - 1:+.1%} from the {seen.a_A:.3f} A of the "
            "training set: displacements are those there"
        )
    return tuple(said)


def _relaxed_before(given: Nodes) -> tuple[str, ...]:
    """The network takes ideal sites: it would add to displacements that are there already."""
    if given.fit is None:
        return ()
    marker = given.crystal.marker[given.crystal.occupied]
    farthest = float(np.max(given.fit.off_A[marker == PRISTINE], initial=0.0))
    if farthest <= OFF_SITE_A:
        return ()
    what = f"atoms are up to {farthest:.2f} A from their sites: the network takes unrelaxed structures"
    return (f"{what}, and adds to the displacements that are there",)


def _descended(given: Nodes, found: _Moves, method: Method, teacher: Calculator, a_A: float | None) -> _Moves:
    """Go on with the teacher, at its lattice constant where that is known."""
    from definet.teacher import FMAX_eV_A, relax

    crystal, moves = given.crystal, found.moves.copy()
    factor = a_A / crystal.a_A if a_A is not None and crystal.a_A is not None else 1.0
    start, node, spin = _as_built(_moved(crystal, moves), given.fit)
    start = _scaled(start, factor)
    limit = method.refine_steps or FULL_STEPS
    minimum = relax(start, teacher, fmax=FMAX_eV_A, max_steps=limit)
    here = start.occupied
    moves[node[here]] += (minimum.positions_A - start.structure.cart_coords)[here] @ spin.T
    drop = minimum.initial_energy_eV - minimum.energy_eV
    descent = Descent(minimum.steps, minimum.initial_fmax_eV_A, minimum.fmax_eV_A, drop, minimum.converged)
    warnings = found.warnings
    if a_A is None:
        which = crystal.host or "this crystal"
        warnings += (f"the lattice constant of {which} in the potential is not known: relaxed under whatever strain",)
    if method.relaxer == "teacher" and not minimum.converged:
        warnings += (f"not converged: the largest force is {minimum.fmax_eV_A:.3f} eV/A after {minimum.steps} steps",)
    # The network's energy is that of the structure before the potential went on.
    whole = None if method.relaxer == "definet" else drop
    return _Moves(moves, None, whole, descent, warnings)


def at_teacher(crystal: DefectStructure, teacher: Calculator, a_A: float | None) -> Minimum:
    """Relax a built structure at the teacher's lattice constant, and carry the displacements over to its own.

    Parameters
    ----------
    crystal : DefectStructure
        From the builders.
    teacher : ASE calculator
    a_A : float or None
        The host's lattice constant in the teacher; None: the structure's own.
    """
    from definet.teacher import relax

    own = float(np.linalg.norm(crystal.structure.lattice.matrix[0])) / max(crystal.shape[0], 1)
    start = _scaled(crystal, 1.0 if a_A is None or crystal.shape[0] < 1 else a_A / own)
    minimum = relax(start, teacher)
    moves = minimum.positions_A - start.structure.cart_coords
    return replace(minimum, positions_A=crystal.structure.cart_coords + moves)


def _as_built(crystal: DefectStructure, fit: HostFit | None) -> tuple[DefectStructure, IntArray, FloatArray]:
    """The same structure with a along x and nodes in the order of the builders, which the teacher's stiffness needs.

    Returns
    -------
    crystal : DefectStructure
        As it came where its host is not known, or its cell spans no n x m cells.
    node : (N',) int array
        Where each node came from; -1 for vacancy nodes.
    spin : (3, 3) array
        Rotation from the crystal's frame, for rows of Cartesian vectors.
    """
    from pymatgen.core.lattice import Lattice

    if fit is None or min(fit.shape) < 1:
        node = np.where(crystal.occupied, np.arange(len(crystal.marker)), -1)
        return replace(crystal, host="", shape=(0, 0)), node, np.eye(3)
    structure, atoms = crystal.structure, np.flatnonzero(crystal.occupied)
    loose = np.flatnonzero(fit.site < 0)
    node = np.concatenate([np.where(fit.occupant >= 0, atoms[fit.occupant], -1), atoms[loose]])
    empty = np.concatenate([fit.site_A, np.zeros((len(loose), 3))])
    spin, cell = _onto_x(fit.plane_A[0]), structure.lattice.matrix.copy()
    cell[:2, :2] = np.diag(fit.shape) @ fit.plane_A
    positions = np.where(node[:, None] >= 0, structure.cart_coords[node], empty) @ spin
    elements = elements_of(structure)
    names = [elements[n] if n >= 0 else fit.element[k] for k, n in enumerate(node)]
    built = type(structure)(Lattice(cell @ spin), names, positions, coords_are_cartesian=True)
    marker = np.where(node >= 0, crystal.marker[node], VACANCY)
    return replace(crystal, structure=built, marker=marker, shape=fit.shape), node, spin


def _onto_x(vector: FloatArray) -> FloatArray:
    """Rotation about z that takes an in-plane vector to +x, for rows."""
    x, y = vector / np.linalg.norm(vector)
    return np.array([[x, -y, 0.0], [y, x, 0.0], [0.0, 0.0, 1.0]])


def _scaled(crystal: DefectStructure, factor: float) -> DefectStructure:
    """The same structure with a longer lattice constant; heights stay."""
    from pymatgen.core.lattice import Lattice

    structure = crystal.structure
    lattice = Lattice(structure.lattice.matrix * [factor, factor, 1.0])
    return replace(crystal, structure=type(structure)(lattice, structure.species, structure.frac_coords))


def _moved(crystal: DefectStructure, moves: FloatArray) -> DefectStructure:
    structure = crystal.structure
    positions = structure.cart_coords + moves
    return replace(
        crystal,
        structure=type(structure)(structure.lattice, structure.species, positions, coords_are_cartesian=True),
    )


def _outcome(given: Nodes, found: _Moves) -> Outcome:
    from pymatgen.core.lattice import Lattice

    back, structure = given.turn.T, given.crystal.structure
    unturned = type(structure)(Lattice(structure.lattice.matrix @ back), structure.species, structure.frac_coords)
    moves = found.moves @ back
    crystal = _moved(replace(given.crystal, structure=unturned), moves)
    warnings = (*given.warnings, *found.warnings)
    farthest = float(np.linalg.norm(moves, axis=1).max())
    failure = f"an atom would move by {farthest:.1f} A, farther than to the next site" if farthest > TOO_FAR_A else ""
    clash = closest(crystal.atoms, TOO_CLOSE_A)
    if clash is not None:
        i, j, apart_A = clash
        warnings += (f"atoms {i + 1} and {j + 1} are {apart_A:.2f} A apart in the result: do not use it",)
    return Outcome(crystal, moves, found.sigma_A, found.energy_drop_eV, found.descent, warnings, failure)
