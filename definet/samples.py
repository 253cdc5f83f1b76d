"""One defect before and after relaxation: what a network learns from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from definet.scenes import Scene
from definet.teacher import Minimum

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sample:
    """One defect, before and after relaxation.

    Attributes
    ----------
    numbers : (N,) int64 array
        Atomic numbers; of the missing element at a vacancy node.
    positions, relaxed : (N, 3) arrays
        Cartesian, Angstrom. `relaxed` is the periodic image nearest to the unrelaxed position; vacancy nodes stay. The
        mean displacement of the atoms is zero in x, y and z, because a periodic layer may float as a whole.
    cell : (3, 3) array
        Rows, Angstrom; at the teacher's own lattice constant.
    marker : (N,) int64 array
        0 pristine, 1 exchanged or added, 2 vacancy node.
    host, label : str
    source : str
        Which potential or method relaxed it, with its version: "chgnet-0.4.2".
    group : str
        Configuration: equal for defects that are equal by symmetry; never to be split.
    converged : bool
    energy_eV, initial_energy_eV : float
        Relaxed and unrelaxed.
    shape : (n, m)
        Repeats of the unit cell.
    fmax_eV_A : float
        Largest force left.
    part : str
        "train", "valid" or "test" where a published split says so, else empty.
    origin : str
        Where exactly it comes from: seed and number of the draw and the release that drew it, or the published file.
    """

    numbers: NDArray[np.int64]
    positions: FloatArray
    relaxed: FloatArray
    cell: FloatArray
    marker: NDArray[np.int64]
    host: str
    label: str
    source: str
    group: str
    converged: bool
    energy_eV: float
    initial_energy_eV: float
    shape: tuple[int, int] = (0, 0)
    fmax_eV_A: float = 0.0
    part: str = ""
    origin: str = ""

    @property
    def displacement(self) -> FloatArray:
        """(N, 3) relaxed minus unrelaxed, Angstrom."""
        return self.relaxed - self.positions


def sample(scene: Scene, minimum: Minimum, source: str) -> Sample:
    """Pair a scene with where it relaxed to."""
    structure = scene.crystal.structure
    return Sample(
        numbers=np.array(structure.atomic_numbers, np.int64),
        positions=structure.cart_coords,
        relaxed=minimum.positions_A,
        cell=structure.lattice.matrix,
        marker=scene.crystal.marker,
        host=scene.crystal.host,
        label=scene.crystal.label,
        source=source,
        group=scene.group,
        converged=minimum.converged,
        energy_eV=minimum.energy_eV,
        initial_energy_eV=minimum.initial_energy_eV,
        shape=scene.crystal.shape,
        fmax_eV_A=minimum.fmax_eV_A,
    )
