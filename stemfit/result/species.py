"""Which atoms stand on a site, read from the label of the defect that it belongs to."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from stemfit.errors import UsageError
from stemfit.hosts import column_type
from stemfit.optics.scattering import column_elements


def species(label: str, pristine: str, columns: Mapping[str, int]) -> str:
    """Column type that a defect leaves on one of its sites.

    Parameters
    ----------
    label : str
        "what is there, underscore, what belongs there", or ``SVL-n``, ``DVL-n``, ``CVL-n``.
    pristine : str
        Column type of the perfect crystal on this site: ``Mo``, ``S2``.
    columns : mapping of str to int
        How many of the defect's sites have each pristine column type.

    Returns
    -------
    str
        ``S``, ``SSe``, ``W``; empty where nothing is left or the label does not say.

    Examples
    --------
    >>> species("V_S", "S2", {"S2": 1}), species("Se_S", "S2", {"S2": 1}), species("W_Mo", "Mo", {"Mo": 1})
    ('S', 'SSe', 'W')
    >>> species("V_MoS3", "S2", {"Mo": 1, "S2": 3}), species("V_MoS3", "Mo", {"Mo": 1, "S2": 3})
    ('S', '')
    >>> species("SVL-4", "S2", {"S2": 4}), species("CVL-4", "S2", {"S2": 2}), species("T1", "S2", {"S2": 6})
    ('S', '', '')
    """
    here = _formula(pristine)
    there, missing = _exchange(label, here)
    share = {element: missing[element] / columns.get(pristine, 1) for element in here if element in missing}
    if not share or any(count % 1 or count > here[element] for element, count in share.items()):
        return ""
    left = here - Counter({element: int(count) for element, count in share.items()}) + there
    return column_type(left.elements())


def _exchange(label: str, here: Counter[str]) -> tuple[Counter[str], Counter[str]]:
    """What came and what went, over the whole defect; nothing where the label does not say."""
    if line := re.fullmatch(r"[SDC]VL-(\d+)", label):
        return Counter(), Counter({element: int(line[1]) for element in here})
    there, _, belongs = label.partition("_")
    return Counter() if there == "V" else _formula(there), _formula(belongs)


def _formula(text: str) -> Counter[str]:
    """Count the atoms of a column type; nothing if it is none (``pristine``, ``T1``)."""
    try:
        return Counter(column_elements(text))
    except UsageError:
        return Counter()
