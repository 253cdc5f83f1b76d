"""The fast image: against a plain loop, gradients against finite differences, conservation, and the one flip."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from stemfit.simulate import image
from stemfit.simulate.image import project, render

SHAPE = (37, 51)  # neither square nor even
CORE = np.array([[3.2, 0.7], [0.7, 1.9]])
TAIL, FRACTION = 3.7, 0.23


def probe(dtype=torch.float64, requires_grad=False):
    values = (torch.tensor(CORE, dtype=dtype), torch.tensor(TAIL, dtype=dtype), torch.tensor(FRACTION, dtype=dtype))
    return tuple(v.requires_grad_(requires_grad) for v in values)


def scene(seed=0, n=12, batch=()):
    rng = np.random.default_rng(seed)
    xy = rng.uniform([-6, -6], [SHAPE[1] + 5, SHAPE[0] + 5], size=(*batch, n, 2))
    return torch.tensor(xy), torch.tensor(rng.uniform(0.5, 3.0, size=(*batch, n)))


def plain(xy, amplitude, core=CORE, tail=TAIL, fraction=FRACTION, shape=SHAPE):
    """Independent: every column on every pixel, textbook formula."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    total = np.zeros(shape)
    for (cx, cy), a in zip(xy, amplitude, strict=True):
        d = np.stack([x - cx, y - cy], axis=-1)
        core_density = np.exp(-0.5 * np.einsum("hwi,ij,hwj->hw", d, np.linalg.inv(core), d))
        core_density /= 2 * np.pi * np.sqrt(np.linalg.det(core))
        tail_density = np.exp(-0.5 * (d**2).sum(-1) / tail**2) / (2 * np.pi * tail**2)
        total += a * ((1 - fraction) * core_density + fraction * tail_density)
    return total


def test_equals_a_plain_loop_over_columns():
    xy, amplitude = scene()
    expected = plain(xy.numpy(), amplitude.numpy())
    drawn = render(xy, amplitude, *probe(), SHAPE).numpy()
    peak_cut = np.exp(-(image.CUTOFF_SIGMAS**2) / 2)  # what a column has left at the edge of its window
    assert_allclose(drawn, expected, atol=len(amplitude) * expected.max() * peak_cut)
    turned = plain(xy.numpy(), amplitude.numpy(), core=CORE[::-1, ::-1])
    assert np.abs(drawn - turned).max() > 0.05 * expected.max()  # x and y are not interchangeable


def test_a_tall_image_is_summed_in_strips():
    tall = (2 * image.STRIP + 22, 30)
    rng = np.random.default_rng(4)
    xy, amplitude = rng.uniform([-5, -5], [35, tall[0] + 5], size=(40, 2)), rng.uniform(0.5, 2, 40)
    drawn = render(torch.tensor(xy), torch.tensor(amplitude), *probe(), tall).numpy()
    expected = plain(xy, amplitude, shape=tall)
    assert_allclose(drawn, expected, atol=3 * expected.max() * np.exp(-(image.CUTOFF_SIGMAS**2) / 2))


def test_single_precision_agrees_with_double():
    xy, amplitude = scene()
    single = render(xy.float(), amplitude.float(), *probe(torch.float32), SHAPE)
    assert single.dtype == torch.float32
    double = render(xy, amplitude, *probe(), SHAPE)
    assert_allclose(single.numpy(), double.numpy(), atol=5e-6 * float(double.max()))


@given(
    x=st.floats(-0.5, 0.5), y=st.floats(-0.5, 0.5), sigma=st.floats(0.7, 3.0), fraction=st.floats(0.0, 0.5),
    stretch=st.floats(1.0, 1.6),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_intensity_is_conserved_wherever_the_column_lies(x, y, sigma, fraction, stretch):
    core = torch.diag(torch.tensor([sigma**2, (sigma * stretch) ** 2], dtype=torch.float64))
    tail = torch.tensor(2 * sigma, dtype=torch.float64)
    at = torch.tensor([[40 + x, 41 + y]], dtype=torch.float64)
    total = render(at, torch.ones(1, dtype=torch.float64), core, tail, torch.tensor(fraction).double(), (83, 81)).sum()
    bound = 4 * np.exp(-2 * np.pi**2 * sigma**2) + np.exp(-(image.CUTOFF_SIGMAS**2) / 2)
    assert abs(float(total) - 1) < bound


def test_sampling_error_of_a_narrow_probe_is_the_stated_one():
    narrow, one = torch.eye(2).double() * 0.5**2, torch.ones(1).double()
    totals = [
        float(render(torch.tensor([[10 + s, 10 + s]]).double(), one, narrow, one[0], 0 * one[0], (21, 21)).sum())
        for s in (0.0, 0.5)
    ]
    stated = 4 * np.exp(-2 * np.pi**2 * 0.5**2)
    assert stated / 2 < max(abs(t - 1) for t in totals) < 1.05 * stated


def test_batch_equals_one_by_one():
    xy, amplitude = scene(batch=(2, 3), n=5)
    together = render(xy, amplitude, *probe(), SHAPE)
    assert together.shape == (2, 3, *SHAPE)
    for index in np.ndindex(2, 3):
        alone = render(xy[index], amplitude[index], *probe(), SHAPE)
        assert_allclose(together[index].numpy(), alone.numpy(), rtol=1e-12)


def test_a_probe_for_every_candidate():
    xy, amplitude = scene(batch=(2,), n=4)
    cores = torch.tensor(np.stack([CORE, 2 * CORE]))
    tails = torch.tensor([TAIL, 5.0]).double()
    fractions = torch.tensor([0.1, 0.4]).double()
    together = render(xy, amplitude, cores, tails, fractions, SHAPE)
    for k in range(2):
        alone = render(xy[k], amplitude[k], cores[k], tails[k], fractions[k], SHAPE)
        # Windows of a batch are those of its widest probe, hence the tolerance of the cut-off.
        assert_allclose(together[k].numpy(), alone.numpy(), atol=1e-5 * float(alone.max()))


def test_a_window_is_a_part_of_the_whole():
    xy, amplitude = scene()
    whole = render(xy, amplitude, *probe(), SHAPE)
    part = render(xy, amplitude, *probe(), (9, 13), origin=(21, 8))
    assert_allclose(part.numpy(), whole[8:17, 21:34].numpy(), atol=1e-5 * float(whole.max()))
    assert not np.allclose(part.numpy(), whole[21 : 21 + 9, 8 : 8 + 13].numpy(), atol=0.01)


def test_chunks_do_not_change_the_image(monkeypatch):
    xy, amplitude = scene(n=30)
    whole = render(xy, amplitude, *probe(), (100, 120))
    monkeypatch.setattr(image, "CHUNK", 2000)
    assert_allclose(render(xy, amplitude, *probe(), (100, 120)).numpy(), whole.numpy(), rtol=1e-12, atol=1e-15)


def test_far_columns_give_nothing():
    far = torch.tensor([[500.0, 500.0], [-90.0, 3.0]]).double()
    assert float(render(far, torch.ones(2).double(), *probe(), SHAPE).abs().max()) < 1e-100
    empty = render(torch.zeros(0, 2).double(), torch.zeros(0).double(), *probe(), SHAPE)
    assert empty.shape == SHAPE
    assert float(empty.abs().max()) == 0.0


def test_gradients_match_finite_differences():
    xy, amplitude = scene(n=4)
    xy.requires_grad_()
    amplitude.requires_grad_()
    core, tail, fraction = probe(requires_grad=True)
    pixels = torch.linspace(-1, 1, 11 * 13).double().reshape(11, 13)  # one number out, all pixels involved

    def drawn(*inputs):
        return (render(*inputs, (11, 13), origin=(4, 5)) * pixels).sum()

    assert torch.autograd.gradcheck(drawn, (xy, amplitude, core, tail, fraction), eps=1e-6, atol=1e-7)


def test_gradcheck_would_notice_a_wrong_gradient():
    xy, amplitude = scene(n=4)
    xy.requires_grad_()

    def half_detached(at):
        return render((at + at.detach()) / 2, amplitude, *probe(), (11, 13), origin=(4, 5)).sum()

    assert not torch.autograd.gradcheck(half_detached, (xy,), eps=1e-6, atol=1e-7, raise_exception=False)


# A scalene triangle of three elements: its mirror image cannot be turned onto it.
CHIRAL = np.array([[0.0, 0.0, 0.0], [4.0, 0.0, 1.0], [0.0, 2.0, -1.0]])
PX_PER_A = 5.0
UPRIGHT = np.array([[PX_PER_A, 0.0], [0.0, -PX_PER_A]])  # y up in the structure, down in the image


def turns_left_on_screen(xy_px):
    """Orientation of W -> Mo -> S as the eye sees it, y drawn downwards."""
    (ax, ay), (bx, by) = xy_px[1] - xy_px[0], xy_px[2] - xy_px[0]
    return ax * -by - -ay * bx > 0


def test_a_chiral_pattern_keeps_its_hand():
    numbers = [74, 42, 16]
    seen = project(numbers, CHIRAL, UPRIGHT, [30.0, 40.0])
    order = [seen.types.index(name) for name in ("W", "Mo", "S")]
    assert_allclose(seen.xy_px[order], [[30, 40], [50, 40], [30, 30]])
    assert turns_left_on_screen(seen.xy_px[order])
    mirrored = project(numbers, CHIRAL, np.eye(2) * PX_PER_A, [30.0, 40.0])  # the flip forgotten
    assert not turns_left_on_screen(mirrored.xy_px[[mirrored.types.index(name) for name in ("W", "Mo", "S")]])


def test_atoms_above_each_other_are_one_column():
    positions = [[0, 0, 0], [1.82, 0, 1.56], [1.87, 0.04, -1.56], [-0.9, 1.6, 1.6], [-0.9, 1.58, -1.6]]
    seen = project([42, 16, 16, 34, 16], positions, np.eye(2), [0, 0])
    assert sorted(seen.types) == ["Mo", "S2", "SSe"]
    assert seen.column_of_atom[1] == seen.column_of_atom[2] != seen.column_of_atom[0]
    assert_allclose(seen.xy_px[seen.types.index("S2")], [1.845, 0.02])
    mixed = seen.xy_px[seen.types.index("SSe")]
    assert 1.59 < mixed[1] < 1.6  # nearer to the heavier atom


def test_neighbours_stay_apart():
    seen = project([6, 6], [[0, 0, 0], [1.42, 0, 0]], np.eye(2), [0, 0])
    assert seen.types == ("C", "C")


@pytest.mark.parametrize("angle", [0.0, 0.37])
def test_project_is_affine(angle):
    rng = np.random.default_rng(3)
    positions = rng.uniform(0, 30, (20, 3))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix, offset = turn @ UPRIGHT @ [[1.0, 0.1], [0.0, 0.95]], np.array([3.0, -4.0])
    seen, bare = project([42] * 20, positions, matrix, offset), project([42] * 20, positions, np.eye(2), [0, 0])
    assert_allclose(seen.xy_px, bare.xy_px @ matrix.T + offset)
