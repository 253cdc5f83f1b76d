"""What the model of the whole field leaves over on multislice fields whose noise is known: reduced chi-square by area.

Fields of some defects under every microscope of `defect_stamps.py` and under worse aligned ones (`field_views.py`), put
together from kept renderings (no abTEM needed) and recorded with dose, jitter, drift, tails and background. Residuals
are divided by the variance that the noise-free image has (`noise`), and once by that which the analysis reports. The
same is printed for the noise-free image itself, which no model can beat, and for the free fit of all columns, which
knows the profile but no structure.

Run: ``OMP_NUM_THREADS=1 python benchmarks/field_residual.py [--counts 100,20,5] [--views NAME,...]``
"""

from __future__ import annotations

import argparse
import time
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from defect_fields import Shot, build, drawn_labels, record
from defect_library import ABERRATED, library, views
from machine import headline, table
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stemfit import observed, pipeline, relax
from stemfit.result.document import document
from stemfit.result.field import frame
from stemfit.synthetic import as_micrograph
from stemfit.units import units_of

FloatArray = NDArray[np.float64]

OBJECTS = 7
"""Defects of a field."""

HEAD = (
    "microscope", "counts", "pristine: truth", "free fit", "model", "by own noise", "defects: free fit", "model", "rim",
    "whole, as said", "NCC of truth", "NCC, as said",
)

FAR = 2.0
"""Lattice constants from every true site and every claim: what is farther is pristine."""


class Left(NamedTuple):
    """Mean of the squared residual over the variance, by area; correlation with the image."""

    pristine: float
    defects: float
    rim: float
    everything: float
    ncc: float


class Row(NamedTuple):
    """One recorded field: the noise-free image, the free fit, the whole-field model, and that by the reported noise."""

    limit: Left
    fit: Left
    model: Left
    reported: Left
    said: dict[str, float]
    cpu_s: float


def measure(shot: Shot) -> Row:
    """Analyse one recording and split what is left."""
    kept: dict[str, Any] = {}
    read = observed.read_crystal

    def watched(*arguments: Any) -> Any:
        kept["reading"] = read(*arguments)
        return kept["reading"]

    micrograph = as_micrograph(shot.recording.image, shot.field.pixel_A)
    start = time.process_time()
    with mock.patch.object(observed, "read_crystal", watched):
        analysis = pipeline.analyze(micrograph, pipeline.Settings(host=shot.field.host), relax.relaxer("definet"))
    spent = time.process_time() - start
    image, recording, survey = micrograph.image, shot.recording, kept["reading"][0]
    rounding = 1 / 12 if recording.image.dtype.kind == "u" else 0.0
    noise = recording.gain**2 * recording.expected + shot.read_sigma**2 + rounding
    fitted = units_of(image).on(survey.rows.jittered(survey.columns.model))
    areas, model = _areas(analysis, shot), analysis.simulated
    return Row(
        _left(image, recording.gain * recording.expected + recording.offset, noise, areas),
        _left(image, fitted, noise, areas), _left(image, model, noise, areas),
        _left(image, model, analysis.imaging.noise.variance(model), areas),
        document(analysis, frame(analysis))["match"], spent,
    )


def _areas(analysis: Any, shot: Shot) -> dict[str, NDArray[np.bool_]]:
    """Where the pixels are: far from all defects, near one, within a lattice constant of the edge."""
    seen, a_px = np.isfinite(analysis.simulated), analysis.lattice.a_px_iso
    places = [one.sites_px for one in shot.defects] + [one.extent_px for one in analysis.defects]
    y, x = np.mgrid[: seen.shape[0], : seen.shape[1]]
    off = np.full(seen.shape, np.inf)
    if places:
        pixels = np.column_stack([x.ravel(), y.ravel()])
        off = np.asarray(cKDTree(np.vstack(places)).query(pixels)[0]).reshape(seen.shape) / a_px
    edge = np.minimum(np.minimum(x, y), np.minimum(seen.shape[1] - 1 - x, seen.shape[0] - 1 - y)) < a_px
    return {
        "pristine": seen & ~edge & (off > FAR), "defects": seen & ~edge & (off <= FAR), "rim": seen & edge,
        "everything": seen,
    }


def _left(image: FloatArray, model: FloatArray, variance: FloatArray, areas: dict[str, NDArray[np.bool_]]) -> Left:
    z2 = (image - model) ** 2 / variance
    each = {name: float(z2[area].mean()) if area.any() else float("nan") for name, area in areas.items()}
    seen = areas["everything"]
    return Left(**each, ncc=float(np.corrcoef(image[seen], model[seen])[0, 1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", default="100,20,5", help="electrons at the metal peak, for pixels of 0.12 A")
    parser.add_argument("--views", default=",".join([*views(), *views(ABERRATED)]))
    parser.add_argument("--seed", type=int, default=11)
    asked = parser.parse_args()
    print(headline(), "\n")
    rows, spent = [], 0.0
    for number, view in enumerate(asked.views.split(",")):
        lib, seed = library(view), asked.seed + 100 * number
        field = build(view, "defects", view, drawn_labels(lib, np.random.default_rng(seed), OBJECTS), seed + 1)
        for counts in map(float, asked.counts.split(",")):
            row = measure(record(field, counts, seed + 2))
            spent += row.cpu_s
            pristine = [f"{left.pristine:.3f}" for left in (row.limit, row.fit, row.model, row.reported)]
            rows.append((
                view, f"{counts:g}", *pristine,
                f"{row.fit.defects:.3f}", f"{row.model.defects:.3f}", f"{row.model.rim:.3f}",
                f"{row.said['reduced_chi2']:.3f}", f"{row.limit.ncc:.4f}", f"{row.said['ncc']:.4f}",
            ))  # fmt: skip
            print(rows[-1], flush=True)
    print()
    print(table(HEAD, rows), f"\n{spent:.0f} s of CPU")


if __name__ == "__main__":
    main()
