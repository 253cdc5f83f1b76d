"""The page: templates filled with a result, styles and scripts written into it, and nothing that it may load.

A Content-Security-Policy forbids every connection; scripts and the style sheet run because the policy holds their
hashes. Whatever comes from outside (file names, settings, reasons) is escaped by the templates.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from jinja2 import Environment
from markupsafe import Markup

from stemfit.analysis import Analysis
from stemfit.figures.panels import STRONG_RESIDUAL
from stemfit.lattice.types import EDGE
from stemfit.report import words
from stemfit.report.candidates import candidates
from stemfit.report.pictures import Pictures, pictures
from stemfit.report.scene import scene
from stemfit.report.sealed import asset, environment, json_block, policy
from stemfit.wording import given, log_bayes

SCRIPTS = ("data.js", "layers.js", "view.js", "closeups.js", "atoms.js", "select.js")
"""In the order in which they build on each other; `3Dmol-min.js` stands before them where there are structures."""

LICENCES = ("3Dmol-min.js.LICENSE.txt", "3Dmol-LICENSE.txt")


def html(analysis: Analysis) -> str:
    """Page about one analysis.

    Returns
    -------
    str
        HTML5, UTF-8.
    """
    shown, structures = pictures(analysis), candidates(analysis)
    style, scripts = asset("page.css"), [asset(name) for name in SCRIPTS]
    if structures:
        scripts.insert(0, asset("3Dmol-min.js"))
    page = templates().get_template("page.html")
    return page.render(
        analysis=analysis,
        document=analysis.document,
        marked=[*analysis.defects, *analysis.suspects],
        claimed_ids={defect.id for defect in analysis.defects},
        tied=tied(analysis),
        style=Markup(style),
        scripts=[Markup(script) for script in scripts],
        licence="".join(asset(name) for name in LICENCES) if structures else "",
        policy=policy(scripts, [style]),
        given=given(analysis.document["host"]),
        pictures=shown,
        strong=STRONG_RESIDUAL,
        data=Markup(json_block(scene(analysis, shown, structures))),
        **facts(analysis, shown),
    )


def tied(analysis: Analysis) -> dict[str, str]:
    """Of each candidate with ties, what kind of doubt they leave: of the name, or only of the arrangement."""
    label_of = {one.id: one.label for one in analysis.candidates}
    return {
        one.id: "name" if any(label_of.get(other) != one.label for other in one.tie_with) else "arrangement"
        for one in analysis.candidates
        if one.tie_with
    }


def facts(analysis: Analysis, shown: Pictures) -> dict[str, Any]:
    """Numbers that have to be worked out for the page."""
    height, width = analysis.image.shape
    a, b = analysis.cell_px
    across = float(np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))))
    profile_A = np.sqrt(np.linalg.eigvalsh(np.array(analysis.document["imaging"]["core_cov_px2"]))[::-1])
    return {
        "field_nm": (width * analysis.pixel_size_A / 10, height * analysis.pixel_size_A / 10),
        "analysed": float(np.mean(analysis.mask == 0)),
        "edge_px": EDGE * analysis.step_px,
        "shares": [float(np.mean(analysis.mask == k + 1)) for k in range(len(analysis.document["regions"]))],
        "cell_A": [float(np.linalg.norm(side)) * analysis.pixel_size_A for side in (a, b)],
        "cell_angle": across,
        "width_A": (profile_A * analysis.pixel_size_A).tolist(),
        "steps": shown.shrunk,
    }


@cache
def templates() -> Environment:
    """Templates of this package."""
    made = environment("stemfit.report")
    made.filters |= {
        "label": words.label, "probability": words.probability, "number": words.number, "vector": words.vector,
        "log_bayes": log_bayes, "formula": words.formula,
    }  # fmt: skip
    made.globals |= {
        "measured": words.measured, "count": words.count, "shares_of": words.shares, "tally": words.tally,
        "prior_of": words.priors, "open_names": words.OPEN, "types": words.TYPES,
    }  # fmt: skip
    return made
