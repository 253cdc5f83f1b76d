"""Makes stemfit/optics/scattering.npz: what columns of one and two atoms send into an annular detector.

An image of a column is the overlap of beams: of all pairs (q, q + g) in the aperture, those that interfere in the ring
give the image's Fourier component g. What the column does to it is its transfer,

    t(g) = < integral over the ring of conj(Phi(k, q)) Phi(k, q + g) >   over the q that leave both beams inside,

in squared Angstrom; t(0) is the cross-section, and the image of the column is t times the transfer function of the
aperture. Three levels, each the check of the next:

independent atoms
    First Born approximation: ``gamma^2 |f_e|^2`` over the detector, f_e from Lobato & Van Dyck, Acta Cryst. A 70, 636
    (2014), eq. 16.
phase objects
    The whole atom turns the phase of the wave, ``F = (exp(i chi) - 1)`` transformed (Moliere 1947; Glauber 1959;
    Kirkland 2010, section 5.1): heavy atoms at low voltage scatter up to 45 % less than in first Born approximation.
    ``Phi(k, q) = F(k - q)``. Atoms are at rest: their motion is the factor ``exp(-2 pi^2 u^2 g^2)`` exactly.
pairs
    Two phase objects with free flight between them, in either order. Motion of both together is again a factor of t;
    of the difference of their displacements (``2 u^2`` per axis, u = 0.07 A) t is the mean. Beams are those of a square
    lattice; by its symmetry one direction of the displacement stands for eight.

Kept as a polynomial of ``g lambda / 2 alpha`` by voltage, convergence alpha and ring.

Run: ``python benchmarks/scattering_table.py FOLDER [kV ...]`` (abTEM, a development extra, holds the published
parameters); about an hour on one core. FOLDER keeps what is done, one file per pair and voltage.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.special import j0, k0, k1

from stemfit.optics.electron import mass_ratio, wavelength_A
from stemfit.optics.pairs import pair_gaps_A

FloatArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex64]

OUTPUT = Path(__file__).parents[1] / "stemfit" / "optics" / "scattering.npz"
VOLTAGES_KV = (40.0, 60.0, 80.0, 100.0, 200.0, 300.0)
CONVERGENCES_MRAD = (20.0, 25.0, 30.0, 35.0, 40.0)
RINGS_MRAD = np.concatenate([np.arange(20.0, 100.0, 5.0), np.arange(100.0, 221.0, 10.0)])  # edges
TERMS = 5  # of the polynomial in g: odd ones too, because the aperture leaves out its edge as soon as g is not 0
THERMAL_A = 0.07  # rms per axis at room temperature in dichalcogenide monolayers
DISPLACEMENTS = 4  # Gauss-Laguerre nodes in d^2
BEAM_MRAD = 4.2  # pitch of the beams; the wave's box is one or two times lambda / pitch, 9 to 14 A
FASTEST_MRAD = RINGS_MRAD[-1] + CONVERGENCES_MRAD[-1] + 5.0


@cache
def published() -> dict[str, FloatArray]:
    """Parameters a (A), b (A^2) of every element, (2, 5); read as data, because importing abTEM takes long."""
    spec = find_spec("abtem")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("abTEM, which holds the parameters, is not installed: pip install 'stemfit[multislice]'")
    path = Path(spec.submodule_search_locations[0]) / "parametrizations" / "data" / "lobato.json"
    return {element: np.array(values) for element, values in json.loads(path.read_text()).items()}


def form_factor_A(element: str, g: FloatArray) -> FloatArray:
    """Electron form factor of the atom at rest, g = 2 sin(theta/2)/lambda in 1/A."""
    a, b = published()[element][:, :, None]
    return (a * (2 + b * g**2) / (1 + b * g**2) ** 2).sum(0)


def phase_rad(element: str, voltage_kV: float, r: FloatArray) -> FloatArray:
    """Phase of the projected potential at r (A): the two-dimensional Fourier transform of the form factor."""
    a, b = published()[element][:, :, None]
    x = 2 * np.pi * r / np.sqrt(b)
    return mass_ratio(voltage_kV) * wavelength_A(voltage_kV) * (a * 2 * np.pi / b * (k0(x) + x / 2 * k1(x))).sum(0)


def amplitude_A(element: str, voltage_kV: float, g: FloatArray) -> NDArray[np.complex128]:
    """Scattering amplitude of the atom as a phase object, A."""
    r, bessel = _bessel(g.tobytes())
    wave = np.exp(1j * phase_rad(element, voltage_kV, r)) - 1
    measure = 2 * np.pi * r**2 * (np.log(r[1]) - np.log(r[0]))
    return np.asarray(bessel @ (wave * measure) / (1j * wavelength_A(voltage_kV)))


@cache
def _bessel(g: bytes) -> tuple[FloatArray, FloatArray]:
    """Radii (A) and the kernel of the Hankel transform for these frequencies."""
    r = np.geomspace(1e-5, 15.0, 20_000)
    return r, j0(2 * np.pi * np.frombuffer(g)[:, None] * r)


def annulus_A2(element: str, voltage_kV: float, detector_mrad: tuple[float, float], convergence_mrad: float) -> float:
    """Cross-section for a cone of incident plane waves: t(0) without lattice, rings or polynomial.

    A plane wave tilted by q is scattered through k - q, the detector sees k.
    """
    wavelength = wavelength_A(voltage_kV)
    g = np.linspace(0.0, (detector_mrad[1] + convergence_mrad) * 1e-3 / wavelength, 250)
    intensity = np.abs(amplitude_A(element, voltage_kV, g)) ** 2
    k = np.linspace(*detector_mrad, 401) * 1e-3  # rad
    q = np.sqrt((np.arange(12) + 0.5) / 12) * convergence_mrad * 1e-3
    azimuth = (np.arange(48) + 0.5) * np.pi / 48
    through = np.sqrt(k[:, None, None] ** 2 + q[:, None] ** 2 - 2 * k[:, None, None] * q[:, None] * np.cos(azimuth))
    density = np.interp(through / wavelength, g, intensity).mean((1, 2)) * 2 * np.pi * k
    return float(np.trapezoid(density, k))


def independent_atom_A2(element: str, voltage_kV: float, detector_mrad: tuple[float, float]) -> float:
    """First Born cross-section for an axial plane wave; g dg lambda^2 = sin(theta) dtheta is exact."""
    wavelength = wavelength_A(voltage_kV)
    g = 2 * np.sin(np.linspace(*detector_mrad, 2001) / 2e3) / wavelength
    density = (mass_ratio(voltage_kV) * form_factor_A(element, g)) ** 2 * g
    return float(2 * np.pi * wavelength**2 * np.trapezoid(density, g))


def cell_shares(centres: FloatArray, side: float, edges: FloatArray) -> FloatArray:
    """Share of each square cell (N, 2) that lies between neighbouring radii: (N, edges - 1)."""
    within = (np.arange(12) + 0.5) / 12 * side - side / 2
    x, y = (centres[:, axis, None, None] + (within[:, None], within)[axis] for axis in (0, 1))
    ring = np.digitize(np.hypot(x, y), edges)
    return np.stack([(ring == index).mean((1, 2)) for index in range(1, len(edges))], -1)


class Beams:
    """Plane waves on a square lattice that fill the widest aperture, and what their overlaps say of t."""

    def __init__(self) -> None:
        reach = int(CONVERGENCES_MRAD[-1] / BEAM_MRAD) + 1
        lattice = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 2, indexing="ij"), -1).reshape(-1, 2)
        inside = [cell_shares(lattice * BEAM_MRAD, BEAM_MRAD, np.array([0.0, a]))[:, 0] for a in CONVERGENCES_MRAD]
        used = inside[-1] > 0
        self.index = lattice[used]  # (B, 2)
        self.mrad = self.index * BEAM_MRAD
        distance = np.hypot(*(self.mrad[:, None] - self.mrad).transpose(2, 0, 1))  # (B, B)
        self._fits = [self._fit(share[used], distance, a) for share, a in zip(inside, CONVERGENCES_MRAD, strict=True)]

    @staticmethod
    def _fit(share: FloatArray, distance: FloatArray, convergence: float) -> tuple[FloatArray, FloatArray]:
        """Weighted rows (pairs, terms) and the inverse normal matrix."""
        rows = (distance.ravel()[:, None] / (2 * convergence)) ** np.arange(TERMS)
        weighted = rows * np.outer(share, share).ravel()[:, None]
        return weighted, np.linalg.inv(weighted.T @ rows)

    def polynomials(self, overlap: FloatArray) -> FloatArray:
        """Coefficients of t (convergences, rings, terms) from overlaps (rings, B, B)."""
        flat = overlap.reshape(len(overlap), -1).astype(np.float64)
        return np.stack([flat @ weighted @ inverse for weighted, inverse in self._fits])


def overlaps(waves: ComplexArray, ring_of: list[tuple[NDArray[np.int64], FloatArray]]) -> FloatArray:
    """Real part of what beams (B, K) share in every ring, given as pixels and their weights: (rings, B, B)."""
    total = []
    for pixels, weight in ring_of:
        part = waves[:, pixels] * np.sqrt(weight).astype(np.float32)
        both = np.concatenate([part.real, part.imag], 1)
        total.append(both @ both.T)
    return np.stack(total)


class Atoms:
    """Single atoms at one voltage; the ring is integrated in polar coordinates."""

    def __init__(self, voltage_kV: float, beams: Beams) -> None:
        self.voltage_kV, self.beams, self.wavelength = voltage_kV, beams, wavelength_A(voltage_kV)
        node, weight = np.polynomial.legendre.leggauss(3)
        low, high = RINGS_MRAD[:-1, None] * 1e-3, RINGS_MRAD[1:, None] * 1e-3
        radius = ((high + low) / 2 + (high - low) / 2 * node).ravel()
        azimuth = (np.arange(60) + 0.25) * 2 * np.pi / 60
        area = np.repeat(((high - low) / 2 * weight).ravel() * radius * 2 * np.pi / 60, 60)
        k = np.stack([np.outer(radius, np.cos(azimuth)).ravel(), np.outer(radius, np.sin(azimuth)).ravel()], -1)
        self.through = np.hypot(*(k - beams.mrad[:, None] * 1e-3).transpose(2, 0, 1)) / self.wavelength
        rings = np.arange(len(k)).reshape(len(RINGS_MRAD) - 1, -1)
        self.rings = [(ring, area[ring]) for ring in rings]
        self.g = np.linspace(0.0, FASTEST_MRAD * 1e-3 / self.wavelength, 400)

    def polynomials(self, element: str) -> FloatArray:
        """Of t, see `Beams.polynomials`."""
        smooth = amplitude_A(element, self.voltage_kV, self.g)
        waves = np.interp(self.through, self.g, smooth.real) + 1j * np.interp(self.through, self.g, smooth.imag)
        return self.beams.polynomials(overlaps(waves.astype(np.complex64), self.rings))


class Flight:
    """A box in which waves meet two atoms, at one voltage."""

    def __init__(self, voltage_kV: float, beams: Beams) -> None:
        self.voltage_kV, self.beams, self.wavelength = voltage_kV, beams, wavelength_A(voltage_kV)
        self.finer = 1 if voltage_kV <= 100 else 2
        self.box_A = self.finer * self.wavelength / (BEAM_MRAD * 1e-3)
        # Scattering through 265 mrad from any beam; what aliases falls outside the last ring.
        self.n = 192 * self.finer
        pixel = np.rint(fft.fftfreq(self.n) * self.n)
        grid = np.stack(np.meshgrid(pixel, pixel, indexing="ij"), -1).reshape(-1, 2) * BEAM_MRAD / self.finer
        self.axis = pixel / self.box_A
        self.k = np.hypot(*np.meshgrid(self.axis, self.axis, indexing="ij"))
        far = np.flatnonzero(np.hypot(*grid.T) < RINGS_MRAD[-1] + BEAM_MRAD)
        share = cell_shares(grid[far], BEAM_MRAD / self.finer, RINGS_MRAD) * self.box_A**2
        self.kept = far[share.any(1)]
        share = share[share.any(1)]
        self.rings = [(np.flatnonzero(ring), ring[ring > 0]) for ring in share.T]
        node, weight = np.polynomial.laguerre.laggauss(DISPLACEMENTS)
        # The square of a vector with variance 2 u^2 per axis is exponential, of mean 4 u^2.
        self.displacements = list(zip(2 * THERMAL_A * np.sqrt(node), weight, strict=True))

    def _atom(self, element: str) -> ComplexArray:
        """Spectrum of transmission minus one."""
        g = np.linspace(0.0, FASTEST_MRAD * 1e-3 / self.wavelength, 400)
        smooth = 1j * self.wavelength * amplitude_A(element, self.voltage_kV, g) / self.box_A**2
        values = np.interp(self.k, g, smooth.real) + 1j * np.interp(self.k, g, smooth.imag)
        return (values * (self.k <= g[-1])).astype(np.complex64)

    def _at(self, beam: NDArray[np.int64]) -> tuple[int, int]:
        return int(beam[0] * self.finer), int(beam[1] * self.finer)

    def alone(self, element: str) -> FloatArray:
        """Overlaps of one atom on this grid."""
        atom = self._atom(element)
        waves = [np.roll(atom, self._at(beam), (0, 1)).ravel()[self.kept] for beam in self.beams.index]
        return overlaps(np.array(waves), self.rings)

    def together(self, pair: tuple[str, str], gap_A: float) -> FloatArray:
        """Overlaps of a pair, focused half way between its atoms."""
        orders = [pair] if pair[0] == pair[1] else [pair, pair[::-1]]
        total = np.zeros(1)
        for upper, lower in orders:
            first, second = self._atom(upper), self._atom(lower)
            for distance, weight in self.displacements:
                x, y = (np.exp(-2j * np.pi * self.axis * distance * f(np.pi / 8)) for f in (np.cos, np.sin))
                moved = fft.ifft2(second * (x[:, None] * y).astype(np.complex64)) * self.n**2
                total = total + weight / len(orders) * overlaps(self._waves(first, moved, gap_A), self.rings)
        return total

    def _waves(self, first: ComplexArray, second: ComplexArray, gap_A: float) -> ComplexArray:
        """Scattered waves (B, pixels): spectrum of the upper atom, transmission minus one of the lower."""
        flight = np.exp(-1j * np.pi * self.wavelength * gap_A * self.k**2).astype(np.complex64)
        waves = np.empty((len(self.beams.index), len(self.kept)), np.complex64)
        for row, beam in enumerate(self.beams.index):
            at = self._at(beam)
            from_upper = np.roll(first, at, (0, 1)) * flight
            arriving = from_upper.copy()
            arriving[at] += flight[at]
            both = from_upper + fft.fft2(fft.ifft2(arriving) * second)
            waves[row] = both.ravel()[self.kept] / np.sqrt(flight[at])  # phase counted from half way
        return waves


def made(path: Path, make: Callable[[], FloatArray]) -> FloatArray:
    """What a file holds, made first where there is none."""
    if not path.exists():
        part = path.with_suffix(".tmp.npy")
        np.save(part, make())
        part.rename(path)
    return np.asarray(np.load(path))


def at_voltage(folder: Path, voltage: float, beams: Beams) -> tuple[FloatArray, FloatArray]:
    """Polynomials of all atoms and of all pairs; of a pair its excess over two atoms, which the grid tells better."""
    single = Atoms(voltage, beams)
    elements = list(published())
    atoms = made(folder / f"{voltage:g}-atoms.npy", lambda: np.stack([single.polynomials(e) for e in elements]))
    flight = Flight(voltage, beams)
    pairs = []
    for pair, gap in pair_gaps_A().items():
        excess = made(
            folder / f"{voltage:g}-{'-'.join(pair)}.npy",
            lambda pair=pair, gap=gap: beams.polynomials(
                flight.together(pair, gap) - flight.alone(pair[0]) - flight.alone(pair[1])
            ),
        )
        pairs.append(excess + sum(atoms[elements.index(e)] for e in pair))
        print(f"{voltage:g} kV {pair}", file=sys.stderr, flush=True)
    return atoms, np.stack(pairs)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    voltages = tuple(sorted(float(v) for v in sys.argv[2:])) or VOLTAGES_KV
    beams = Beams()
    atoms, pairs = zip(*(at_voltage(folder, voltage, beams) for voltage in voltages), strict=True)
    names = [*published(), *("-".join(pair) for pair in pair_gaps_A())]
    a, b = np.stack(list(published().values()), 1)
    np.savez_compressed(OUTPUT.with_name("form_factors.npz"), elements=np.array(list(published())), a_A=a, b_A2=b)
    np.savez_compressed(
        OUTPUT,
        voltages_kV=np.array(voltages),
        convergences_mrad=np.array(CONVERGENCES_MRAD),
        rings_mrad=RINGS_MRAD,
        thermal_A=THERMAL_A,
        columns=np.array(names),
        transfer_A2=np.concatenate([np.stack(atoms), np.stack(pairs)], 1).astype(np.float32),
    )


if __name__ == "__main__":
    main()
