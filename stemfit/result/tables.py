"""`columns.csv` and `defects.csv`: comma, one header line, empty where unknown."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stemfit.defects import MODEL_FLOOR, Defect, Site, SitePosterior
from stemfit.imaging import FOREIGN
from stemfit.result.field import Frame
from stemfit.result.findings import Findings
from stemfit.result.species import species

COLUMNS = (
    "id", "x_px", "y_px", "sigma_x_px", "sigma_y_px", "intensity", "sigma_intensity", "width_px", "sublattice",
    "species", "p_species", "i", "j", "defect_id",
)  # fmt: skip

DEFECTS = (
    "id", "type", "label", "probability", "x_px", "y_px", "x_A", "y_A", "log_bayes_factor", "best_candidate", "sites",
    "alternatives", "type_probability",
)  # fmt: skip

Cell = str | int | float | None


class _Identity(NamedTuple):
    """What one observed column is: the last six fields of `columns.csv`."""

    sublattice: str = ""
    species: str = ""
    p_species: float | None = None
    i: int | None = None
    j: int | None = None
    defect: int | None = None


def columns_csv(analysis: Findings) -> str:
    """One line for each observed column; a fully vacant site has none."""
    columns = analysis.columns
    sigma = np.sqrt(np.maximum(np.diagonal(columns.cov, axis1=1, axis2=2), 0.0))
    measured = np.column_stack([columns.xy_px, sigma[:, :2], columns.intensity, sigma[:, 2]]).tolist()
    width = columns.profile.width_px
    rows = [
        [number, *values, width, *identity]
        for number, (values, identity) in enumerate(zip(measured, _identities(analysis), strict=True), start=1)
    ]
    return _csv(COLUMNS, rows)


def defects_csv(analysis: Findings, frame: Frame) -> str:
    """The claimed defects, one line each."""
    return _csv(DEFECTS, [_defect_row(defect, frame) for defect in analysis.defects])


def _defect_row(defect: Defect, frame: Frame) -> list[Cell]:
    x_px, y_px = (float(value) for value in defect.center_px)
    x_A, y_A = frame.to_A(np.array([[x_px, y_px]]))[0].tolist()
    sites = " ".join(f"{i}:{j}:{sublattice}" for i, j, sublattice in defect.sites)
    others = " ".join(f"{label}:{probability:.4g}" for label, probability in defect.alternatives)
    head: list[Cell] = [defect.id, defect.type, defect.label, defect.probability]
    odds: list[Cell] = [defect.log_bayes_factor, defect.best_candidate]
    return [*head, x_px, y_px, x_A, y_A, *odds, sites, others, defect.type_probability]


def _identities(analysis: Findings) -> list[_Identity]:
    """What each observed column is, in their order."""
    result = _off_lattice(analysis)
    host, sites = analysis.host.host, analysis.sites
    pristine = dict(zip(host.sublattices, host.columns, strict=True))
    claims = {site: defect for defect in analysis.defects for site in defect.sites}
    doubts = {site: defect for defect in analysis.suspects for site in defect.sites}
    strange = _strange(analysis)
    for (i, j), sublattice, column in zip(
        sites.ij.tolist(), sites.sublattice.tolist(), sites.column.tolist(), strict=True
    ):
        if column >= 0 and column in strange:
            result[column] = _Identity(sublattice, i=i, j=j)
        elif column >= 0:
            site = (i, j, sublattice)
            name, p, defect = _species(site, pristine, claims.get(site), doubts.get(site))
            result[column] = _Identity(sublattice, name, p, i, j, defect)
    for posterior in analysis.mixed:
        _name_mixed(result, sites.column, posterior)
    return result


def _strange(analysis: Findings) -> set[int]:
    """Columns on sites that were not judged (in a region, at the edge), too bright or dim for the crystal's own."""
    host, sites, columns, imaging = analysis.host.host, analysis.sites, analysis.columns, analysis.imaging
    rows = np.flatnonzero(~sites.analysed & (sites.column >= 0))
    of = sites.column[rows]
    full, scatter = np.ones(len(rows)), np.full(len(rows), np.inf)
    for sublattice, own_type in zip(host.sublattices, host.columns, strict=True):
        if sublattice in imaging.scatter and sublattice not in imaging.mixtures and own_type in imaging.amplitudes:
            own = sites.sublattice[rows] == sublattice
            full[own] = imaging.amplitudes[own_type].value
            scatter[own] = np.hypot(imaging.rms_scatter(sublattice), MODEL_FLOOR)
    limit = np.array(imaging.gain.shape[::-1]) - 1
    at = np.clip(np.rint(sites.xy_px[rows]).astype(int), 0, limit)
    usual = full * imaging.gain[at[:, 1], at[:, 0]]
    error = np.hypot(np.sqrt(columns.cov[of, 2, 2]), scatter * usual)
    return set(of[np.abs(columns.intensity[of] - usual) > FOREIGN * error].tolist())


def _name_mixed(result: list[_Identity], column: NDArray[np.int64], posterior: SitePosterior) -> None:
    """The most likely type of every column of a mixed sublattice in place of the host's."""
    for site, p in zip(posterior.site.tolist(), np.asarray(posterior.p_species), strict=True):
        if column[site] >= 0:
            best, here = int(np.argmax(p)), result[column[site]]
            result[column[site]] = here._replace(species=posterior.species[best], p_species=float(p[best]))


def _species(
    site: Site, pristine: dict[str, str], claim: Defect | None, doubt: Defect | None
) -> tuple[str, float | None, int | None]:
    """Column type, its probability, and the defect; the probability of a site that nobody doubts is not stated."""
    here = pristine[site[2]]
    if claim is not None:
        counts = Counter(pristine[s] for _, _, s in claim.sites if s in pristine)
        name = species(claim.label, here, counts)
        return name, claim.probability if name else None, claim.id
    return here, dict(doubt.alternatives).get("pristine") if doubt is not None else None, None


def _off_lattice(analysis: Findings) -> list[_Identity]:
    """Columns on no site belong to the defect whose extent has a point on them (nearer than two column widths)."""
    from scipy.spatial import cKDTree

    result = [_Identity() for _ in range(len(analysis.columns))]
    points = [(point, defect.id) for defect in analysis.defects for point in defect.extent_px]
    if points and result:
        tree = cKDTree(np.array([point for point, _ in points]))
        reach = 2 * analysis.columns.profile.width_px
        distance, nearest = (np.asarray(found) for found in tree.query(analysis.columns.xy_px))
        for column in np.flatnonzero(distance < reach).tolist():
            result[column] = _Identity(defect=points[int(nearest[column])][1])
    return result


def _csv(header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: Cell) -> str | int:
    """Seven digits: finer than any position or intensity is known."""
    if isinstance(value, float):
        return f"{value:.7g}" if math.isfinite(value) else ""
    return "" if value is None else value
