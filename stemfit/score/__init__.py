"""How well each candidate explains the image, and how sure that makes us."""

from stemfit.score.energies import with_energies
from stemfit.score.fit import Fit, fit
from stemfit.score.lights import Engine, Light, engine_of
from stemfit.score.others import Others
from stemfit.score.rank import Ranking, Score, ncc, rank, score_defect, shared_out
from stemfit.score.restate import with_structure_of_label
from stemfit.score.scene import Scene, columns_of, make_scene, position_scatter

__all__ = [
    "Engine",
    "Fit",
    "Light",
    "Others",
    "Ranking",
    "Scene",
    "Score",
    "columns_of",
    "engine_of",
    "fit",
    "make_scene",
    "ncc",
    "position_scatter",
    "rank",
    "score_defect",
    "shared_out",
    "with_energies",
    "with_structure_of_label",
]
