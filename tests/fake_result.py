"""An `Analysis` of a made-up image, for what draws: that of `fake_analysis`, told by the documents of its folder."""

import csv
import io
from dataclasses import replace

import numpy as np
from fake_analysis import fake_analysis

from stemfit.analysis import TEXTS, Analysis
from stemfit.result import Findings
from stemfit.result.document import document
from stemfit.result.field import atoms, field, frame
from stemfit.result.tables import columns_csv


def result_of(findings: Findings) -> Analysis:
    """What `Analysis.load` would read of the folder of these findings."""
    rows = list(csv.DictReader(io.StringIO(columns_csv(findings))))
    columns = {
        name: np.array([row[name] for row in rows], dtype=np.str_)
        if name in TEXTS
        else np.array([float(row[name] or "nan") for row in rows])
        for name in rows[0]
    }
    return Analysis(
        document=document(findings, frame(findings)), image=findings.micrograph.image, simulated=findings.simulated,
        mask=findings.region_map, columns=columns, defects=findings.defects, suspects=findings.suspects,
        candidates=(), structures={"structure": atoms(field(replace(findings, candidates=(), relaxed=())))},
    )  # fmt: skip


def fake_result(**options) -> Analysis:
    """As `fake_analysis`."""
    return result_of(fake_analysis(**options))
