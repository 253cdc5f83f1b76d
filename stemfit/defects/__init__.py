"""Which sites are not what the pristine crystal has there, and how sure is that."""

from stemfit.defects.evidence import Evidence
from stemfit.defects.find import CLAIM, find_defects
from stemfit.defects.grain import with_grain
from stemfit.defects.halves import can_tell_half, label_rates, with_learned_halves
from stemfit.defects.mixed import occupancies, what_remains
from stemfit.defects.naming import Otherwise, otherwise, with_kinds, with_naming_doubt
from stemfit.defects.occupancy import (
    RELAXED_ERROR,
    Hypothesis,
    SitePosterior,
    hypotheses,
    occupancy,
)
from stemfit.defects.offsets import offsets
from stemfit.defects.types import Defect, Site, names_in, type_of
from stemfit.imaging import MODEL_FLOOR

__all__ = [
    "CLAIM",
    "MODEL_FLOOR",
    "RELAXED_ERROR",
    "Defect",
    "Evidence",
    "Hypothesis",
    "Otherwise",
    "Site",
    "SitePosterior",
    "can_tell_half",
    "find_defects",
    "hypotheses",
    "label_rates",
    "names_in",
    "occupancies",
    "occupancy",
    "offsets",
    "otherwise",
    "type_of",
    "what_remains",
    "with_grain",
    "with_kinds",
    "with_learned_halves",
    "with_naming_doubt",
]
