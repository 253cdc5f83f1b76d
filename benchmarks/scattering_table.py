"""Makes stemfit/optics/scattering.npz: how strongly atoms and stacked pairs of atoms scatter into an annular detector.

Three levels, each the check of the next:

independent atoms
    First Born approximation: ``gamma^2 |f_e|^2`` over the detector, f_e from Lobato & Van Dyck, Acta Cryst. A 70, 636
    (2014), eq. 16.
phase objects
    The whole atom turns the phase of the wave, ``F = (exp(i chi) - 1)`` transformed (Moliere 1947; Glauber 1959;
    Kirkland 2010, section 5.1): heavy atoms at low voltage scatter up to 45 % less than in first Born approximation.
pairs
    Two phase objects with free flight between them and thermal displacements of 0.07 A per axis, one incident plane
    wave after the other over the aperture: the integral of an image over probe positions needs no more, because beams
    of different direction interfere to zero. Kept as the ratio of the pair to its two atoms apart, by scattering angle.

Run: ``python benchmarks/scattering_table.py`` (abTEM, a development extra, holds the published parameters); about
20 minutes on one core.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.special import j0, k0, k1

from stemfit.optics.electron import mass_ratio, wavelength_A

FloatArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

OUTPUT = Path(__file__).parents[1] / "stemfit" / "optics" / "scattering.npz"
VOLTAGES_KV = (40.0, 60.0, 80.0, 100.0, 200.0, 300.0)
ANGLES_MRAD = np.arange(20.0, 222.0, 2.5)
RINGS_MRAD = np.arange(20.0, 221.0, 10.0)  # edges
CONVERGENCE_MRAD = 30.0  # middle of the 25 to 35 mrad in use; atoms change by < 1 % from 20 to 35, pairs by < 5 %
THERMAL_A = 0.07  # rms per axis at room temperature in dichalcogenide monolayers
FIELD_A = 20.0
TILTS = 96

CHALCOGEN_HEIGHT_A = {"O": 1.10, "S": 1.565, "Se": 1.68, "Te": 1.81}  # half of X-X in the H phase
METALS = ("Mo", "W")


def pair_gaps_A() -> dict[tuple[str, str], float]:
    """Distance along the beam of the pairs that occur in columns."""
    height = CHALCOGEN_HEIGHT_A
    names = tuple(height)
    gaps = {(a, b): height[a] + height[b] for i, a in enumerate(names) for b in names[i:]}
    # An atom of the metal in place of one chalcogen relaxes about half way to the metal plane.
    gaps |= {(m, x): 1.5 * height[x] for m in METALS for x in names[1:]}
    gaps |= {("Mo", "Mo"): 2.4, ("W", "W"): 2.4, ("Mo", "W"): 2.4}
    gaps |= {("Ga", "Ga"): 2.471, ("In", "In"): 2.834}
    return gaps


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


def amplitude_A(element: str, voltage_kV: float, g: FloatArray) -> ComplexArray:
    """Scattering amplitude of the atom as a phase object, A."""
    r = np.geomspace(1e-5, 15.0, 40_000)
    wave = np.exp(1j * phase_rad(element, voltage_kV, r)) - 1
    measure = 2 * np.pi * r**2 * (np.log(r[1]) - np.log(r[0]))
    return np.array([(wave * measure * j0(2 * np.pi * k * r)).sum() for k in g]) / (1j * wavelength_A(voltage_kV))


def annulus_A2(intensity: FloatArray, g: FloatArray, voltage_kV: float, angles_mrad: FloatArray) -> FloatArray:
    """Cross-section between angles_mrad[0] and each of `angles_mrad`, averaged over the incident cone.

    `intensity` is |F|^2 on `g`; a plane wave tilted by q is scattered through k - q, the detector sees k.
    """
    wavelength = wavelength_A(voltage_kV)
    k = np.linspace(angles_mrad[0], angles_mrad[-1], 4 * len(angles_mrad) - 3) * 1e-3  # rad
    share = (np.arange(6) + 0.5) / 6
    q = np.sqrt(share) * CONVERGENCE_MRAD * 1e-3
    azimuth = (np.arange(24) + 0.5) * np.pi / 24
    through = np.sqrt(k[:, None, None] ** 2 + q[:, None] ** 2 - 2 * k[:, None, None] * q[:, None] * np.cos(azimuth))
    density = np.interp(through / wavelength, g, intensity).mean((1, 2)) * 2 * np.pi * k
    steps = np.diff(k) * (density[1:] + density[:-1]) / 2
    return np.concatenate([[0.0], np.cumsum(steps)])[::4]


def independent_atom_A2(element: str, voltage_kV: float, detector_mrad: tuple[float, float]) -> float:
    """First Born cross-section for an axial plane wave; g dg lambda^2 = sin(theta) dtheta is exact."""
    wavelength = wavelength_A(voltage_kV)
    g = 2 * np.sin(np.linspace(*detector_mrad, 2001) / 2e3) / wavelength
    density = (mass_ratio(voltage_kV) * form_factor_A(element, g)) ** 2 * g
    return float(2 * np.pi * wavelength**2 * np.trapezoid(density, g))


class Flight:
    """A field in which waves meet atoms: reciprocal grid, angles and rings for one voltage."""

    def __init__(self, voltage_kV: float) -> None:
        self.wavelength = wavelength_A(voltage_kV)
        self.voltage_kV = voltage_kV
        # Products of transmission functions alias from the outer third of the band: keep 220 mrad inside the rest.
        self.n = fft.next_fast_len(int(np.ceil(3 * FIELD_A * RINGS_MRAD[-1] * 1e-3 / self.wavelength)) + 8)
        self.axis = fft.fftfreq(self.n, FIELD_A / self.n)
        self.k = np.hypot(*np.meshgrid(self.axis, self.axis, indexing="ij"))
        self.band = self.k < 2 / 3 * self.k[0].max()
        self.ring = np.digitize(self.k * self.wavelength * 1e3, RINGS_MRAD)

    def atom(self, element: str) -> ComplexArray:
        """Transform of transmission minus one, on the grid, per pixel of the field."""
        g = np.linspace(1e-3, self.k.max() + 0.1, 400)
        smooth = 1j * self.wavelength * amplitude_A(element, self.voltage_kV, g)
        values = np.interp(self.k, g, smooth.real) + 1j * np.interp(self.k, g, smooth.imag)
        return (values * self.band * (self.n / FIELD_A) ** 2).astype(np.complex64)

    def transmission(self, atom: ComplexArray, at: FloatArray) -> ComplexArray:
        """What the wave is multiplied with by an atom displaced from the axis by `at`, A."""
        x, y = np.exp(-2j * np.pi * self.axis * at[:, None]).astype(np.complex64)
        return 1 + fft.ifft2(atom * x[:, None] * y[None, :])

    def tilts(self) -> Iterator[tuple[ComplexArray, float]]:
        """Plane waves that fill the incident cone evenly: wave (n, n), |k| in 1/A."""
        for index in range(TILTS):
            tilt = np.sqrt((index + 0.5) / TILTS) * CONVERGENCE_MRAD * 1e-3 / self.wavelength
            angle = index * np.pi * (3 - np.sqrt(5))  # golden angle: even in azimuth for any number
            beam = np.rint(tilt * FIELD_A * np.array([np.cos(angle), np.sin(angle)]))
            x, y = np.exp(2j * np.pi * np.arange(self.n) * beam[:, None] / self.n).astype(np.complex64)
            yield x[:, None] * y[None, :], float(np.hypot(*beam)) / FIELD_A

    def rings(self, scattered: ComplexArray) -> FloatArray:
        """Intensity of a wave by ring of scattering angle."""
        spectrum = np.abs(fft.fft2(scattered)) ** 2
        return np.bincount(self.ring.ravel(), spectrum.ravel(), len(RINGS_MRAD) + 1)[1:-1]

    def alone(self, element: str) -> FloatArray:
        """What one atom scatters into each ring, over the cone. Its place in the field does not matter."""
        transmission = self.transmission(self.atom(element), np.zeros(2))
        return sum((self.rings(wave * (transmission - 1)) for wave, _ in self.tilts()), np.zeros(len(RINGS_MRAD) - 1))

    def together(self, pair: tuple[str, str], gap_A: float) -> FloatArray:
        """What two atoms above each other scatter; thermal displacements drawn anew for every tilt."""
        atoms = [self.atom(element) for element in pair]
        rng = np.random.default_rng(0)
        flight = (np.exp(-1j * np.pi * self.wavelength * gap_A * self.k**2) * self.band).astype(np.complex64)
        total = np.zeros(len(RINGS_MRAD) - 1)
        for index, (incident, k) in enumerate(self.tilts()):
            upper, lower = atoms if index % 4 < 2 else atoms[::-1]  # either may be on top
            wave = incident * self.transmission(upper, rng.normal(scale=THERMAL_A, size=2))
            wave = fft.ifft2(fft.fft2(wave) * flight)
            passed = incident * np.complex64(np.exp(-1j * np.pi * self.wavelength * gap_A * k**2))
            total += self.rings(wave * self.transmission(lower, rng.normal(scale=THERMAL_A, size=2)) - passed)
        return total


def atoms(symbols: list[str]) -> FloatArray:
    """Cross-section from 20 mrad up to each angle: (V, E, A), A^2."""
    table = np.zeros((len(VOLTAGES_KV), len(symbols), len(ANGLES_MRAD)))
    for v, voltage in enumerate(VOLTAGES_KV):
        g = np.linspace(0.0, (ANGLES_MRAD[-1] + CONVERGENCE_MRAD) * 1e-3 / wavelength_A(voltage), 200)
        for e, symbol in enumerate(symbols):
            table[v, e] = annulus_A2(np.abs(amplitude_A(symbol, voltage, g)) ** 2, g, voltage, ANGLES_MRAD)
    return table


def main() -> None:
    symbols = list(published())
    single = atoms(symbols)
    born = [[[independent_atom_A2(s, v, (60.0, 200.0))] for s in symbols] for v in VOLTAGES_KV]
    gaps = pair_gaps_A()
    pairs = np.zeros((len(VOLTAGES_KV), len(gaps), len(RINGS_MRAD) - 1))
    for v, voltage in enumerate(VOLTAGES_KV):
        flight = Flight(voltage)
        alone = {element: flight.alone(element) for element in sorted({e for pair in gaps for e in pair})}
        for p, (pair, gap) in enumerate(gaps.items()):
            pairs[v, p] = flight.together(pair, gap) / sum(alone[element] for element in pair)
            print(voltage, pair, np.round(pairs[v, p], 2), file=sys.stderr, flush=True)
    np.savez_compressed(
        OUTPUT,
        voltages_kV=np.array(VOLTAGES_KV),
        angles_mrad=ANGLES_MRAD,
        symbols=np.array(symbols),
        atoms_A2=single.astype(np.float32),
        born_A2=np.array(born)[..., 0].astype(np.float32),
        rings_mrad=RINGS_MRAD,
        pairs=np.array(["-".join(pair) for pair in gaps]),
        coherence=pairs.astype(np.float32),
    )


if __name__ == "__main__":
    main()
