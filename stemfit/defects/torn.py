"""Pairs of chalcogens that vacancies nearby have torn apart: two faint columns, or a wide one, where one was.

Beside a line of vacancies in one layer the gap closes in that layer: the upper atoms of the next columns move by up to
an Angstrom, the lower ones stay (in relaxed structures of WSe2, MoSe2 and WS2 alike). A column of the usual width, held
to one position, then shows two thirds of the light and less, as if an atom were missing. So doubtful chalcogen sites
with a vacancy beside them are read again: that the full pair is there has the likelihood of one column, or of two atoms
as bright as each other and as far apart as the pixels say.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stemfit.columns.stamps import drawn, render
from stemfit.defects.evidence import Evidence
from stemfit.defects.loose import STRAY
from stemfit.defects.occupancy import RELAXED_ERROR, SitePosterior, likelihoods
from stemfit.defects.types import Site
from stemfit.imaging import MODEL_FLOOR

FloatArray = NDArray[np.float64]

AROUND: tuple[tuple[int, int], ...] = ((1, 0), (0, 1), (-1, 1), (-1, 0), (0, -1), (1, -1))

TORN = 0.5
"""Probability beforehand that a pair beside a vacancy is torn."""

SURE = 0.95
"""Probability of being pristine from which a site is not measured again."""

VACANT = 0.5
"""Probability of a vacancy from which it may tear its neighbours."""

ABOUT, APART = 0.08, 0.1
"""Prior standard deviations per axis, in lattice constants: of the middle of a pair about its site, and of its atoms
about that middle: beside lines that were relaxed with a potential they are 0.3 to 1.3 A from each other."""

BELONGS = 0.4
"""A stray column this close to a chalcogen site, in lattice constants, may be the other atom: half a bond is 0.29, a
hollow 0.58 away."""

RESOLVED_A = 0.3
"""Distance of two atoms across the beam above which they are as bright as two: at 70 mrad a shift of 0.7 A is a
wavelength's difference of paths."""

FARTHEST = 0.25
"""Distance of the middle of a pair from its site, in lattice constants, beyond which it is another column."""

TWIN = 0.5
"""Share of its standard error to which that of a column must fall here to be believed: in the last fit it had a twin in
the same place, which was given up with part of its light."""

DISC, BESIDE = 0.62, 0.8
"""Radius of what is looked at, and distance of the columns that shed light on it, in lattice constants."""

LIGHT, MOVES = 0.1, 0.03
"""How far those columns may differ from their fits, relative and in lattice constants."""

STEPS, STARTS = 12, 4
"""Gauss-Newton steps, and directions of the pair that they start from: the pixels say nothing until it is torn."""


class Fitted(NamedTuple):
    """One column, or two atoms of equal brightness, on a site.

    Attributes
    ----------
    light, sigma : float
        Of all of it, and its standard error; image units x px^2.
    apart_px : float
        Atoms from each other; 0 for one column.
    off_px : float
        Middle from the site.
    log_evidence : float
        Natural logarithm, up to a constant of the patch, of what is integrated over but the light.
    """

    light: float
    sigma: float
    apart_px: float
    off_px: float
    log_evidence: float


def with_torn_pairs(evidence: Evidence) -> Evidence:
    """Evidence with doubtful chalcogen sites beside vacancies read again; their strays are none any more."""
    host = evidence.host
    if not host.honeycomb or "X" not in host.sublattices or not evidence.posteriors:
        return evidence
    which = host.sublattices.index("X")
    one = evidence.posteriors[which]
    if one.half is None or one.species:
        return evidence
    value, probability = one.log_likelihood.copy(), one.probability.copy()
    explained = set(evidence.explained)
    for n, site, strays in _doubtful(evidence, one):
        value[n] = read_again(evidence, one, n, site, strays)
        joint = value[n] + np.log(one.rate)
        probability[n] = np.exp(joint - np.logaddexp.reduce(joint))
        if probability[n, 0] > VACANT:
            explained.update(strays)
    again = one._replace(log_likelihood=value, probability=probability)
    posteriors = tuple(again if k == which else p for k, p in enumerate(evidence.posteriors))
    return replace(evidence, posteriors=posteriors, explained=frozenset(explained))


def _doubtful(evidence: Evidence, one: SitePosterior) -> Iterator[tuple[int, Site, tuple[int, ...]]]:
    """Row in the posterior, site, and stray columns on it, of every site that a vacancy beside it may have torn."""
    vacancy = np.array([h.type in ("SV", "DV") for h in one.hypotheses])
    cells = [(int(i), int(j)) for i, j in evidence.sites.ij[one.site]]
    vacant = {cell for cell, p in zip(cells, one.probability @ vacancy, strict=True) if p > VACANT}
    strays = evidence.strays()
    for n, (i, j) in enumerate(cells):
        if one.probability[n, 0] > SURE or not any((i + di, j + dj) in vacant for di, dj in AROUND):
            continue
        site = (i, j, "X")
        off = np.hypot(*(evidence.columns.xy_px[strays] - evidence.xy_px(site)).T)
        near = strays[off < BELONGS * evidence.lattice.a_px_iso]
        if evidence.sites.column[one.site[n]] >= 0 and len(near) < 2:
            yield n, site, tuple(int(k) for k in near)


def read_again(
    evidence: Evidence, one: SitePosterior, row: int, site: Site, strays: tuple[int, ...]
) -> FloatArray:
    """Logarithm of the likelihood (H,) of every hypothesis on a site that may hold a torn pair."""
    patch, a_px = _Patch(evidence, site, strays), evidence.lattice.a_px_iso
    angles = np.pi * np.arange(STARTS) / STARTS
    starts = [0.1 * a_px * np.array([np.cos(t), np.sin(t)]) for t in angles]
    if strays:
        starts = [(patch.own[-1] - patch.own[0]) / 2]
    pair = max((patch.fitted(start) for start in starts), key=lambda fitted: fitted.log_evidence)
    x, y = np.rint(evidence.xy_px(site)).astype(int)
    gain = float(evidence.imaging.gain[y, x])
    if strays:
        found, alone = one.log_likelihood[row].copy(), patch.two_columns(gain * _full(evidence, one))
    else:
        column = patch.fitted(None)
        found, alone = one.log_likelihood[row].copy(), column.log_evidence
        here = int(evidence.sites.column[one.site[row]])
        if column.sigma < TWIN * math.sqrt(evidence.columns.cov[here, 2, 2]):
            light, sigma = np.array([column.light / gain]), np.array([column.sigma / gain])
            found = likelihoods(light, sigma, one, evidence.imaging, "X")[0]
    if pair.off_px < FARTHEST * a_px:
        torn = pair.log_evidence - alone + _as_pair(evidence, one, pair, gain)
        found[0] = np.logaddexp(found[0] + math.log1p(-TORN), torn + math.log(TORN))
    return np.asarray(found)


def _full(evidence: Evidence, one: SitePosterior) -> float:
    return float(evidence.imaging.amplitudes[one.hypotheses[0].column].value)


def _as_pair(evidence: Evidence, one: SitePosterior, pair: Fitted, gain: float) -> float:
    """Logarithm of the likelihood of the light of two atoms that are all there."""
    together = singly = _full(evidence, one)
    scale = evidence.host.structure.a_exp_A / evidence.lattice.a_px_iso
    if one.half is not None and pair.apart_px * scale > RESOLVED_A:
        singly = 2 * one.half.value
    # Somewhere between a column of two atoms, which scatter in phase, and two columns of one.
    mean, doubt = (together + singly) / 2, abs(together - singly) / math.sqrt(12)
    spread = float(np.linalg.norm([evidence.imaging.rms_scatter("X"), MODEL_FLOOR, RELAXED_ERROR])) * together
    error = float(np.linalg.norm([pair.sigma / gain, doubt, spread]))
    return -0.5 * ((pair.light / gain - mean) / error) ** 2 - 0.5 * math.log(2 * math.pi * error**2)


class _Patch:
    """Pixels round a site without the columns that stand on it."""

    def __init__(self, evidence: Evidence, site: Site, strays: tuple[int, ...]) -> None:
        columns, xy = evidence.columns, evidence.xy_px(site)
        self.a_px = a = evidence.lattice.a_px_iso
        members = [int(evidence.sites.column[evidence.sites.row_of[site]]), *strays]
        (h, w), self.profile = evidence.image.shape, columns.profile
        corner = np.maximum(np.floor(xy - DISC * a).astype(int), 0)
        x1, y1 = np.minimum(np.ceil(xy + DISC * a).astype(int) + 1, [w, h])
        box, self.shape = (slice(corner[1], y1), slice(corner[0], x1)), (int(y1 - corner[1]), int(x1 - corner[0]))
        y, x = np.mgrid[box]
        self.disc = np.hypot(x - xy[0], y - xy[1]) < DISC * a
        self.site, self.own, self.light = xy - corner, columns.xy_px[members] - corner, columns.intensity[members]
        away = np.hypot(*(columns.xy_px - xy).T)
        away[members] = np.inf
        # Drawn anew: the model also has the light of columns that the last fit gave up.
        seen, near = away < DISC * a + 10 * self.profile.width_px, away < BESIDE * a
        around = render(columns.xy_px[seen] - corner, columns.intensity[seen], self.profile, self.shape)
        value, *moves = drawn(columns.xy_px[near] - corner, self.profile, self.shape)
        light = columns.intensity[near, None, None]
        beside = np.concatenate([LIGHT * light * value, *(MOVES * a * light * move for move in moves)])
        variance = (columns.noise.variance(columns.model[box]) * columns.noise.pixels_per_sample)[self.disc]
        self.root = 1 / np.sqrt(np.maximum(variance, 1e-12 * float(np.max(np.abs(evidence.image))) ** 2))
        self.beside = np.vstack([beside[:, self.disc], np.ones((1, self.disc.sum()))]) * self.root
        self.data = (evidence.image[box] - columns.background[box] - around)[self.disc] * self.root

    def _seen(self, xy: FloatArray) -> FloatArray:
        """Profiles (3, n, pixels) of columns and their gradients, over the noise."""
        return np.asarray(np.stack(drawn(xy, self.profile, self.shape))[:, :, self.disc] * self.root)

    def _solved(self, own: FloatArray, left: FloatArray, precision: FloatArray, pull: FloatArray) -> _Solved:
        """Linear step of the first parameters with all that is beside them, what then is left over, and the volume."""
        design = np.vstack([own, self.beside])
        weight = np.concatenate([precision, np.ones(len(self.beside) - 1), [0.0]])
        matrix = design @ design.T + np.diag(weight)
        step = np.linalg.solve(matrix, design @ left + np.append(pull, np.zeros(len(self.beside))))
        return _Solved(step[: len(own)], np.linalg.inv(matrix), -0.5 * float(np.linalg.slogdet(matrix)[1]))

    def fitted(self, half: FloatArray | None) -> Fitted:
        """Most probable pair, from atoms `half` (2,) px on either side of the middle; one column if None."""
        middle, light = self.own.mean(0), float(self.light.sum())
        apart, atoms = np.zeros(2) if half is None else half, 1 if half is None else 2
        prior = np.array([ABOUT, ABOUT, APART, APART])[: 2 * atoms] * self.a_px
        for last in (*[False] * STEPS, True):
            value, *moves = self._seen(np.array([middle + apart, middle - apart])[:atoms])
            own = [light / atoms * m.sum(0) for m in moves]
            if atoms == 2:
                own += [light / 2 * (m[0] - m[1]) for m in moves]
            off = np.concatenate([middle - self.site, apart])[: 2 * atoms] / prior
            left = self.data - light / atoms * value.sum(0)
            solved = self._solved(
                np.array([*own, value.sum(0) / atoms]), left, np.append(1 / prior**2, 0.0), np.append(-off / prior, 0.0)
            )
            if last:
                break
            step = solved.step
            longest = float(np.abs(step[:-1]).max())
            step[:-1] *= min(1.0, 0.1 * self.a_px / max(longest, 1e-9))
            middle, light = middle + step[:2], max(light + float(step[-1]), 1e-9)
            apart = apart + step[2:4] if atoms == 2 else apart
        misfit = self._rest(left) + float(off @ off)
        return Fitted(
            light, math.sqrt(solved.cov[len(prior), len(prior)]), 2 * float(np.hypot(*apart)),
            float(np.hypot(*(middle - self.site))), -0.5 * misfit + solved.volume - float(np.log(prior).sum()),
        )

    def two_columns(self, full: float) -> float:
        """Evidence of a column on the site and another one beside it for a reason of its own, as they were found."""
        value, *moves = self._seen(self.own)
        prior = np.array([ABOUT, ABOUT]) * self.a_px
        own = [*(self.light[0] * m[0] for m in moves), value[0], *(self.light[1] * m[1] for m in moves), value[1]]
        left = self.data - self.light @ value
        off = (self.own[0] - self.site) / prior
        precision = np.append(1 / prior**2, np.zeros(4))
        solved = self._solved(np.array(own), left, precision, np.zeros(6))
        somewhere = math.log(STRAY) - math.log(4 * full) - math.log(math.pi * (BELONGS * self.a_px) ** 2)
        misfit = self._rest(left) + float(off @ off)
        return -0.5 * misfit + solved.volume - float(np.log(prior).sum()) + somewhere + 1.5 * math.log(2 * math.pi)

    def _rest(self, left: FloatArray) -> float:
        """Chi-squared of what is left over, with what is beside it as it fits best."""
        weight = np.diag(np.append(np.ones(len(self.beside) - 1), 0.0))
        right = self.beside @ left
        return float(left @ left - right @ np.linalg.solve(self.beside @ self.beside.T + weight, right))


class _Solved(NamedTuple):
    """Step of the parameters, their covariance, and half the logarithm of its determinant."""

    step: FloatArray
    cov: FloatArray
    volume: float
