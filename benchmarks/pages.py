"""How large report.html is and how long it takes: ``python benchmarks/pages.py [--work DIR]``.

One drawn field of WSe2 (1024 x 1024 px, 15 electrons a pixel at the metal) with 0, 30 and 200 vacancies, analysed with
structures that are not relaxed (`--relaxer keep`: atoms move by hundredths of an Angstrom, which changes no size), then
its page and its overlay, each in a process of its own, libraries imported before. Times are CPU time, reading the
result included. Zipped is what a mail programme may send.
"""

from __future__ import annotations

import argparse
import tempfile
import zlib
from pathlib import Path

import numpy as np
import tifffile
from machine import alone, headline, table

COUNTS = (0, 30, 200)
SIDE_PX, PIXEL_A, WIDTH_A = 1024, 0.12, 0.45
LIGHT = {"M": 1.0, "X": 0.54, "half": 0.27}
"""Brightness of the columns of WSe2 at 60 kV relative to tungsten, as independent atoms."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "stemfit-pages")
    work = parser.parse_args().work
    work.mkdir(parents=True, exist_ok=True)
    rows = [measured(work, count) for count in COUNTS]
    print(headline())
    print()
    head = ("vacancies drawn", "defects + suspects", "structures", "report.html MB", "zipped MB", "CPU s",
            "overlay.png MB", "CPU s", "peak MB")  # fmt: skip
    print(table(head, rows))


def measured(work: Path, count: int) -> tuple[str, ...]:
    """One row: a field with so many vacancies."""
    import stemfit

    folder = work / f"{count}.stemfit"
    if not folder.exists():
        image = work / f"{count}.tif"
        tifffile.imwrite(image, drawn(count))
        stemfit.analyze(image, host="WSe2", pixel_size=PIXEL_A, relaxer="keep", out=folder)
    found = stemfit.Analysis.load(folder)
    page, figure = alone(written_page, folder, work), alone(written_figure, folder, work)
    size, packed = page.outcome
    return (
        str(count), f"{len(found.defects)} + {len(found.suspects)}", str(len(found.candidates)), f"{size / 1e6:.2f}",
        f"{packed / 1e6:.2f}", f"{page.cpu_s:.1f}", f"{figure.outcome / 1e6:.2f}", f"{figure.cpu_s:.1f}",
        f"{max(page.peak_MB, figure.peak_MB):.0f}",
    )  # fmt: skip


def written_page(folder: Path, work: Path) -> tuple[int, int]:
    """Write the page of a result; its bytes, and those of it packed."""
    from stemfit import report
    from stemfit.analysis import Analysis

    text = report.html(Analysis.load(folder)).encode()
    (work / f"{folder.stem}.html").write_bytes(text)
    return len(text), len(zlib.compress(text, 6))


def written_figure(folder: Path, work: Path) -> int:
    """Write the overlay of a result; its bytes."""
    from stemfit import figures
    from stemfit.analysis import Analysis

    path = work / f"{folder.stem}.png"
    figures.save(figures.overlay(Analysis.load(folder)), path)
    return path.stat().st_size


def drawn(count: int) -> np.ndarray:
    """Columns as Gaussians on a turned lattice, so many of the chalcogen ones half empty or empty; Poisson noise."""
    rng = np.random.default_rng(count)
    a, turn = 3.282 / PIXEL_A, np.radians(13.0)
    along = a * np.array([[np.cos(turn), -np.sin(turn)], [np.cos(turn + np.pi / 3), -np.sin(turn + np.pi / 3)]])
    reach = 2 * SIDE_PX // int(a)
    cells = np.stack(np.meshgrid(np.arange(-reach, reach), np.arange(-reach, reach)), -1).reshape(-1, 2)
    metal, chalcogen = cells @ along, (cells + 1 / 3) @ along
    inner = np.flatnonzero(((chalcogen > 60) & (chalcogen < SIDE_PX - 60)).all(axis=1))
    light = np.full(len(chalcogen), LIGHT["X"])
    chosen = rng.choice(inner, count, replace=False)
    light[chosen] = np.where(rng.random(count) < 0.7, LIGHT["half"], 0.0)
    at, light = np.vstack([metal, chalcogen]), np.concatenate([np.full(len(metal), LIGHT["M"]), light])
    image, sigma = np.full((SIDE_PX, SIDE_PX), 0.05), WIDTH_A / PIXEL_A
    half = int(5 * sigma)
    for (x, y), one in zip(at, light, strict=True):
        if one and 1 - half < x < SIDE_PX + half and 1 - half < y < SIDE_PX + half:
            v = np.arange(max(int(y) - half, 0), min(int(y) + half, SIDE_PX))
            u = np.arange(max(int(x) - half, 0), min(int(x) + half, SIDE_PX))
            shape = np.exp(-((v - y) ** 2)[:, None] / (2 * sigma**2) - ((u - x) ** 2)[None] / (2 * sigma**2))
            image[np.ix_(v, u)] += one * shape
    return rng.poisson(15 * image).astype(np.uint16)


if __name__ == "__main__":
    main()
