"""Lines against the pixels: their length is decided there, and a wrong relaxation does not unmake them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from chain import Chain, redrawn, run, taken
from test_score import judged

from stemfit.candidates import Candidate
from stemfit.defects import Defect
from stemfit.relax import Relaxed
from stemfit.synthetic import crystal

ROW = [(-2, 1), (-1, 1), (0, 1), (1, 1)]


@cache
def four() -> Chain:
    """MoS2 with an SVL-4, and nothing else."""
    sample = crystal((220, 240), pixel_size_A=0.16, rotation_deg=31.0, half_share=0.45, seed=6)
    image, truth = taken(redrawn(sample, {(i, j, "X"): 0.45 for i, j in ROW}))
    return run(truth, image, "MoS2")


def line() -> Defect:
    (found,) = four().found
    assert found.label == "SVL-4"
    return found


def misled(candidates: Sequence[Candidate]) -> list[Relaxed]:
    """All atoms within 5 A of the defect are moved by 0.6 A to one side, but in the perfect crystal."""
    moved = []
    for c in candidates:
        xyz = np.array(c.structure.structure.cart_coords)
        if c.structure.sites:
            nodes = xyz[list(c.structure.sites), :2]
            near = np.linalg.norm(xyz[:, None, :2] - nodes[None], axis=2).min(1) < 5.0
            xyz[near, 0] += 0.6
        moved.append(Relaxed(xyz, None, "definet", "c0ffee"))
    return moved


def test_a_wrong_relaxation_does_not_unmake_a_line() -> None:
    made, ranking = judged(four(), [line()], misled)
    (kept,) = ranking.claimed
    assert (kept.type, kept.label) == ("LINE", "SVL-4")
    assert kept.probability > 0.9
    own = [s for c, s in zip(made, ranking.scores, strict=True) if c.label == "SVL-4"]
    assert max(s.evidence_relaxed_minus_unrelaxed for s in own) < -100  # and that it was wrong is said


def test_the_pixels_decide_the_length_and_the_sites_follow() -> None:
    true = line()
    chain = four()
    step = true.extent_px[1] - true.extent_px[0]
    (i, j, _), (k, n, _) = true.sites[-1], true.sites[-2]
    more = (2 * i - k, 2 * j - n, "X")
    extent = np.vstack([true.extent_px, true.extent_px[-1] + step])
    longer = replace(
        true, label="SVL-5", probability=0.6, sites=(*true.sites, more), extent_px=extent, center_px=extent.mean(0),
        alternatives=(("SVL-4", 0.39), ("pristine", 0.01)),
    )
    (restated,) = judged(chain, [longer])[1].claimed
    assert restated.label == "SVL-4"
    assert set(restated.sites) == set(true.sites)
    assert np.allclose(restated.center_px, true.center_px, atol=0.05)
    assert np.allclose(restated.center_px, restated.extent_px.mean(0))
    assert np.isclose(restated.probability + sum(p for _, p in restated.alternatives), 1.0)
