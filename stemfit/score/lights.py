"""How bright the columns of a structure are by multislice, in place of the table: what neighbours and heights do to it.

The table knows column types; multislice knows the structure. What is taken from it is each column's brightness over
that of a column of the perfect crystal, simulated likewise; the scale, the shape of the probe and the noise stay those
of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stemfit.candidates import Candidate
from stemfit.errors import UsageError
from stemfit.hosts import ProjectedHost
from stemfit.imaging import reference_of
from stemfit.optics.scattering import Detector
from stemfit.relax import Relaxed

if TYPE_CHECKING:
    from stemfit.optics.probe import Probe
    from stemfit.score.rank import Score
    from stemfit.simulate.specimen import Specimen, View

FloatArray = NDArray[np.float64]

NEAR = 0.75
"""Columns are simulated within this many lattice constants of a site that the structure changes: those bound to it."""

RIM_A = 1.0
"""What is simulated round the outermost of them: most of a column's width."""

PIXEL_A = 0.2
"""Half of what the sampling theorem asks of a probe of 35 mrad at 60 kV."""

MOST, LEAST = 4, 1e-3
"""How many structures of a defect are simulated at most, and the posterior from which they are."""


class Light(NamedTuple):
    """Columns of a structure, as far as their brightness was simulated.

    Attributes
    ----------
    xy_A : (C, 2) array
        In the frame of the relaxed structure.
    relative : (C,) array
        Brightness over that of the column of the perfect crystal that `reference` names.
    reference : tuple of str
        Column type of the host, for each.
    """

    xy_A: FloatArray
    relative: FloatArray
    reference: tuple[str, ...]


Engine = Callable[[Candidate, Relaxed], Light]


class Microscope(NamedTuple):
    """What multislice must know."""

    probe: Probe
    detector_mrad: Detector


def microscope_for_multislice(
    voltage_kV: float | None, convergence_mrad: float | None, detector_mrad: Detector | None
) -> Microscope:
    """The microscope, in focus and without aberrations: they change the shape of all columns alike, which images have.

    Raises
    ------
    UsageError
        If voltage, convergence or detector are not stated.
    """
    if voltage_kV is None or convergence_mrad is None or detector_mrad is None:
        known = {"voltage": voltage_kV, "convergence": convergence_mrad, "detector": detector_mrad}
        absent = [name for name, value in known.items() if value is None]
        what = f"multislice needs the microscope, and neither you nor the file states {' and '.join(absent)}"
        remedy = f"state {' and '.join(f'--{name}' for name in absent)}, or leave --simulator out"
        raise UsageError(what, remedy=remedy)
    from stemfit.optics.probe import Probe

    return Microscope(Probe(voltage_kV, convergence_mrad), detector_mrad)


def engine_of(
    simulator: str, host: ProjectedHost, voltage_kV: float | None, convergence_mrad: float | None,
    detector_mrad: Detector | None,
) -> Engine | None:
    """What simulates the best structures: nothing ("fast") or "multislice", half a minute of a core a structure.

    The same structure is simulated once.

    Raises
    ------
    UsageError
        If voltage, convergence or detector are not stated.
    ModelError
        If abTEM is not installed.
    """
    if simulator == "fast":
        return None
    microscope = microscope_for_multislice(voltage_kV, convergence_mrad, detector_mrad)
    from stemfit.simulate import multislice  # an install that lacks it is told before anything is computed

    del multislice
    known, perfect = dict[bytes, Light](), dict[str, float]()

    def run(candidate: Candidate, relaxed: Relaxed) -> Light:
        key = _looks(candidate, relaxed)
        if key not in known:
            if not perfect:
                perfect.update(_crystal(host, microscope))
            known[key] = _light(candidate, relaxed, microscope, host, perfect)
        return known[key]

    return run


def _crystal(host: ProjectedHost, microscope: Microscope) -> dict[str, float]:
    """Brightness of each column type of the perfect crystal, of the one nearest to the middle of a patch."""
    from definet.structures import pristine
    from stemfit.candidates import patch_cells

    patch = pristine(host.crystal or host.name, *patch_cells(host))
    cell = patch.structure.lattice.matrix
    around = tuple((cell[:2, :2].sum(0) / 2).tolist())
    bright, types, xy = _brightness(_specimen(patch.numbers, patch.nodes_A, cell), microscope, around, host.a_A)
    off = np.hypot(*(xy - around).T)
    return {
        column: float(bright[min((k for k, t in enumerate(types) if t == column), key=lambda k: off[k])])
        for column in set(types)
    }


def _looks(candidate: Candidate, relaxed: Relaxed) -> bytes:
    """The same for structures that are the same, or turned over: the beam passes them in the other order."""
    atoms = candidate.structure.occupied
    xyz = relaxed.positions_A[atoms] - [*candidate.center_A, float(candidate.structure.nodes_A[:, 2].mean())]
    z = np.abs(xyz[:, 2])
    rows = np.column_stack([candidate.structure.numbers[atoms], np.round(xyz[:, :2], 2), np.round(z, 2)])
    return np.asarray(rows[np.lexsort(rows.T)] + 0.0).tobytes()


def simulated(
    candidates: Sequence[Candidate], relaxed: Sequence[Relaxed], scores: Sequence[Score], engine: Engine
) -> dict[str, Light]:
    """Lights of the most probable structures of one defect, by candidate; the perfect crystal needs none."""
    order = sorted(range(len(scores)), key=lambda k: -scores[k].posterior)
    chosen = [k for k in order if candidates[k].structure.sites and scores[k].posterior > LEAST][:MOST]
    return {candidates[k].id: engine(candidates[k], relaxed[k]) for k in chosen}


def _light(
    candidate: Candidate, relaxed: Relaxed, microscope: Microscope, host: ProjectedHost, perfect: Mapping[str, float]
) -> Light:
    structure = candidate.structure
    atoms = structure.occupied
    specimen = _specimen(structure.numbers[atoms], relaxed.positions_A[atoms], structure.structure.lattice.matrix)
    changed = structure.nodes_A[list(structure.sites), :2]
    middle = (changed.min(0) + changed.max(0)) / 2
    reach = float(np.hypot(*(changed - middle).T).max()) + NEAR * host.a_A
    bright, types, xy = _brightness(specimen, microscope, (float(middle[0]), float(middle[1])), reach)
    reference = tuple(t if t in host.columns else reference_of(t, host) for t in types)
    return Light(xy, bright / np.array([perfect[r] for r in reference]), reference)


def _specimen(numbers: NDArray[np.int64], positions_A: FloatArray, cell: FloatArray) -> Specimen:
    from stemfit.simulate.specimen import specimen

    return specimen(numbers, positions_A, cell[:2, :2])


def _brightness(
    of: Specimen, microscope: Microscope, middle_A: tuple[float, float], reach_A: float
) -> tuple[FloatArray, tuple[str, ...], FloatArray]:
    """Brightness, A^2, of columns (C,) within reach, their types, and where they are (C, 2).

    By least squares: each is as the fast image has it but for a factor of its own, those further out have one for each
    type, and there is a level. What neighbours show together (`stemfit.simulate.neighbours`) stays in: it is in the
    perfect crystal and in the columns of the image likewise, whose brightness the ratios multiply. Taken off, it would
    change the ratio of S in V_S by 0.8 % and of its neighbours by 0.3 % (60 kV, 47 to 118 mrad), a quarter from
    63 mrad at 80 kV.
    """
    from stemfit.simulate import multislice
    from stemfit.simulate.fast import scatterers
    from stemfit.simulate.specimen import View

    side = max(1, round(2 * (reach_A + RIM_A) / PIXEL_A))
    view = View(PIXEL_A, (side, side), middle_A)
    image, seen = multislice.image(of, *microscope, view), scatterers(of, *microscope, view)
    near = np.hypot(*seen.xy_A.T) < reach_A
    each = _columns(seen.xy_A, seen.amplitude_A2, seen.width_A, microscope.probe, view)
    far = sorted({t for t, k in zip(seen.types, near, strict=True) if not k})
    of_type = np.array(seen.types)
    together = [each[~near & (of_type == t)].sum(0) for t in far]
    design = np.array([*each[near], *together, np.ones(image.shape)]).reshape(-1, image.size)
    scale = np.sqrt((design**2).sum(1))
    answer = np.linalg.lstsq((design / scale[:, None]).T, image.ravel(), rcond=1e-6)[0] / scale
    types = tuple(t for t, k in zip(seen.types, near, strict=True) if k)
    return answer[: int(near.sum())] * seen.amplitude_A2[near], types, seen.xy_A[near] + middle_A


def _columns(xy_A: FloatArray, amplitude_A2: FloatArray, width_A: FloatArray, probe: Probe, view: View) -> FloatArray:
    """Image of each column alone, (C, H, W)."""
    import torch

    from stemfit.optics.probe import transfer
    from stemfit.simulate.spectrum import draw, frequencies, spectrum

    at = frequencies(view, probe.cutoff_per_A, probe.reach_A)
    xy, bright, width = (torch.from_numpy(a) for a in (xy_A[:, None], amplitude_A2[:, None], width_A[:, None]))
    with torch.no_grad():
        return np.asarray(draw(transfer(probe, *at.plane) * spectrum(xy, bright, width, at), at, view).numpy())

