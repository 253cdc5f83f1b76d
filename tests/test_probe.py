"""The transfer of the probe: the Airy disc in closed form, abTEM's own probe, gradients, mistaken units."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor

from stemfit.errors import UsageError
from stemfit.optics.electron import wavelength_A
from stemfit.optics.probe import Probe, transfer

ABERRATED = {
    "defocus_A": 25.0, "astigmatism_A": 18.0, "astigmatism_deg": 20.0, "coma_A": 420.0, "coma_deg": 65.0,
    "threefold_A": 350.0, "threefold_deg": -12.0, "c3_A": 8000.0,
}  # fmt: skip


def grid(cutoff: float, n: int = 9) -> tuple[Tensor, Tensor]:
    k = torch.linspace(-cutoff, cutoff, n, dtype=torch.float64)
    ky, kx = torch.meshgrid(k, k, indexing="ij")
    return kx, ky


def test_in_focus_it_is_the_transfer_of_an_airy_disc() -> None:
    probe = Probe(60.0, 32.0)
    s = np.r_[0.0, 1e-6, np.linspace(0.01, 0.999, 40), 1.0, 1.3]
    k = torch.tensor(s * probe.cutoff_per_A)
    seen = transfer(probe, k * math.cos(0.7), k * math.sin(0.7))
    inside = np.minimum(s, 1.0)
    assert_allclose(seen.real, 2 / np.pi * (np.arccos(inside) - inside * np.sqrt(1 - inside**2)), atol=1e-9)
    assert_allclose(seen.imag, 0.0, atol=1e-12)


def test_source_and_focal_spread_against_sums_over_probes() -> None:
    """A spread of 40 A as a sum over many defoci; the source as its Gaussian."""
    kx, ky = grid(0.9)
    bare = {"astigmatism_A": 12.0, "coma_A": 200.0}
    weights, mean = np.polynomial.hermite_e.hermegauss(41)[1] / math.sqrt(2 * math.pi), 0.0
    for f, w in zip(np.polynomial.hermite_e.hermegauss(41)[0], weights, strict=True):
        mean = mean + w * transfer(Probe(80.0, 25.0, defocus_A=15.0 + 40.0 * f, **bare), kx, ky)
    spread = Probe(80.0, 25.0, defocus_A=15.0, focal_spread_A=40.0, source_fwhm_A=0.8, **bare)
    sigma = 0.8 / 2.354820045
    expected = mean * torch.exp(-2 * (math.pi * sigma) ** 2 * (kx**2 + ky**2))
    assert_allclose(transfer(spread, kx, ky), expected, atol=1e-8)


def test_the_quadrature_has_converged(monkeypatch: pytest.MonkeyPatch) -> None:
    kx, ky = grid(1.2)
    wide = Probe(60.0, 30.0, defocus_A=-200.0, astigmatism_A=80.0, coma_A=3000.0, threefold_A=2500.0, c3_A=50_000.0)
    usual = transfer(wide, kx, ky)
    monkeypatch.setattr("stemfit.optics.probe.NODES", 80)
    assert_allclose(usual, transfer(wide, kx, ky), atol=1e-6)


def abtem_spectrum(voltage_kV: float, convergence_mrad: float, kx: Tensor, ky: Tensor) -> np.ndarray:
    """Transform of the reflected intensity of abTEM's probe, summed on its own fine grid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # abTEM's imports are not ours
        abtem = pytest.importorskip("abtem", reason="abTEM is a development extra", exc_type=ImportError)
    extent, n = 60.0, 480
    waves = abtem.Probe(
        energy=voltage_kV * 1e3, semiangle_cutoff=convergence_mrad, extent=extent, gpts=n, soft=False,
        C10=-ABERRATED["defocus_A"], C12=ABERRATED["astigmatism_A"], phi12=math.radians(ABERRATED["astigmatism_deg"]),
        C21=ABERRATED["coma_A"], phi21=math.radians(ABERRATED["coma_deg"]), C23=ABERRATED["threefold_A"],
        phi23=math.radians(ABERRATED["threefold_deg"]), C30=ABERRATED["c3_A"],
    ).build(abtem.CustomScan([[extent / 2, extent / 2]]), lazy=False)  # fmt: skip
    intensity = np.abs(waves.array.reshape(n, n).astype(np.complex128)) ** 2
    at = np.arange(n) * extent / n - extent / 2
    # axis 0 of abTEM is x; the image of a point is the probe reflected: exp(+2 pi i k x) instead of exp(-...)
    along_x, along_y = (np.exp(2j * np.pi * np.outer(k.ravel().numpy(), at)) for k in (kx, ky))
    return np.einsum("kx,xy,ky->k", along_x, intensity, along_y).reshape(kx.shape) / intensity.sum()


def test_agrees_with_the_probe_of_abtem_and_the_unreflected_twin_does_not() -> None:
    kx, ky = grid(0.8)
    theirs = abtem_spectrum(60.0, 30.0, kx, ky)
    seen = transfer(Probe(60.0, 30.0, **ABERRATED), kx, ky)
    assert_allclose(seen, theirs, atol=0.01)  # the aperture has pixels there
    assert np.abs(np.conj(seen.numpy()) - theirs).max() > 0.15


def test_transfer_of_real_images() -> None:
    kx, ky = grid(1.0)
    probe = Probe(60.0, 30.0, **ABERRATED)
    assert_allclose(transfer(probe, -kx, -ky), transfer(probe, kx, ky).conj().resolve_conj(), atol=1e-12)
    assert float(transfer(probe, kx, ky).abs().max()) == pytest.approx(1.0)
    single = transfer(probe, kx.float(), ky.float())
    assert single.dtype == torch.complex64
    assert_allclose(single, transfer(probe, kx, ky), atol=2e-5)


def test_gradients_with_respect_to_everything_that_is_fitted() -> None:
    kx, ky = grid(0.9, 3)
    names = [*ABERRATED, "source_fwhm_A", "focal_spread_A"]
    start = [*ABERRATED.values(), 0.7, 20.0]

    def seen(*values: Tensor) -> Tensor:
        return torch.view_as_real(transfer(Probe(60.0, 30.0, **dict(zip(names, values, strict=True))), kx, ky))

    values = tuple(torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in start)
    assert torch.autograd.gradcheck(seen, values, eps=1e-4)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"voltage_kV": 60_000.0}, ["60000 kV", "did you mean 60 kV?", "not V"]),
        ({"voltage_kV": 0.06}, ["0.06 kV"]),
        ({"voltage_kV": math.nan}, ["nan"]),
        ({"convergence_mrad": 0.032}, ["0.032 mrad", "did you mean 32 mrad?", "not rad"]),
        ({"convergence_mrad": 320.0}, ["320 mrad"]),
        ({"source_fwhm_A": -0.8}, ["source fwhm -0.8 A is negative"]),
        ({"defocus_A": 1e5}, ["wide", "1 nm is 10 A"]),
        ({"c3_A": 1.2e7}, ["wide", "in Angstrom"]),
    ],
)
def test_mistaken_units(values: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        Probe(**{"voltage_kV": 60.0, "convergence_mrad": 32.0, **values})
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_the_cutoff_is_that_of_the_aperture() -> None:
    assert Probe(60.0, 32.0).cutoff_per_A == pytest.approx(0.064 / wavelength_A(60.0))
