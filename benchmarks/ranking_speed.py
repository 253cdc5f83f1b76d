"""How many candidates a second are compared with the image: projection and likelihood, and with the pose refined.

A vacancy on patches of 64, 96 and 128 px (its surroundings are cut to that size), and a line and a trefoil on theirs.
*Likelihood*: columns of the structure, drawn where they are predicted, and their likelihood. *Evidence*: the same with
everything linear integrated out, for six allowances. *Refined*: what a score is made of: evidence at the most probable
positions and pose (Gauss-Newton), best model, misfit, and the evidence of the geometry. Rates by CPU time of one
process, and by the clock of two that run at once (on a busy machine they share its cores with all others).

One command (a minute): ``OMP_NUM_THREADS=1 python benchmarks/ranking_speed.py [--profile]``
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from importlib import import_module
from typing import Any
from unittest import mock

from defect_fields import build, record
from machine import headline, table
from ranking_cases import Witness, watched_analysis

from stemfit.columns.stamps import render
from stemfit.score import columns_of, fit, make_scene, position_scatter
from stemfit.score.fit import evidence_as_predicted
from stemfit.score.scene import relaxation_error_A

scene_module = import_module("stemfit.score.scene")

VIEW, SEED, COUNTS = "MoS2-60kV-haadf", 7399, 100.0
SIDES_PX = (64, 96, 128)
SECONDS = 0.5


@cache
def _analysed() -> Witness:
    shot = record(build("speed", "defects", VIEW, ["SVL-4", "T1", "V_S2", "V_S"], SEED), COUNTS, SEED)
    witness = Witness()
    watched_analysis(shot, witness, shot.field.host)
    return witness


def _cases() -> dict[str, tuple[Any, float | None]]:
    """What is compared, and the reach of its surroundings in lattice constants if that is cut."""
    by_label = {one.defect.label: one for one in _analysed().asked}
    a_px = by_label["V_S"].rest[3].a_px_iso
    cases: dict[str, tuple[Any, float | None]] = {
        f"V_S, {side} px": (by_label["V_S"], side / 2 / a_px) for side in SIDES_PX
    }
    return cases | {label: (by_label[label], None) for label in ("SVL-4", "T1") if label in by_label}


def _work(name: str) -> tuple[dict[str, list[Callable[[], Any]]], str]:
    """One call for each candidate by what is asked of it; and the size of the patch."""
    one, reach = _cases()[name]
    image, columns, imaging, lattice, _, others = one.rest
    mock.patch.stopall()
    mock.patch.object(scene_module, "REACH", reach or scene_module.REACH).start()
    scene = make_scene(one.defect, image, columns, imaging, lattice, others)
    scene = scene._replace(relaxation_A=relaxation_error_A(list(zip(one.candidates, one.relaxed, strict=True))))
    scatter = position_scatter(columns, lattice)

    def likelihood(k: int) -> float:
        seen = columns_of(one.candidates[k], one.relaxed[k], scene, imaging)
        drawn = render(seen.xy, seen.amplitude, scene.profile, scene.image.shape)
        return -0.5 * float((scene.weight * (scene.image - scene.surroundings - drawn) ** 2).sum())

    def evidence(k: int) -> float:
        seen = columns_of(one.candidates[k], one.relaxed[k], scene, imaging)
        return evidence_as_predicted(seen, scene, scatter, lattice)

    def refined(k: int) -> Any:
        return fit(columns_of(one.candidates[k], one.relaxed[k], scene, imaging), scene, scatter, lattice)

    some = [k for k, c in enumerate(one.candidates) if c.structure.sites]
    height, width = scene.image.shape
    seen = columns_of(one.candidates[some[0]], one.relaxed[some[0]], scene, imaging)
    size = f"{round(width * scene.pixel)} x {round(height * scene.pixel)}, as {width} x {height}; {len(seen.xy)}"
    asked = {"likelihood": likelihood, "evidence": evidence, "refined": refined}
    return {name: [partial(call, k) for k in some] for name, call in asked.items()}, size


def rate(name: str, which: str) -> tuple[float, float]:
    """Candidates per second of CPU time and of the clock."""
    calls = _work(name)[0][which]
    calls[0]()
    cpu, wall, done = time.process_time(), time.perf_counter(), 0
    while time.process_time() - cpu < SECONDS:
        calls[done % len(calls)]()
        done += 1
    return done / (time.process_time() - cpu), done / (time.perf_counter() - wall)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", action="store_true", help="where the time of the refined line goes")
    asked = parser.parse_args()
    rows = []
    _cases()
    with ProcessPoolExecutor(2) as pool:
        for name in _cases():
            work, size = _work(name)
            for which in work:
                alone = rate(name, which)
                both = list(pool.map(rate, (name, name), (which, which)))
                each = (alone[0], sum(r[0] for r in both), sum(r[1] for r in both))
                rows.append([name, size, which, *(f"{one:.0f}" for one in each)])
    print(headline())
    head = ["defect", "patch, px, as compared; columns", "candidates", "per s of CPU time", "two processes, CPU time",
            "two processes, by the clock"]  # fmt: skip
    print("\n" + table(head, rows))
    if asked.profile:
        calls = _work("SVL-4")[0]["refined"]
        profiler = cProfile.Profile()
        profiler.enable()
        for call in calls:
            call()
        profiler.disable()
        pstats.Stats(profiler).sort_stats("tottime").print_stats(12)


if __name__ == "__main__":
    main()
