"""Random simulated fields: crystal, defects, microscope and recording are drawn, abTEM renders, the truth is known.

A field is one crystal under one microscope; every field is recorded at each of three doses, each time with a scan,
background, electronics and file of its own. Field k of a seed is the same however many fields are asked for.

Neighbours of a vacancy move 0.75 to 1.4 times as far as the potential says that also taught the network, drawn per
field. All single vacancies of a field are in one layer, as a beam makes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import assemble
import make
import numpy as np
from fields import MARGIN, Field, Placed
from numpy.typing import NDArray

from definet.crystals import host
from stemfit.simulate.multislice import Optics
from stemfit.synthetic import Acquisition

SHARES = (0.005, 0.03)
"""Least and largest share of chalcogen columns that are single vacancies, and that are double vacancies."""

DOSES = {"high": (1500.0, 8000.0), "low": (150.0, 600.0), "very low": (40.0, 150.0)}
"""Electrons scattered into the detector per square Angstrom where a metal column is brightest."""

HOSTS = ("MoS2", "WS2", "MoSe2", "WSe2")
FLAT = ("graphene", "hBN")
CYCLE = len(HOSTS) + 2
"""One field of each host with defects, one of any host without, one flat crystal without."""


class Image(NamedTuple):
    """One recorded field: file, truth as in `sample_images/README.md`, name of the dose, counts per square Angstrom."""

    path: Path
    truth: dict[str, Any]
    dose: str
    peak_per_A2: float


def images(seed: int, count: int, cache: Path, folder: Path) -> Iterator[Image]:
    """Render `count` fields (kept in `cache`) and write their recordings to `folder`."""
    for k in range(count):
        field = random_field(seed, k)
        rendered = assemble.render(field, cache)
        for level, dose in enumerate(DOSES):
            rng = np.random.default_rng([seed, k, level])
            peak = float(np.exp(rng.uniform(*np.log(DOSES[dose]))))
            shot = _recorded(field, rng, dose.replace(" ", "-"), peak)
            recording, truth = make.record(shot, rendered)
            make.write(shot, recording, truth, folder)
            yield Image(folder / f"{shot.name}.tif", truth, dose, peak)


def random_field(seed: int, k: int) -> Field:
    """Crystal, defects and microscope of field k."""
    rng = np.random.default_rng([seed, k])
    turn = k % CYCLE
    name = HOSTS[turn] if turn < len(HOSTS) else str(rng.choice(HOSTS if turn == len(HOSTS) else FLAT))
    bare = Field(
        name=f"{seed}-{k:02d}-{name}", host=name, defects=(), polarity=int(rng.choice([-1, 1])),
        rotation_deg=float(rng.uniform(0, 60)), optics=_optics(rng), acquisition=Acquisition(),
        seed=int(rng.integers(2**31)), pixel_A=float(rng.uniform(0.13, 0.22)), size=int(rng.integers(280, 380)),
        source_fwhm_A=float(rng.uniform(0.65, 1.0)), displaced=float(rng.uniform(0.75, 1.4)),
        origin_A=(float(rng.uniform(-1.5, 1.5)), float(rng.uniform(-1.5, 1.5))),
    )  # fmt: skip
    return replace(bare, defects=_defects(rng, bare)) if turn < len(HOSTS) else bare


def _optics(rng: np.random.Generator) -> Optics:
    """A corrected microscope that was focused by eye."""
    aberrations = {
        "C10": rng.normal(0, 10), "C12": rng.uniform(0, 12), "phi12": rng.uniform(0, np.pi),
        "C21": rng.uniform(0, 120), "phi21": rng.uniform(0, 2 * np.pi),
        "C23": rng.uniform(0, 120), "phi23": rng.uniform(0, 2 * np.pi),
    }  # fmt: skip
    return Optics(
        energy_eV=float(rng.choice([60e3, 80e3, 100e3], p=[0.6, 0.3, 0.1])), semiangle_mrad=rng.uniform(25, 31),
        inner_mrad=rng.uniform(45, 85), outer_mrad=rng.uniform(130, 170),
        aberrations={name: float(value) for name, value in aberrations.items()}, thermal_A=rng.uniform(0.06, 0.08),
    )  # fmt: skip


def _defects(rng: np.random.Generator, field: Field) -> tuple[Placed, ...]:
    """Single and double vacancies at random cells, also just outside the image; never three side by side."""
    cells = np.stack(np.meshgrid(*(np.arange(-60, 61),) * 2), -1).reshape(-1, 2)
    xy = make.to_xy_A(field, np.asarray(cells + 1 / 3, dtype=float))
    near = np.abs(xy).max(1) < field.size * field.pixel_A / 2 + 2
    cells, xy = cells[near], xy[near]
    element = host(field.host).elements["X"]
    wanted = [label for label in (f"V_{element}", f"V_{element}2")
              for _ in range(rng.binomial(len(cells), rng.uniform(*SHARES)))]
    chosen: list[int] = []
    for row in rng.permutation(len(cells)):
        if len(chosen) < len(wanted) and _lonely(xy, int(row), chosen, 1.15 * host(field.host).a_exp_A):
            chosen.append(int(row))
    layer = str(rng.choice(["top", "bottom"]))
    return tuple(
        Placed(label, int(cells[row][0]), int(cells[row][1]), "top" if label.endswith("2") else layer)
        for label, row in zip(wanted, chosen, strict=True)
    )


def _lonely(xy: NDArray[np.float64], row: int, chosen: list[int], reach: float) -> bool:
    """Whether a site has at most one chosen neighbour, and that one none."""
    def close(one: int) -> list[int]:
        return [other for other in chosen if other != one and np.hypot(*(xy[one] - xy[other])) < reach]

    return all(not close(neighbour) for neighbour in close(row)) and len(close(row)) < 2


def _recorded(field: Field, rng: np.random.Generator, dose: str, peak_per_A2: float) -> Field:
    """The field with scan, background, electronics and file drawn."""
    gain = rng.uniform(50, 200)
    pixel, side = field.pixel_A, field.size
    drift = rng.uniform(-0.015, 0.015, 2) * side
    acquisition = Acquisition(
        counts=peak_per_A2 * pixel**2, jitter_px=rng.uniform(0.02, 0.08) / pixel,
        drift_px=(float(drift[0]), float(drift[1])), distortion_px=rng.uniform(0.2, 0.7),
        tail_fraction=rng.uniform(0, 0.1), tail_sigma_px=rng.uniform(0.8, 1.6) / pixel,
        background=rng.uniform(0, 0.25), background_variation=rng.uniform(0.1, 0.5),
        gain=gain, offset=rng.uniform(0, 2000), read_sigma=rng.uniform(0.1, 0.4) * gain,
        dtype=str(rng.choice(["uint16", "uint16", "float32", "uint8"])), margin_px=MARGIN,
    )  # fmt: skip
    stated = [None, 1.0, float(rng.uniform(0.92, 1.08))][rng.integers(3)]
    return replace(
        field, name=f"{field.name}-{dose}", acquisition=acquisition, seed=int(rng.integers(2**31)), stated_scale=stated
    )
