"""Images through their spectrum: sums of Gaussians in closed form, an inverse FFT, gradients, the flip of y."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor

from stemfit.errors import UsageError
from stemfit.optics.probe import Probe, transfer
from stemfit.optics.scattering import kernel
from stemfit.simulate import fast, spectrum
from stemfit.simulate.specimen import View, specimen
from stemfit.simulate.spectrum import Frequencies, draw, frequencies

VIEW = View(0.13, (37, 52))  # neither square nor even
SIGMA = 0.45


def scene(n: int = 9, batch: tuple[int, ...] = (), seed: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    w, h = VIEW.size_A
    xy = rng.uniform([-w / 2 - 1, -h / 2 - 1], [w / 2 + 1, h / 2 + 1], (*batch, n, 2))
    return tuple(map(torch.tensor, (xy, rng.uniform(0.5, 3, (*batch, n)), rng.uniform(0, 0.2, (*batch, n)))))


def gaussian_image(columns: tuple[Tensor, Tensor, Tensor], view: View = VIEW, like: Tensor | None = None) -> Tensor:
    """Drawn through a probe that is a Gaussian."""
    at = frequencies(view, 2.2, 6 * SIGMA, like=like)
    kx, ky = at.plane
    through = torch.exp(-2 * (math.pi * SIGMA) ** 2 * (kx**2 + ky**2))
    return draw(through * spectrum.spectrum(*columns, at), at, view)


def plain(columns: tuple[Tensor, ...], view: View = VIEW) -> np.ndarray:
    h, w = view.shape
    x, y = (np.arange(w) - (w - 1) / 2) * view.pixel_A, ((h - 1) / 2 - np.arange(h)) * view.pixel_A
    total = np.zeros(view.shape)
    for (cx, cy), a, s in zip(*(c.numpy() for c in columns), strict=True):
        v = SIGMA**2 + s**2
        total += a / (2 * np.pi * v) * np.exp(-((x - cx) ** 2 + (y[:, None] - cy) ** 2) / (2 * v))
    return total


def test_equals_a_sum_of_gaussians() -> None:
    """Also where columns lie outside; what the cutoff takes is exp(-2 (pi 0.45 2.2)^2) = 4e-9."""
    columns = scene()
    expected = plain(columns)
    assert_allclose(gaussian_image(columns), expected, atol=1e-6 * expected.max())


@pytest.mark.parametrize(("pixel", "shape"), [(0.31, (11, 8)), (0.04, (50, 33)), (0.9, (5, 1))])
def test_any_pixel_size_and_shape(pixel: float, shape: tuple[int, int]) -> None:
    columns, view = scene(), View(pixel, shape)
    inside = tuple(c[(columns[0].abs() < 2.0).all(-1)] for c in columns)
    assert_allclose(gaussian_image(inside, view), plain(inside, view), atol=1e-5)


def test_a_batch_is_its_members_and_zeros_pad() -> None:
    columns = scene(batch=(2, 3))
    together = gaussian_image(columns)
    assert together.shape == (2, 3, *VIEW.shape)
    assert_allclose(together[1, 2], gaussian_image(tuple(c[1, 2] for c in columns)), atol=1e-12)
    padded = columns[0], torch.cat([columns[1][..., :5], torch.zeros(2, 3, 4)], -1), columns[2]
    assert_allclose(gaussian_image(padded), gaussian_image(tuple(c[:, :, :5] for c in columns)), atol=1e-12)


def test_columns_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = scene(batch=(2,))
    whole = gaussian_image(columns)
    monkeypatch.setattr(spectrum, "CHUNK", 500)
    assert_allclose(gaussian_image(columns), whole, atol=1e-12)


def test_single_precision() -> None:
    columns = scene()
    light = gaussian_image(tuple(c.float() for c in columns), like=columns[0].float())
    assert light.dtype == torch.float32
    assert_allclose(light, gaussian_image(columns), atol=3e-6 * float(light.max()) * len(columns[1]))


def test_the_sum_over_frequencies_is_an_inverse_fft() -> None:
    """On a box of whole pixels."""
    p, h, w = 0.2, 40, 30
    kx, ky = torch.arange(0, 13).double() / (w * p), torch.arange(-15, 16).double() / (h * p)
    at = Frequencies(kx, ky, (w * p, h * p))
    rng = np.random.default_rng(0)
    image = np.fft.irfft2(rng.normal(size=(h, w // 2 + 1)), (h, w))
    full = np.fft.rfft2(image)
    keep = np.zeros_like(full)
    rows = np.arange(-15, 16) % h
    keep[rows[:, None], np.arange(13)] = full[rows[:, None], np.arange(13)]
    there = np.fft.irfft2(keep, (h, w))
    # coefficients from the middle of the image, y up, times the area of the box
    fy, fx = np.fft.fftfreq(h)[rows][:, None], np.fft.rfftfreq(w)[:13]
    moved = keep[rows[:, None], np.arange(13)] * np.exp(2j * np.pi * (fx * (w - 1) / 2 + fy * (h - 1) / 2)) * p * p
    drawn = draw(torch.tensor(moved[::-1].copy()), at, View(p, (h, w)))
    assert_allclose(drawn, there, atol=1e-12)


def test_gradients() -> None:
    """Positions, amplitudes, widths, probe and pose, against finite differences."""
    view = View(0.4, (5, 7))
    xy, bright, width = scene(3)
    at = frequencies(view, Probe(60.0, 30.0).cutoff_per_A, 3.0)

    def seen(*values: Tensor) -> Tensor:
        place, amplitude, own, matrix, offset, defocus, coma, source = values
        probe = Probe(60.0, 30.0, defocus_A=defocus, coma_A=coma, coma_deg=30.0, source_fwhm_A=source)
        columns = spectrum.spectrum(place @ matrix.mT + offset, amplitude, own, at)
        return draw(transfer(probe, *at.plane) * columns, at, view)

    matrix = torch.tensor([[1.02, 0.03], [-0.04, 0.97]], dtype=torch.float64)
    offset = torch.tensor([0.11, -0.23], dtype=torch.float64)
    values = (xy, bright, width + 0.05, matrix, offset, *torch.tensor([12.0, 150.0, 0.7], dtype=torch.float64))
    assert torch.autograd.gradcheck(seen, tuple(v.clone().requires_grad_() for v in values), eps=1e-5)


def test_a_chiral_pattern_stands_as_in_the_structure() -> None:
    """W up right, Mo down right: y goes up in structures, and rows go down."""
    probe, view = Probe(60.0, 30.0, source_fwhm_A=0.7), View(0.2, (51, 61))
    one = specimen([74, 42, 16], [[3.0, 2.0, 0], [3.0, -2.4, 0], [-3.0, -2.0, 0.0]])
    image = fast.image(one, probe, (60.0, 180.0), View(view.pixel_A, view.shape, (0.0, 0.0)))
    row, column = np.unravel_index(image.argmax(), image.shape)
    assert (row, column) == (25 - 10, 30 + 15)
    assert image[25 + 12, 45] > 5 * image[25 - 10, 15], "Mo below"
    assert np.unravel_index(image[:, ::-1].argmax(), image.shape) != (row, column)


def test_it_is_a_share_of_the_beam() -> None:
    """The integral over an isolated column is its cross-section; half of the probe's tails lie outside."""
    probe, view = Probe(60.0, 30.0, source_fwhm_A=0.7), View(0.25, (240, 240))
    image = fast.image(specimen([42], [[0.0, 0.0, 0.0]]), probe, (60.0, 180.0), view)
    expected = kernel("Mo", 60.0, 30.0, (60.0, 180.0)).amplitude_A2
    assert image.sum() * view.pixel_A**2 == pytest.approx(expected, rel=0.02)
    assert 0 < image.max() < 0.1


@pytest.mark.parametrize(
    ("detector", "words"),
    [((200.0, 60.0), "no annulus"), ((20.0, 180.0), "inside the bright field of 30 mrad"), ((60.0, 400.0), "annulus")],
)
def test_detectors_that_are_none(detector: tuple[float, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        fast.image(specimen([42], [[0.0, 0.0, 0.0]]), Probe(60.0, 30.0), detector, VIEW)


def test_coma_moves_the_peaks() -> None:
    """By some pm, along its azimuth."""
    one, view = specimen([42], [[0.0, 0.0, 0.0]]), View(0.02, (41, 41))
    straight = fast.image(one, Probe(60.0, 30.0, source_fwhm_A=0.7), (60.0, 180.0), view)
    coma = fast.image(one, Probe(60.0, 30.0, source_fwhm_A=0.7, coma_A=600.0), (60.0, 180.0), view)
    assert np.unravel_index(straight.argmax(), straight.shape) == (20, 20)
    row, column = np.unravel_index(coma.argmax(), coma.shape)
    assert row == 20 and abs(int(column) - 20) >= 2
