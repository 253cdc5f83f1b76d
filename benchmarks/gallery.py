"""Remake docs/gallery.md: ``python benchmarks/gallery.py [--cache DIR] [--out docs]``.

Overlays as in figure 2 of Yang et al. (DefiNet, arXiv 2503.15391), of images that are simulated
with abTEM: a line in MoS2, single and double vacancies in WSe2, a trefoil in WSe2 (from sample_images/), and a
substitution beside a vacancy (made here: relaxed with CHGNet, multislice, then dose and scan errors). Analyses and
images are kept in the cache folder; the first run takes some minutes of one core. Needs the development extras.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile

import stemfit
from stemfit import figures
from stemfit.analysis import Analysis
from stemfit.figures.caption import caption
from stemfit.figures.compose import CLOSE_UP, Scene, compose
from stemfit.figures.panels import close_view

ROOT = Path(__file__).parents[1]
PIXEL_A, SIDE_PX, MARGIN_PX = 0.108, 256, 12
DPI = 160
"""Of 120 mm: files of less than 300 KB."""


class Picture(NamedTuple):
    """One figure of the gallery: the image, its host, the label of the defect to show, and how many cells round it."""

    name: str
    title: str
    image: str
    host: str
    label: str
    others: tuple[str, ...] = ()


PICTURES = (
    Picture("mos2_line", "A line of sulphur vacancies in MoS2", "mos2_line", "auto", "DVL-8"),
    Picture("wse2_sv_dv", "Single and double vacancies in WSe2", "wse2_sv_dv", "auto", "V_Se", ("V_Se2",)),
    Picture("wse2_trefoil", "A trefoil in WSe2", "wse2_trefoil", "auto", "T1"),
    Picture("mos2_w_vacancy", "Tungsten for molybdenum beside a sulphur vacancy", "mos2_w_vacancy", "MoS2", "W_Mo",
            ("V_S",)),
)  # fmt: skip


def main() -> None:
    """Make all pictures and the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "stemfit-gallery")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    arguments = parser.parse_args()
    (arguments.out / "gallery").mkdir(parents=True, exist_ok=True)
    arguments.cache.mkdir(parents=True, exist_ok=True)
    sections = [section(picture, arguments.cache, arguments.out / "gallery") for picture in PICTURES]
    (arguments.out / "gallery.md").write_text(HEAD + "\n".join(sections), encoding="utf-8")


def section(picture: Picture, cache: Path, folder: Path) -> str:
    """Draw one figure; its part of the page."""
    analysis = analysed(picture, cache)
    scene = view(picture, analysis)
    path = folder / f"{picture.name}.png"
    figures.save(compose(scene, CLOSE_UP), path, scene.style)
    text = caption(scene, CLOSE_UP)
    found = [d for d in analysis.defects if d.label in (picture.label, *picture.others)]
    names = ", ".join((picture.label, *picture.others))
    print(f"{picture.name:15} {len(found)} of {names}, {path.stat().st_size} bytes")
    return f"## {picture.title}\n\n![{picture.title}](gallery/{path.name})\n\n```\n{text}```\n"


def analysed(picture: Picture, cache: Path) -> Analysis:
    """The result of an image, made if the cache has none."""
    folder = cache / f"{picture.name}.stemfit"
    if not folder.exists():
        sample = ROOT / "sample_images" / f"{picture.image}.tif"
        image = sample if sample.exists() else made(cache)
        stemfit.analyze(image, host=picture.host, out=folder)
    return Analysis.load(folder)


def view(picture: Picture, analysis: Analysis) -> Scene:
    """The defect of that label that has its companion nearest to it, with two cells round both."""
    wanted = [d for d in analysis.defects if d.label == picture.label]
    beside = [d for d in analysis.defects if d.label in picture.others]
    style = figures.Style("gallery", 120.0, figures.STYLES["nature"].family, 8.0, 7.0, 10.0, dpi=DPI)
    if not beside:
        return Scene(analysis, close_view(analysis, wanted[0]), style, True, wanted[0])
    first, second = min(
        ((a, b) for a in wanted for b in beside), key=lambda pair: np.hypot(*(pair[0].center_px - pair[1].center_px))
    )
    boxes = np.array([close_view(analysis, one) for one in (first, second)])
    middle = (boxes[:, :2].min(axis=0) + boxes[:, 2:].max(axis=0)) / 2
    most = (min(analysis.image.shape) - 1) / 2
    half = min(float((boxes[:, 2:].max(axis=0) - boxes[:, :2].min(axis=0)).max() / 2), most)
    x, y = np.clip(middle, half, np.array(analysis.image.shape[::-1]) - 1 - half).tolist()
    return Scene(analysis, (x - half, y - half, x + half, y + half), style)


# -- the image that sample_images/ lacks ---------------------------------------------------------------------------


def made(cache: Path) -> Path:
    """Image of a tungsten atom beside a sulphur vacancy in MoS2: CHGNet, multislice, recording."""
    from stemfit.synthetic import Acquisition, acquire

    ideal = scattered(cache)
    how = Acquisition(
        counts=120, jitter_px=0.3, drift_px=(2.0, -1.5), distortion_px=0.3, background=0.05, gain=150.0, offset=900.0,
        read_sigma=60.0, dtype="uint16", margin_px=MARGIN_PX,
    )  # fmt: skip
    brightest = float(np.percentile(ideal, 98))  # molybdenum; the tungsten atom is brighter
    recording = acquire(ideal / brightest, how, 17)
    path = cache / "mos2_w_vacancy.tif"
    scale = (10 / PIXEL_A, 10 / PIXEL_A)
    tifffile.imwrite(path, recording.image, imagej=True, resolution=scale, metadata={"unit": "nm"})
    return path


def scattered(cache: Path) -> np.ndarray:
    """Share of the beam that reaches the detector, from the structure that CHGNet relaxes."""
    import subprocess
    import sys

    ideal, structure = cache / "mos2_w_vacancy_ideal.tif", cache / "mos2_w_vacancy.extxyz"
    relaxed = cache / "mos2_w_vacancy_relaxed.cif"
    if not ideal.exists():
        write_structure(structure)
        command = [sys.executable, "-m", "cli"]
        side = SIDE_PX + 2 * MARGIN_PX
        steps = [
            ["relax", str(structure), "--relaxer", "teacher", "--out", str(relaxed)],
            ["simulate", str(relaxed), "--simulator", "multislice", "--voltage", "60", "--convergence", "30",
             "--detector", "60,200", "--defocus", "5", "--pixel-size", str(PIXEL_A), "--shape", f"{side},{side}",
             "--out", str(ideal)],
        ]  # fmt: skip
        for step in steps:
            subprocess.run([*command, *step], check=True, cwd=ROOT)
    return np.asarray(tifffile.imread(ideal), dtype=np.float64)


def write_structure(path: Path) -> None:
    """Ten by ten cells of MoS2 with a tungsten atom, and of a sulphur column next to it the upper atom missing."""
    from ase.io import write
    from pymatgen.io.ase import AseAtomsAdaptor

    from definet.structures import pristine, substitution, vacancy

    both = vacancy(substitution(pristine("MoS2", 10), "W_Mo", (5, 5)), "V_S", (5, 5))
    atoms = AseAtomsAdaptor.get_atoms(both.structure)
    atoms.new_array("marker", np.asarray(both.marker))
    write(path, atoms, format="extxyz")


HEAD = """# Gallery

Made by `make gallery` from micrographs that we simulated (abTEM multislice, dose and scan errors put on; those of
`sample_images/` and one more). The structures are those that `stemfit analyze` found, relaxed by the network: image |
relaxed structure with the defects in dotted outlines | simulated | residual. The captions are those that
`stemfit overlay` writes. To be held against figure 2 of Yang et al. (DefiNet, arXiv 2503.15391).

"""

if __name__ == "__main__":
    main()
