"""Pairs of chalcogens that stand apart beside defects: two faint columns, a wide one, or one that is only dimmer.

Beside a line of vacancies in one layer the gap closes in that layer: the upper atoms of the next columns move by up to
an Angstrom, the lower ones stay (in relaxed structures of WSe2, MoSe2 and WS2 alike); beside complexes of one layer and
at the ends of lines they do by less. A column of the usual width, held to one position, then shows two thirds of the
light and less, as if an atom were missing. Two atoms in a column scatter coherently (Kirkland, *Advanced Computing in
Electron Microscopy*, 2010, chapter 5), two atoms apart do not: a pair is dimmer long before its width shows.

So doubtful chalcogen sites beside vacancies and antisites are read again: that the full pair is there has the
likelihood of one column, or of two atoms as bright as each other and as far apart as the pixels allow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stemfit.columns.stamps import drawn, render
from stemfit.defects.evidence import Evidence
from stemfit.defects.groups import NEIGHBOURS
from stemfit.defects.loose import STRAY
from stemfit.defects.occupancy import RELAXED_ERROR, SitePosterior, likelihoods
from stemfit.defects.types import Site
from stemfit.imaging import MODEL_FLOOR

FloatArray = NDArray[np.float64]

TORN, TORN_BY_ONE = 1 / 3, 0.03
"""Probability beforehand that a pair stands apart next to a defect of several sites, and next to a single one. In 52
structures relaxed with SevenNet-0, 65 of 286 pairs are more than 0.3 A apart beside lines, complexes and trefoils, and
5 of 192 beside single defects; multislice has a third of the former dim."""

SURE = 0.95
"""Probability of being pristine from which a site is not measured again."""

VACANCIES, VACANT = ("SV", "DV", "VM", "UNKNOWN"), 0.5
"""Probability of a vacancy from which it may tear its neighbours."""

ANTISITE = 0.1
"""The same of an antisite, which looks like other things and moves its neighbours as far (SevenNet-0: 10 to 30 pm)."""

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

STEPS, SETTLED = 12, 1e-3
"""Most Gauss-Newton steps, and the step, in lattice constants and of the light, from which no other is made."""

SPLIT = (0.03, 0.3)
"""Least and largest distance of the atoms from their middle that the steps start from, in lattice constants."""


class Fitted(NamedTuple):
    """One column, or two atoms of equal brightness, on a site.

    Attributes
    ----------
    light, sigma : float
        Of all of it, and its standard error; image units x px^2.
    off_px : float
        Middle from the site.
    log_evidence : float
        Natural logarithm, up to a constant of the patch, of what is integrated over but the light.
    """

    light: float
    sigma: float
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
    for n, site, strays, prior in _doubtful(evidence, one):
        value[n] = read_again(evidence, one, n, site, strays, prior)
        joint = value[n] + np.log(one.rate)
        probability[n] = np.exp(joint - np.logaddexp.reduce(joint))
        if probability[n, 0] > VACANT:
            explained.update(strays)
    again = one._replace(log_likelihood=value, probability=probability)
    posteriors = tuple(again if k == which else p for k, p in enumerate(evidence.posteriors))
    return replace(evidence, posteriors=posteriors, explained=frozenset(explained))


def _doubtful(
    evidence: Evidence, one: SitePosterior
) -> Iterator[tuple[int, Site, tuple[int, ...], float]]:
    """Every site that something beside it may have torn: row in the posterior, site, stray columns on it, prior."""
    strays, a_px = evidence.strays(), evidence.lattice.a_px_iso
    gone = [
        p.site[(_share(p, VACANCIES) > VACANT) | (_share(p, ("ANTI",)) > ANTISITE)] for p in evidence.posteriors
    ]
    rows = np.concatenate([*gone, np.full(len(strays), -1)])
    findings = np.vstack([evidence.sites.xy_px[rows[rows >= 0]], evidence.columns.xy_px[strays]])
    if len(findings) == 0:
        return
    tree = cKDTree(findings)
    company = tree.query_ball_point(findings, NEIGHBOURS * a_px)
    for n in np.flatnonzero(one.probability[:, 0] <= SURE):
        row = int(one.site[n])
        xy = evidence.sites.xy_px[row]
        off = np.hypot(*(evidence.columns.xy_px[strays] - xy).T)
        own = np.flatnonzero(off < BELONGS * a_px)
        if evidence.sites.column[row] < 0 or len(own) > 1:
            continue
        mine = {int(k) for k in (*np.flatnonzero(rows == row), *(own + (rows >= 0).sum()))}
        beside = set(tree.query_ball_point(xy, NEIGHBOURS * a_px)) - mine
        if beside:
            several = any(len(set(company[k]) - mine) > 1 for k in beside)
            i, j = evidence.sites.ij[row]
            strange = tuple(int(k) for k in strays[own])
            yield int(n), (int(i), int(j), "X"), strange, TORN if several else TORN_BY_ONE


def _share(one: SitePosterior, types: tuple[str, ...]) -> FloatArray:
    """Probability (K,) that any of these types is on each site."""
    return np.asarray(one.probability @ np.array([h.type in types for h in one.hypotheses]))


def read_again(
    evidence: Evidence, one: SitePosterior, row: int, site: Site, strays: tuple[int, ...], prior: float = TORN
) -> FloatArray:
    """Logarithm of the likelihood (H,) of every hypothesis on a site whose pair stands apart with this probability."""
    patch, a_px = _Patch(evidence, site, strays), evidence.lattice.a_px_iso
    two = (patch.own[-1] - patch.own[0]) / 2
    half, apart = (two, 1.0) if strays else patch.split(RESOLVED_A * a_px / evidence.host.structure.a_exp_A)
    pair = patch.fitted(half)
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
            found = likelihoods(light, sigma, one, evidence.imaging, "X", np.array([row]))[0]
    if pair.off_px < FARTHEST * a_px:
        torn = pair.log_evidence - alone + _as_pair(evidence, one, pair, gain, apart)
        found[0] = np.logaddexp(found[0] + math.log1p(-prior), torn + math.log(prior))
    return np.asarray(found)


def _full(evidence: Evidence, one: SitePosterior) -> float:
    return float(evidence.imaging.amplitudes[one.hypotheses[0].column].value)


def _as_pair(evidence: Evidence, one: SitePosterior, pair: Fitted, gain: float, apart: float) -> float:
    """Logarithm of the likelihood of the light of two atoms that are all there, and with this probability apart."""
    together = _full(evidence, one)
    singly = 2 * one.half.value if one.half is not None else together
    spread = float(np.linalg.norm([evidence.imaging.rms_scatter("X"), MODEL_FLOOR, RELAXED_ERROR])) * together
    value, sigma = pair.light / gain, pair.sigma / gain
    # Somewhere between a column of two atoms, which scatter in phase, and two columns of one.
    mean, doubt = (together + singly) / 2, abs(together - singly) / math.sqrt(12)
    return float(np.logaddexp(
        _log_normal(value - together, math.hypot(sigma, spread)) + math.log(max(1 - apart, 1e-300)),
        _log_normal(value - mean, math.hypot(math.hypot(sigma, spread), doubt)) + math.log(max(apart, 1e-300)),
    ))  # fmt: skip


def _log_normal(off: float, sigma: float) -> float:
    return -0.5 * (off / sigma) ** 2 - 0.5 * math.log(2 * math.pi * sigma**2)


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

    def split(self, apart_px: float) -> tuple[FloatArray, float]:
        """Where (2,) px from the middle one of two atoms probably is, and how probably they are `apart_px` and more.

        To second order a pair at +-u is one column and light/2 u u^T times its second derivatives.
        """
        h, light = 0.05 * self.profile.width_px, float(self.light[0])
        value, along_x, along_y = self._seen(self.own[0] + h * np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]]))
        second = along_x[1] - along_x[2], 2 * (along_x[3] - along_x[4]), along_y[3] - along_y[4]
        own = np.array([*(0.25 * light / h * m for m in second), value[0], light * along_x[0], light * along_y[0]])
        precision = np.array([0.0, 0.0, 0.0, 0.0, *np.full(2, (ABOUT * self.a_px) ** -2.0)])
        solved = self._solved(own, self.data - light * value[0], precision, np.zeros(6))
        xx, xy, yy = seen = solved.step[:3]
        far, angle = np.meshgrid(np.linspace(0, 4 * APART * self.a_px, 33)[1:], np.pi * np.arange(12) / 12)
        x, y = far * np.cos(angle), far * np.sin(angle)
        off = np.stack([x * x, x * y, y * y], axis=-1) - seen
        inverse = np.linalg.inv(solved.cov[:3, :3])
        logs = -0.5 * np.einsum("...i,ij,...j", off, inverse, off) - 0.5 * (far / (APART * self.a_px)) ** 2
        weight = far * np.exp(logs - logs.max())
        size, axis = np.linalg.eigh(np.array([[xx, xy], [xy, yy]]))
        low, high = (share * self.a_px for share in SPLIT)
        start = axis[:, 1] * np.clip(math.sqrt(max(float(size[1]), 0.0)), low, high)
        return start, float(weight[2 * far > apart_px].sum() / weight.sum())

    def fitted(self, half: FloatArray | None) -> Fitted:
        """Most probable pair, from atoms `half` (2,) px on either side of the middle; one column if None.

        Gauss-Newton; a step that makes it worse is halved: of a pair that hardly stands apart the slopes say nothing.
        """
        tried = np.concatenate([self.own.mean(0), [] if half is None else half, [float(self.light.sum())]])
        best = self._at(tried)
        step = best.step
        for _ in range(STEPS):
            longest = float(np.abs(step[:-1]).max()) / self.a_px
            if longest < SETTLED and abs(float(step[-1])) < SETTLED * best.values[-1]:
                break
            step = step * np.append(np.full(len(step) - 1, min(1.0, 0.1 / max(longest, 1e-9))), 1.0)
            here = self._at(np.append((best.values + step)[:-1], max(float(best.values[-1] + step[-1]), 1e-9)))
            best, step = (here, here.step) if here.log_posterior > best.log_posterior else (best, step / 2)
        *where, light = best.values
        off = float(np.hypot(*(np.array(where[:2]) - self.site)))
        return Fitted(float(light), best.sigma, off, best.log_posterior + best.volume)

    def _at(self, values: FloatArray) -> _Step:
        """How good one column or a pair is: its middle, half of what its atoms are apart, its light; and the next."""
        middle, apart, light = values[:2], values[2:-1], float(values[-1])
        atoms = 1 + (len(apart) > 0)
        prior = np.array([ABOUT, ABOUT, APART, APART])[: 2 * atoms] * self.a_px
        value, *moves = self._seen(np.array([middle + apart, middle - apart]) if atoms == 2 else middle[None])
        own = [light / atoms * m.sum(0) for m in moves]
        if atoms == 2:
            own += [light / 2 * (m[0] - m[1]) for m in moves]
        off = np.append(middle - self.site, apart) / prior
        left = self.data - light / atoms * value.sum(0)
        solved = self._solved(
            np.array([*own, value.sum(0) / atoms]), left, np.append(1 / prior**2, 0.0), np.append(-off / prior, 0.0)
        )
        volume = solved.volume - float(np.log(prior).sum())
        return _Step(values, solved.step, math.sqrt(solved.cov[len(prior), len(prior)]),
                     -0.5 * (self._rest(left) + float(off @ off)), volume)  # fmt: skip

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


class _Step(NamedTuple):
    """Parameters, where they should go next, error of the light, and logarithms of posterior and volume."""

    values: FloatArray
    step: FloatArray
    sigma: float
    log_posterior: float
    volume: float
