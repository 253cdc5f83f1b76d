"""A small U-Net that says of each pixel whether a metal, a full or a half chalcogen column or an empty site is there.

As published ones, it is made for one material each, and it is trained in domain: on fields from the very renderings
that it is judged on (all microscopes of its host, all kinds of defects, `defect_fields.py`), put together and recorded
with other seeds, at doses about those of the benchmark. It is told the pixel size; it knows no lattice. Every connected
spot of half columns is taken for a single vacancy, every one of empty sites for a double vacancy; sites of all other
defects, lines and trefoils among them, are a class of their own, of which it says nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from defect_fields import Shot, build, drawn_labels, record
from defect_library import PIXEL_A, library, views
from defect_scoring import Stated
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from definet.crystals import host

FloatArray = NDArray[np.float64]

IntArray = NDArray[np.int64]

CLASSES = ("background", "M", "X2", "X", "vacancy", "other defect")
WEIGHTS = (1.0, 1.0, 1.0, 6.0, 6.0, 3.0)

SPOT_A = 0.55
"""Radius of a label."""

SMALLEST = 0.35
"""Spots of less than this share of a label's area are dropped."""

SIDE, FIELD_SIDE = 104, 480
BATCH, POOL = 4, 6
VACANCIES = 14
"""Of each kind, in each field of the pool, beside eight defects of any kind."""

SEED = 990_000
"""Of the first field of the pool, far from those of the benchmark."""

FIRST_RATE = 4e-3


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
    path, net = cache / f"unet-{name}-{seconds:g}s-{'-'.join(map(str, _state(name)))}.pt", UNet()
    if path.exists():
        net.load_state_dict(torch.load(path, weights_only=True))
        return net.eval()
    cache.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    optimiser = torch.optim.Adam(net.parameters(), FIRST_RATE)
    loss = nn.CrossEntropyLoss(torch.tensor(WEIGHTS))
    start = time.process_time()
    pool = [_example(name, SEED + k) for k in range(POOL)]
    while (spent := time.process_time() - start) < seconds:
        optimiser.param_groups[0]["lr"] = FIRST_RATE * (1 - 0.95 * spent / seconds)
        images, labels = zip(*(_patch(pool[rng.integers(POOL)], rng) for _ in range(BATCH)), strict=True)
        value = loss(net(torch.stack(images)), torch.stack(labels))
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    torch.save(net.state_dict(), path)
    return net.eval()


def _state(name: str) -> tuple[int, int]:
    """Microscopes of a host and stamps that were rendered of it: other ones are another training."""
    own = [lib for lib in map(library, views()) if lib.host == name]
    return len(own), sum(len(lib.stamps) for lib in own)


class _Example(NamedTuple):
    """Expected image at native pixels, a metal column peaking at 1; class of each pixel of `PIXEL_A`; their ratio."""

    expected: FloatArray
    labels: IntArray
    zoom: float


def _example(name: str, seed: int) -> _Example:
    rng = np.random.default_rng(seed)
    own = [view for view in views() if library(view).host == name]
    lib, x = library(own[seed % len(own)]), host(name).elements["X"]
    vacancies = VACANCIES * [f"V_{x}", f"V_{x}2"]
    extra = [label for label in sorted(lib.stamps) if "@" in label]
    wanted = [*drawn_labels(lib, rng, 8), *extra, *vacancies]
    shot = record(build("", "training", lib.name, wanted, seed, FIELD_SIDE), 100.0, seed)
    zoom = shot.field.pixel_A / PIXEL_A
    shape = np.floor(np.array(shot.recording.image.shape) * zoom).astype(int)
    labels, classes = np.zeros(shape, np.int64), _classes(shot, f"V_{x}", f"V_{x}2")
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    for (px, py), kind in classes:
        labels[np.hypot(columns - px * zoom, rows - py * zoom) < SPOT_A / PIXEL_A] = kind
    return _Example(shot.recording.expected * zoom**-2 / 100.0, labels, zoom)


def _classes(shot: Shot, single: str, double: str) -> list[tuple[FloatArray, int]]:
    """Every site with the index of its class; those of defects last."""
    kinds = {"M": 1, "X": 2}
    sites = [(xy, kinds[str(letter)]) for xy, letter in zip(shot.columns_px, shot.field.letters, strict=True)]
    for defect in shot.defects:
        kind = {single: 3, double: 4}.get(defect.label, 5)
        sites += [(xy, kind) for xy in defect.sites_px]
    return sites


def _patch(example: _Example, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A piece with a vacancy somewhere in it, with shot noise of some dose, turned or mirrored."""
    expected, labels, zoom = example
    vacancies = np.argwhere((labels == 3) | (labels == 4))
    room = np.array(labels.shape) - SIDE
    y, x = (vacancies[rng.integers(len(vacancies))] - rng.integers(0, SIDE, 2)).clip(0, room)
    counts = float(np.exp(rng.uniform(np.log(4), np.log(150)))) * zoom**2
    at = [(start + np.arange(SIDE)) / zoom for start in (y, x)]
    low, high = ([int(axis[k]) for axis in at] for k in (0, -1))
    window = rng.poisson(expected[low[0] : high[0] + 2, low[1] : high[1] + 2] * counts).astype(float)
    where = np.meshgrid(at[0] - low[0], at[1] - low[1], indexing="ij")
    image, kind = ndimage.map_coordinates(window, where, order=1, mode="nearest"), labels[y : y + SIDE, x : x + SIDE]
    turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
    image, kind = (np.rot90(one[::-1] if mirrored else one, turns).copy() for one in (image, kind))
    return torch.tensor(_normal(image))[None], torch.tensor(kind)


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
