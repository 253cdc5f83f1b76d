"""A small U-Net that says of each pixel whether a metal, a full or a half chalcogen column or an empty site is there.

As published ones, it is made for one material each: trained on images of Gaussian columns (`stemfit.synthetic`) with
the brightness that this host's columns have at detectors of any kind, at the pixel size and doses of the benchmark. It
is told the pixel size; it knows no lattice. Every connected spot of half columns is taken for a single vacancy, every
one of empty sites for a double vacancy.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from defect_fields import Shot
from defect_library import PIXEL_A
from defect_scoring import Stated
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from definet.crystals import host
from stemfit.synthetic import Acquisition, crystal, record

FloatArray = NDArray[np.float64]

CLASSES = ("background", "M", "X2", "X", "vacancy")
WEIGHTS = (1.0, 1.0, 1.0, 10.0, 15.0)
PAIRS = {"MoS2": (0.35, 0.80), "WS2": (0.12, 0.45), "MoSe2": (1.3, 2.0), "WSe2": (0.5, 1.2)}
"""Brightness of a full chalcogen column over that of a metal, least and largest over detectors."""

SPOT_A = 0.55
"""Radius of a label."""

SMALLEST = 0.35
"""Spots of less than this share of a label's area are dropped."""

SIDE, POOL_SIDE = 104, 340
BATCH, POOL = 4, 16


class UNet(nn.Module):
    """Two halvings, 10 to 40 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = _double(1, 10), _double(10, 20), _double(20, 40)
        self.up2, self.up1 = _double(40 + 20, 20), _double(20 + 10, 10)
        self.last = nn.Conv2d(10, len(CLASSES), 1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1, H, W) to (B, classes, H, W)."""
        one = self.down1(image)
        two = self.down2(nn.functional.max_pool2d(one, 2))
        three = self.bottom(nn.functional.max_pool2d(two, 2))
        two = self.up2(torch.cat([_larger(three), two], 1))
        return self.last(self.up1(torch.cat([_larger(two), one], 1)))


def _double(a: int, b: int) -> nn.Sequential:
    layers = [part for n in (a, b) for part in (nn.Conv2d(n, b, 3, padding=1), nn.GroupNorm(5, b), nn.ReLU())]
    return nn.Sequential(*layers)


def _larger(image: Tensor) -> Tensor:
    return nn.functional.interpolate(image, scale_factor=2, mode="nearest")


def trained(cache: Path, seconds: float) -> Callable[[Shot], list[Stated]]:
    """Function from a recorded field to claims; a net per host is trained once for so many CPU seconds and kept."""
    nets: dict[str, UNet] = {}

    def said(shot: Shot) -> list[Stated]:
        name = shot.field.host
        if name not in nets:
            nets[name] = _net(name, cache, seconds)
        return claims(nets[name], shot)

    return said


def _net(name: str, cache: Path, seconds: float) -> UNet:
    path, net = cache / f"unet-{name}-{seconds:g}s.pt", UNet()
    if path.exists():
        net.load_state_dict(torch.load(path, weights_only=True))
        return net.eval()
    cache.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    optimiser = torch.optim.Adam(net.parameters(), 4e-3)
    loss = nn.CrossEntropyLoss(torch.tensor(WEIGHTS))
    start = time.process_time()
    pool = [_example(name, rng) for _ in range(POOL)]
    while (spent := time.process_time() - start) < seconds:
        optimiser.param_groups[0]["lr"] = 4e-3 * (1 - 0.95 * spent / seconds)
        images, labels = zip(*(_patch(*pool[rng.integers(POOL)], rng) for _ in range(BATCH)), strict=True)
        value = loss(net(torch.stack(images)), torch.stack(labels))
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    torch.save(net.state_dict(), path)
    return net.eval()


def _example(name: str, rng: np.random.Generator) -> tuple[FloatArray, NDArray[np.int64]]:
    """Expected image, a metal column peaking at 1, and the class of each of its pixels."""
    sample = crystal(
        (POOL_SIDE, POOL_SIDE), pixel_size_A=PIXEL_A, a_A=host(name).a_exp_A, rotation_deg=float(rng.uniform(0, 60)),
        polarity=int(rng.choice([-1, 1])), brightness=(1.0, float(rng.uniform(*PAIRS[name]))),
        half_share=float(rng.uniform(0.33, 0.55)), core_sigma_A=float(rng.uniform(0.4, 0.6)),
        tail_fraction=float(rng.uniform(0, 0.25)), position_rms_A=0.04, seed=int(rng.integers(2**31)),
        halved=3, removed=4,
    )  # fmt: skip
    how = Acquisition(
        jitter_px=float(rng.uniform(0.1, 0.6)), distortion_px=0.3, background=float(rng.uniform(0, 0.2))
    )
    recording, truth = record(sample, how, int(rng.integers(2**31)))
    labels = np.zeros((POOL_SIDE, POOL_SIDE), np.int64)
    rows, columns = np.mgrid[:POOL_SIDE, :POOL_SIDE]
    kinds = {("M", "full"): 1, ("X", "full"): 2, ("X", "half"): 3, ("X", "empty"): 4}
    seen = truth.columns
    for (x, y), sublattice, state in zip(seen.xy_px, seen.sublattice, seen.state, strict=True):
        labels[np.hypot(columns - x, rows - y) < SPOT_A / PIXEL_A] = kinds[str(sublattice), str(state)]
    return recording.expected, labels


def _patch(expected: FloatArray, labels: NDArray[np.int64], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A piece with a vacancy somewhere in it, turned or mirrored, with shot noise."""
    vacancies = np.argwhere(labels >= 3)
    y, x = (vacancies[rng.integers(len(vacancies))] - rng.integers(0, SIDE, 2)).clip(0, POOL_SIDE - SIDE)
    counts = float(np.exp(rng.uniform(np.log(4), np.log(150))))
    image, kind = expected[y : y + SIDE, x : x + SIDE], labels[y : y + SIDE, x : x + SIDE]
    turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
    image, kind = (np.rot90(one[::-1] if mirrored else one, turns).copy() for one in (image, kind))
    return torch.tensor(_normal(rng.poisson(image * counts).astype(float)))[None], torch.tensor(kind)


def _normal(image: FloatArray) -> NDArray[np.float32]:
    """Background off, spread one."""
    level = image - ndimage.gaussian_filter(image, 6.0 / PIXEL_A, mode="reflect")
    return np.asarray(level / level.std(), np.float32)


def claims(net: UNet, shot: Shot) -> list[Stated]:
    """Single and double vacancies that the net sees in a recorded field."""
    image = np.asarray(shot.recording.image, float)
    zoom = shot.field.pixel_A / PIXEL_A
    shape = np.ceil(np.array(image.shape) * zoom / 4).astype(int) * 4
    at = np.meshgrid(*(np.arange(n) / zoom for n in shape), indexing="ij")
    scaled = ndimage.map_coordinates(image, at, order=1, mode="nearest")
    with torch.no_grad():
        share = net(torch.tensor(_normal(scaled))[None, None])[0].softmax(0).numpy()
    best, x = share.argmax(0), host(shot.field.host).elements["X"]
    found = []
    for kind, (type_, label) in {3: ("SV", f"V_{x}"), 4: ("DV", f"V_{x}2")}.items():
        spots, number = ndimage.label(best == kind)
        for spot in range(1, number + 1):
            yx = np.argwhere(spots == spot)
            if len(yx) < SMALLEST * np.pi * (SPOT_A / PIXEL_A) ** 2:
                continue
            probability = float(share[kind][spots == spot].mean())
            xy = yx.mean(0)[None, ::-1] / zoom
            found.append(Stated(type_, label, probability, xy, {"pristine": 1 - probability}))
    return found
