"""Other tools that find atomic columns, each behind one function from an image to what it found.

They are told what their users must choose: the true width of the columns and the distance of neighbours (`Hints`). What
else they leave open was chosen by trying a grid of values on images of this generator (ratios 0.34 and 0.46, Gaussian
and tailed, 100 to 5 counts), for the best of precision, recall and halved columns found.

``pip install -e '.[peers]'`` installs them.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
import warnings
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from honeycombs import PROFILES, FloatArray, Recipe, Scene, make, stamps


class Hints(NamedTuple):
    """True width (standard deviation) of the columns' core and distance of neighbouring columns, px."""

    sigma_px: float
    bond_px: float


class Found(NamedTuple):
    """Columns a tool found: positions (N, 2) and, where it says them, intensities (N,) and standard errors."""

    xy: FloatArray
    intensity: FloatArray | None = None
    sigma_xy: FloatArray | None = None
    sigma_intensity: FloatArray | None = None


# -- atomap --------------------------------------------------------------------------------------------------------

SMOOTHING, SEPARATION, THRESHOLD, TO_NEIGHBOUR = 0.6, 0.15, 0.1, 0.5
"""In column widths, in bonds, share of the brightest, radius of the Gaussian fit in nearest distances (its default is
0.4). Wider smoothing or separation loses the
halved columns, which stand on the flanks of three metal columns."""


def import_atomap() -> None:
    """Import it without the deprecations that hyperspy announces of itself, and keep it from reporting every fit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_module("atomap.api")
        import_module("hyperspy.api").set_log_level("CRITICAL")


def atomap(image: FloatArray, hints: Hints) -> Found:
    """Local maxima of the smoothed image; centre of mass and 2D Gaussians on the image itself."""
    sublattice = atomap_sublattice(image, SMOOTHING * hints.sigma_px, SEPARATION * hints.bond_px, THRESHOLD)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fits that did not converge: these atoms stay where they were
        sublattice.refine_atom_positions_using_center_of_mass(show_progressbar=False)
        sublattice.refine_atom_positions_using_2d_gaussian(percent_to_nn=TO_NEIGHBOUR, show_progressbar=False)
    atoms = sublattice.atom_list
    xy = np.array([(atom.pixel_x, atom.pixel_y) for atom in atoms], dtype=np.float64)
    return Found(xy, np.array([atom.amplitude_gaussian for atom in atoms], dtype=np.float64))


def atomap_sublattice(image: FloatArray, smoothing_px: float, separation_px: float, threshold: float) -> Any:
    """Sublattice of the local maxima, at least `separation_px` apart, of the image smoothed and freed of its floor."""
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(image, smoothing_px)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of hyperspy, which deprecates what it calls itself
        api, signals = import_module("atomap.api"), import_module("hyperspy.api").signals
        signal = signals.Signal2D(smooth - np.percentile(smooth, 1))
        seeds = api.get_atom_positions(signal, separation=max(1.0, separation_px), threshold_rel=threshold)
        sublattice = api.Sublattice(seeds, image)
    sublattice.find_nearest_neighbors()
    return sublattice


# -- scikit-image --------------------------------------------------------------------------------------------------

BLOB_THRESHOLD = 0.02


def blobs(image: FloatArray, hints: Hints) -> Found:
    """Laplacian-of-Gaussian blobs of scikit-image, then a round Gaussian on a constant about each by curve_fit."""
    from skimage.feature import blob_log

    low, high = np.percentile(image, [1, 99.9])
    size = hints.sigma_px
    seeds = blob_log(
        (image - low) / (high - low), min_sigma=0.8 * size, max_sigma=1.4 * size, num_sigma=4,
        threshold=BLOB_THRESHOLD,
    )  # fmt: skip
    fitted = [one_gaussian(image, seed[1::-1], hints) for seed in seeds]
    values = np.array([value for value in fitted if value is not None]).reshape(-1, 5)
    return Found(values[:, 1:3], 2 * np.pi * values[:, 0] * values[:, 3] ** 2)


def one_gaussian(image: FloatArray, seed: FloatArray, hints: Hints) -> FloatArray | None:
    """Height, x, y, width, base of the Gaussian within half a bond of a seed; None where no fit converges there."""
    from scipy.optimize import curve_fit

    radius = round(0.5 * hints.bond_px)
    x0, y0 = np.rint(seed).astype(int)
    rows = slice(max(0, y0 - radius), y0 + radius + 1)
    cols = slice(max(0, x0 - radius), x0 + radius + 1)
    cut = image[rows, cols]
    y, x = np.mgrid[rows.start : rows.start + cut.shape[0], cols.start : cols.start + cut.shape[1]]
    near = np.hypot(x - x0, y - y0) <= radius
    x, y, cut = x[near], y[near], cut[near]

    def gaussian(_: object, height: float, cx: float, cy: float, width: float, base: float) -> FloatArray:
        return np.asarray(base + height * np.exp(-0.5 * ((x - cx) ** 2 + (y - cy) ** 2) / width**2))

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            start = [np.ptp(cut), *seed, hints.sigma_px, cut.min()]
            low = [0, *(seed - radius), 0.5 * hints.sigma_px, -np.inf]
            high = [np.inf, *(seed + radius), 2 * hints.sigma_px, np.inf]
            best, _ = curve_fit(gaussian, x, cut, p0=start, bounds=(low, high))
    except RuntimeError:
        return None
    return np.asarray(best)


# -- AtomAI --------------------------------------------------------------------------------------------------------

TRAINING_CYCLES, BATCH, PATCH_PX = 100, 16, 128
"""Two to three CPU minutes. Fewer than 60 cycles lose halved columns at 20 counts."""


def atomai(image: FloatArray, hints: Hints) -> Found:
    """U-Net of AtomAI: centres of mass of what it marks. It says no intensities."""
    with quiet():
        _, found = trained_unet().predict(image[None], verbose=False)
    return Found(np.asarray(found[0][:, 1::-1], dtype=np.float64))


def train_atomai() -> None:
    """What `atomai` does first where this has not been called."""
    trained_unet()


@cache
def trained_unet() -> Any:
    """Train on 320 patches with the profiles, doses and vacancies that it will be asked about, on other seeds."""
    scenes = [training_scene(seed) for seed in range(40)]
    pairs = [pair for scene in scenes for pair in patches(scene)]
    x, y = (np.array(each, dtype=np.float32)[:, None] for each in zip(*pairs, strict=True))
    with tempfile.TemporaryDirectory() as folder, quiet():
        network = atomai_module().models.Segmentor(nb_classes=1)
        network.fit(
            x[:320], y[:320], x[320:], y[320:], training_cycles=TRAINING_CYCLES, batch_size=BATCH, seed=1,
            plot_training_history=False, filename=str(Path(folder) / "unet"),
        )  # fmt: skip
    return network


def atomai_module() -> Any:
    """AtomAI without torchvision, of which it needs nothing here and which fits CPU-only builds of torch badly."""
    needs = {"torchvision": (), "torchvision.models": ("mobilenet_v2", "resnet50", "vgg16"),
             "torchvision.utils": ("make_grid",)}  # fmt: skip
    for name, members in needs.items():
        stand_in = ModuleType(name)
        vars(stand_in).update(dict.fromkeys(members))
        sys.modules.setdefault(name, stand_in)
    return import_module("atomai")


def training_scene(seed: int) -> Scene:
    """One 384 px image; its recipe is random within the range of the benchmark."""
    rng = np.random.default_rng([seed, 7])
    counts, profile = float(np.exp(rng.uniform(np.log(4), np.log(120)))), list(PROFILES)[seed % len(PROFILES)]
    return make(Recipe(
        (3 * PATCH_PX, 3 * PATCH_PX), counts, profile, ratio=rng.uniform(0.3, 0.5), rotation_deg=rng.uniform(0, 60),
        background=rng.uniform(0.05, 0.25), halved=20, removed=20, displaced_A=0.1, seed=10_000 + seed,
    ))  # fmt: skip


def patches(scene: Scene) -> list[tuple[FloatArray, FloatArray]]:
    """The image, scaled to 0 to 1 as AtomAI does, and discs of 4 px about its columns, in nine pieces each."""
    image = (scene.image - scene.image.min()) / np.ptp(scene.image)
    mask = np.zeros_like(image)
    xy = scene.xy[scene.share > 0]
    for rows, cols, k in stamps(mask.shape, xy, 5):
        near = np.hypot(cols - xy[k, 0], (rows - xy[k, 1])[:, None]) <= 4
        mask[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1][near] = 1
    cut = [np.s_[i : i + PATCH_PX, j : j + PATCH_PX] for i in (0, 128, 256) for j in (0, 128, 256)]
    return [(image[piece], mask[piece]) for piece in cut]


@contextlib.contextmanager
def quiet() -> Any:
    """Keep progress reports and warnings of other tools out of the tables."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
