"""Cross-sections: published ratios, a plain multislice, limits that must hold, and the stated uncertainty."""

import importlib.util
import math
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import j0

from stemfit.errors import UsageError
from stemfit.optics.electron import interaction_parameter, mass_ratio, wavelength_A
from stemfit.optics.scattering import amplitude, column_elements, kernel, ratio
from stemfit.optics.transfer import table

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "scattering_table.py"


@pytest.fixture(scope="module")
def maker():
    if importlib.util.find_spec("abtem") is None:
        pytest.skip("the published parameters come with abTEM")
    spec = importlib.util.spec_from_file_location("scattering_table", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("voltage", "picometre"), [(60, 4.8661), (100, 3.7014), (200, 2.5079), (300, 1.9687)])
def test_wavelength(voltage, picometre):
    assert_allclose(wavelength_A(voltage) * 100, picometre, atol=6e-5)  # Kirkland (2010), table of wavelengths


def test_interaction_parameter():
    assert_allclose(interaction_parameter(100), 0.9244e-3, rtol=2e-4)  # Kirkland (2010), fig. 5.2: rad/(V A)
    assert_allclose(mass_ratio(511), 2.0, rtol=1e-4)


INDEPENDENT = {  # first Born approximation, computed independently of this project's code
    (60.0, 50.0, 200.0): {"S/Mo": 0.183, "Se/W": 0.272, "S/W": 0.070, "Se/Mo": 0.712, "W/Mo": 2.62, "Nb/Mo": 0.96,
                          "V/Mo": 0.37, "Cr/Mo": 0.41, "Re/W": 1.02, "B/N": 0.49, "C/N": 0.72},
    (60.0, 79.0, 200.0): {"S/Mo": 0.178, "Se/W": 0.260, "S/W": 0.064, "Se/Mo": 0.716, "W/Mo": 2.76, "B/N": 0.52},
    (80.0, 90.0, 200.0): {"S/Mo": 0.172, "Se/W": 0.249, "S/W": 0.062, "Se/Mo": 0.692, "W/Mo": 2.78, "B/N": 0.54},
}  # fmt: skip


@pytest.mark.parametrize("conditions", INDEPENDENT)
def test_independent_atoms(maker, conditions):
    voltage, *detector = conditions
    for name, expected in INDEPENDENT[conditions].items():
        pair = [maker.independent_atom_A2(element, voltage, detector) for element in name.split("/")]
        assert_allclose(pair[0] / pair[1], expected, rtol=0.015, err_msg=name)  # two digits are given


MULTISLICE = {  # single atoms in a crystal, 60 kV, 32 mrad, thermal displacements 0.07 A
    (60.0, 200.0): {"S/Mo": 0.224, "W/Mo": 1.85, "Se/W": 0.408, "Mo/W": 0.536},
    (40.0, 100.0): {"S/Mo": 0.263, "W/Mo": 1.65, "Se/W": 0.427, "Mo/W": 0.60},
    (80.0, 200.0): {"S/Mo": 0.221, "W/Mo": 1.91},
}


@pytest.mark.parametrize("detector", MULTISLICE)
def test_single_atoms_agree_with_multislice(detector):
    for name, expected in MULTISLICE[detector].items():
        value, sigma = ratio(*name.split("/"), 60.0, detector)
        assert_allclose(value, expected, rtol=0.035, err_msg=name)
        assert sigma < 0.2, name


def test_first_born_approximation_would_fail_that(maker):
    born = [maker.independent_atom_A2(element, 60.0, (60.0, 200.0)) for element in ("W", "Mo")]
    assert born[0] / born[1] > 1.4 * 1.85


def test_weak_phase_objects_are_born_scatterers(maker):
    g = np.linspace(0.3, 8.0, 12)
    weak = np.abs(maker.amplitude_A("C", 300.0, g)) / (mass_ratio(300.0) * maker.form_factor_A("C", g))
    assert_allclose(weak, 1, atol=0.005)
    strong = np.abs(maker.amplitude_A("W", 60.0, g)) / (mass_ratio(60.0) * maker.form_factor_A("W", g))
    assert strong.max() < 0.9


def test_scattering_is_unitary(maker):
    """Optical theorem: a phase object scatters in total what it takes from the forward beam."""
    voltage, wavelength = 80.0, wavelength_A(80.0)
    g = np.concatenate([[0.0], np.geomspace(1e-3, 60.0, 900)])
    scattered = maker.amplitude_A("Mo", voltage, g)
    total = 2 * np.pi * wavelength**2 * np.trapezoid(np.abs(scattered) ** 2 * g, g)
    assert_allclose(total, 2 * wavelength * scattered[0].imag, rtol=0.01)


@pytest.fixture(scope="module")
def single(maker):
    """Makes the polynomials of one atom anew."""
    beams = maker.Beams()
    return cache(lambda element, voltage: maker.Atoms(voltage, beams).polynomials(element))


@pytest.mark.parametrize(("voltage", "convergence"), [(60.0, 30.0), (300.0, 20.0)])
def test_the_table_is_what_the_script_makes(maker, single, voltage, convergence):
    known = table()
    v = known.voltages_kV.tolist().index(voltage)
    assert_allclose(known.transfer_A2["Se",][v], single("Se", voltage), rtol=1e-4, atol=1e-8)
    rings = (maker.RINGS_MRAD[:-1] >= 60) & (maker.RINGS_MRAD[1:] <= 200)
    total = single("Se", voltage)[maker.CONVERGENCES_MRAD.index(convergence), rings, 0].sum()
    assert_allclose(total, maker.annulus_A2("Se", voltage, (60.0, 200.0), convergence), rtol=0.006)


@cache
def scattered(maker, element, voltage, reach):
    """Amplitude times i lambda on a radial grid."""
    g = np.linspace(0.0, reach, 300)
    return g, 1j * wavelength_A(voltage) * maker.amplitude_A(element, voltage, g)


def plain_image(maker, column, gap, at, across, moved=(0.0, 0.0), field=23.0, n=360):
    """Textbook multislice, probes focused half way on a line across the column: share of the beam on the detector."""
    voltage, semiangle, detector = at
    wavelength = wavelength_A(voltage)
    k = np.fft.fftfreq(n, field / n)
    radius = np.hypot(k[:, None], k)
    share = radius * wavelength * 1e3 <= semiangle  # a soft edge would widen the aperture
    focus = np.exp(1j * np.pi * wavelength * gap / 2 * radius**2)
    probes = share * focus * np.exp(-2j * np.pi * k * np.asarray(across)[:, None, None])
    probes = np.fft.ifft2(probes) / np.sqrt(share.sum()) * n
    for depth, element in enumerate(column):
        g, values = scattered(maker, element, voltage, float(radius.max()))
        on_grid = np.interp(radius, g, values.real) + 1j * np.interp(radius, g, values.imag)
        if depth:
            on_grid = on_grid * np.exp(-2j * np.pi * (k[:, None] * moved[0] + k * moved[1]))
            probes = np.fft.ifft2(np.fft.fft2(probes) * np.exp(-1j * np.pi * wavelength * gap * radius**2))
        probes = probes * (1 + np.fft.ifft2(on_grid * (radius < 0.67 * k.max())) * (n / field) ** 2)
    inner, outer = (np.clip((radius - edge * 1e-3 / wavelength) * field + 0.5, 0, 1) for edge in detector)
    return np.einsum("pxy,xy->p", np.abs(np.fft.fft2(probes)) ** 2, inner - outer) / n**2


def drawn(seen, at, across):
    """The same image from a kernel: its Gaussian through the transfer of the aperture."""
    voltage, semiangle, _ = at
    x = (np.arange(300) + 0.5) / 300
    g = x * 2e-3 * semiangle / wavelength_A(voltage)
    aperture = 2 / np.pi * (np.arccos(x) - x * np.sqrt(1 - x**2))
    passed = aperture * np.exp(-2 * np.pi**2 * seen.width_A**2 * g**2) * 2 * np.pi * g * (g[1] - g[0])
    return seen.amplitude_A2 * j0(2 * np.pi * np.multiply.outer(across, g)) @ passed


ACROSS = np.arange(0.0, 1.3, 0.15)
BETWEEN = {  # no node of the table: voltage, convergence, detector
    "HAADF": (70.0, 27.0, (63.0, 172.0)),
    "MAADF": (60.0, 33.0, (47.0, 103.0)),
    "far": (150.0, 23.0, (58.0, 146.0)),
}


@pytest.mark.parametrize("at", BETWEEN.values(), ids=BETWEEN)
@pytest.mark.parametrize("element", ["S", "W"])
def test_kernels_draw_the_image_of_an_atom(maker, at, element):
    voltage, convergence, detector = at
    plain = plain_image(maker, (element,), 0.0, at, ACROSS)
    ours = drawn(kernel(element, voltage, convergence, detector), at, ACROSS)
    assert_allclose(ours, plain, atol=0.05 * plain[0])
    assert_allclose(ours @ ACROSS, plain @ ACROSS, rtol=0.03)
    broader = drawn(kernel(element, voltage, convergence, detector)._replace(width_A=0.25), at, ACROSS)
    assert abs(broader[0] / plain[0] - 1) > 0.1


@pytest.mark.parametrize("at", BETWEEN.values(), ids=BETWEEN)
@pytest.mark.parametrize("element", ["C", "Mo", "W"])
def test_peaks_of_atoms_between_the_nodes(maker, at, element):
    """Probe on the atom: the amplitudes of all beams of the aperture add up, an integral over polar coordinates."""
    voltage, convergence, detector = at
    wavelength = wavelength_A(voltage)
    g, values = scattered(maker, element, voltage, (detector[1] + convergence) * 1e-3 / wavelength)
    k = np.linspace(*detector, 200) * 1e-3 / wavelength
    edge = convergence * 1e-3 / wavelength
    q, azimuth = (np.arange(40) + 0.5) / 40 * edge, (np.arange(60) + 0.5) * np.pi / 60
    through = np.sqrt(k[:, None, None] ** 2 + q[:, None] ** 2 - 2 * k[:, None, None] * q[:, None] * np.cos(azimuth))
    added = np.interp(through, g, values.real) + 1j * np.interp(through, g, values.imag)
    added = (added * q[:, None]).sum((1, 2)) * 2 * np.pi / 60 * edge / 40
    exact = np.trapezoid(np.abs(added) ** 2 * 2 * np.pi * k, k) / (np.pi * edge**2)
    assert_allclose(drawn(kernel(element, voltage, convergence, detector), at, 0.0), exact, rtol=0.015)


def test_kernels_draw_the_image_of_a_pair(maker):
    """Atoms that move by 0.07 A: the lower one on circles round the upper, which make up the Gaussian."""
    at = 70.0, 27.0, (63.0, 172.0)
    node, weight = np.polynomial.laguerre.laggauss(3)
    angles = (np.arange(5) + 0.2) * 2 * np.pi / 5
    plain = sum(
        w / 5 * plain_image(maker, ("S", "S"), 3.13, at, ACROSS, 0.14 * np.sqrt(t) * np.array([np.cos(a), np.sin(a)]))
        for t, w in zip(node, weight, strict=True) for a in angles
    )  # fmt: skip
    seen = kernel("S2", *at)
    ours = drawn(seen._replace(width_A=math.hypot(seen.width_A, 0.07)), at, ACROSS)
    assert_allclose(ours @ ACROSS, plain @ ACROSS, rtol=0.03)
    assert 2 * kernel("S", *at).amplitude_A2 < 0.9 * seen.amplitude_A2


def test_brightness_goes_with_the_kernels():
    for at in BETWEEN.values():
        voltage, convergence, detector = at
        for column in ("S", "S2", "W"):
            both = [kernel(c, voltage, convergence, detector).amplitude_A2 for c in (column, "Mo")]
            assert_allclose(ratio(column, "Mo", voltage, detector, convergence)[0], both[0] / both[1], rtol=0.03)


def test_apertures_matter_for_pairs_and_hardly_for_atoms():
    atom, pair = ([ratio(*pair, 60.0, (50.0, 150.0), alpha)[0] for alpha in (20.0, 27.0, 40.0)]
                  for pair in (("Nb", "Mo"), ("S2", "S")))  # fmt: skip
    assert np.ptp(atom) < 0.01
    assert 0.05 < np.ptp(pair) < 0.5
    assert ratio("S2", "S", 60.0, None)[0] == ratio("S2", "S", 60.0, None, 30.0)[0]


@pytest.mark.parametrize(("detector", "margin"), [((40.0, 100.0), 0.12), ((60.0, 200.0), 0.08), ((80.0, 200.0), 0.16)])
def test_pairs_scatter_coherently(maker, detector, margin):
    """The table integrates over thermal displacements and probe positions; the plain calculation has neither."""
    at = 60.0, 30.0, detector
    plain = plain_image(maker, ("S", "S"), 3.13, at, [0.0])[0] / plain_image(maker, ("S",), 0.0, at, [0.0])[0]
    tabulated = ratio("S2", "S", 60.0, detector)[0]
    assert_allclose(tabulated, plain, rtol=margin)


def test_two_chalcogens_are_worth_more_than_two_at_low_angles_only():
    maadf, haadf = ratio("S2", "S", 60.0, (40.0, 100.0))[0], ratio("S2", "S", 60.0, (90.0, 200.0))[0]
    assert maadf > 2.8
    assert haadf < 2.1


IN_CRYSTALS = {  # benchmarks/column_brightness.py: multislice, Kirkland's atoms; voltage, convergence, detector
    (60.0, 33.0, (52.0, 145.0)): {"S2/Mo": 0.649, "S/Mo": 0.249, "Se2/Mo": 1.938, "W/Mo": 1.756, "Nb/Mo": 0.963,
                                  "Se2/W": 1.101, "Se/W": 0.434, "Mo/W": 0.571, "N/C": 1.339, "N/B": 1.859},
    (80.0, 28.0, (41.0, 97.0)): {"S2/Mo": 0.725, "S/Mo": 0.248, "Se2/Mo": 2.111, "W/Mo": 1.804,
                                 "Se2/W": 1.165, "Se/W": 0.411,
                                 "Mo/W": 0.560, "N/C": 1.323, "N/B": 1.828},
    (80.0, 27.0, (85.0, 190.0)): {"S2/Mo": 0.399, "S/Mo": 0.207, "Se2/Mo": 1.525, "W/Mo": 2.004,
                                  "Se2/W": 0.758, "Se/W": 0.370,
                                  "Mo/W": 0.498, "N/C": 1.336, "N/B": 1.887},
}  # fmt: skip


@pytest.mark.parametrize("conditions", IN_CRYSTALS)
def test_stated_uncertainty_covers_columns_in_crystals(conditions):
    voltage, convergence, detector = conditions
    off = []
    for name, expected in IN_CRYSTALS[conditions].items():
        value, sigma = ratio(*name.split("/"), voltage, detector, convergence)
        off.append(math.log(value / expected) / sigma)
    assert max(np.abs(off)) < 2.5
    assert 0.2 < np.sqrt(np.mean(np.square(off))) < 1.2


def test_order_and_additivity():
    conditions = (80.0, (70.0, 200.0))
    assert amplitude("SSe", *conditions) == amplitude("SeS", *conditions)
    parts = sum(amplitude("Mo", 80.0, detector)[0] for detector in ((50.0, 83.3), (83.3, 200.0)))
    assert_allclose(amplitude("Mo", 80.0, (50.0, 200.0))[0], parts, rtol=1e-9)
    apart = 2 * amplitude("Ga", *conditions)[0] + 2 * amplitude("Se", *conditions)[0]
    value, sigma = amplitude("Ga2Se2", *conditions)
    assert_allclose(value, apart)
    assert sigma > 0.2  # not tabulated


def test_a_smaller_detector_sees_less():
    values = [amplitude("Mo", 60.0, (inner, 200.0))[0] for inner in (40, 50, 60, 80, 100, 150)]
    assert all(a > b > 0 for a, b in pairwise(values))


def test_unknown_conditions_are_less_sure():
    known = amplitude("S2", 60.0, (60.0, 200.0))[1]
    assert amplitude("S2", 60.0, None)[1] > known
    assert amplitude("S2", None, None)[1] > known
    assert amplitude("Mo", 60.0, None)[1] < amplitude("S2", 60.0, None)[1]


@pytest.mark.parametrize("column", ["", "mo", "S2 ", "Xx", "S1", "2S", "Mo-S"])
def test_nonsense_columns(column):
    with pytest.raises(UsageError):
        column_elements(column)


@pytest.mark.parametrize(
    ("voltage", "detector"),
    [(5.0, None), (1000.0, None), (60.0, (5.0, 100.0)), (60.0, (100.0, 60.0)), (60.0, (60.0, 400.0))],
)
def test_conditions_outside_the_table(voltage, detector):
    with pytest.raises(UsageError):
        amplitude("Mo", voltage, detector)


@pytest.mark.parametrize("convergence", [5.0, 60.0])
def test_apertures_outside_the_table(convergence):
    with pytest.raises(UsageError, match="convergence"):
        kernel("Mo", 60.0, convergence, None)
