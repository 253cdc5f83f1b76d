"""Microscopes worse aligned than those of `defect_stamps.py`: coma, three-fold and two-fold astigmatism.

Perfect crystals, and one defect or two of each, for `field_residual.py`. Kept in `data/aberrated/NAME.npz`. Remake what
is missing (needs abTEM; about a minute of a core for each): ``OMP_NUM_THREADS=1 python benchmarks/field_views.py``
"""

from __future__ import annotations

import defect_stamps  # before numpy: it settles the number of threads
from defect_library import ABERRATED
from defect_stamps import View
from multislice import Optics

VIEWS = {
    # Phases at the rim of the aperture: 2 pi / lambda C a^(n + 1) / (n + 1). A well tuned microscope is below pi / 4.
    "MoS2-60kV-tuned": View(
        "MoS2", Optics(60e3, 31.0, 60.0, 160.0, {"C10": 5.0, "C12": 6.0, "phi12": 0.6, "C21": 150.0, "phi21": 0.8,
                                                 "C23": 200.0, "phi23": 0.4}), 0),
    "MoS2-60kV-coma": View("MoS2", Optics(60e3, 31.0, 60.0, 160.0, {"C21": 500.0, "phi21": 0.7}), 0),
    "MoS2-60kV-threefold": View("MoS2", Optics(60e3, 31.0, 60.0, 160.0, {"C23": 700.0, "phi23": 0.3}), 0),
    "WSe2-80kV-coma": View("WSe2", Optics(80e3, 28.0, 60.0, 160.0, {"C21": 400.0, "phi21": 2.1, "C23": 300.0,
                                                                   "phi23": 0.9}), 1),
    "WSe2-60kV-astigmatic": View("WSe2", Optics(60e3, 32.0, 55.0, 150.0, {"C10": 5.0, "C12": 18.0, "phi12": 1.2}), 1),
}  # fmt: skip

LABELS = {"MoS2": ["V_S", "V_S2"], "WSe2": ["V_Se", "V_Se2"]}


def main() -> None:
    ABERRATED.mkdir(parents=True, exist_ok=True)
    defect_stamps.VIEWS.update(VIEWS)
    defect_stamps.STORE = ABERRATED
    for name, view in VIEWS.items():
        defect_stamps.render_view(name, LABELS[view.host])


if __name__ == "__main__":
    main()
