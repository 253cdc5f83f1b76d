"""Normal equations of a patch: every column touches few pixels, so they are summed tile by tile."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stemfit.columns import Profile
from stemfit.score.scene import Scene

FloatArray = NDArray[np.float64]
Images = NDArray[np.float32]
"""Drawn in single precision, summed in double: log evidences change by less than 1e-3, in two thirds of the time."""

TILE = 32
"""Side of a tile, px: its arrays nearly stay in a core's cache, and patches of single sites are one or four of them."""

FAINT, WEAK = 1e-8, 1e-4
"""Share of its peak below which a column is not drawn, and below which what changes it is not: log evidences change by
less than 1e-6 of themselves, and by less than 0.01."""

SHIFT, GAIN, LEVEL = 0.03, 0.10, 0.3
"""Prior widths of what is common to a patch: shift in lattice constants, relative brightness, level and slope of the
background in units of the brightest column's peak. They are wider than what the image's own fit leaves open."""

STRAIN = 0.01
"""The same of each component of strain and rotation. The smooth distortion of the scan, fitted beforehand, has taken
up part of the field of a defect that draws its surroundings in: else the one with the shorter field would win."""

COMMON, FIELD = 11, 6
"""Parameters that all columns share: shift, strain, how far the structure moves them, brightness, level and slope of
the background; which of them the field's size is."""


class Drawing(NamedTuple):
    """Columns of a structure and how far each may be from its prediction, on the pixels of a scene.

    Attributes
    ----------
    xy : (N, 2) array
    amplitude : (N,) array
        Integrated intensity.
    brightness : (N,) array
        Prior width of the amplitude.
    place : (N,) array
        Prior width of the position per axis, px.
    a_px : float
        Lattice constant.
    moves : (N, 2) array
        Prior width of what all columns move together, px: potentials have the shape of a field right, not its size.
    """

    xy: FloatArray
    amplitude: FloatArray
    brightness: FloatArray
    place: FloatArray
    a_px: float
    moves: FloatArray


class Tile(NamedTuple):
    """Part of a patch: the parameters (p,) that change it, and their derivative images (p, n) times prior widths."""

    box: tuple[slice, slice]
    parameters: NDArray[np.int64]
    design: Images


class Part(NamedTuple):
    """Gaussian part of a column: height for unit integral of the whole, inverse covariance (2, 2), px drawn.

    Its derivatives are drawn as far as they are `felt`.
    """

    height: float
    precision: FloatArray
    reach: float
    felt: float


class Drawn(NamedTuple):
    """Columns on a tile of n px.

    Attributes
    ----------
    all : (m,) array
        Columns that are seen there.
    light : (m, n) array
        Their profiles.
    own : (k,) array
        Of these, those whose changes are felt there.
    shapes : (3, k, n) array
        Their profiles, and the gradients with respect to the position.
    """

    all: NDArray[np.int64]
    light: Images
    own: NDArray[np.int64]
    shapes: Images


class Equations(NamedTuple):
    """Least squares of a patch in units of the prior widths.

    Attributes
    ----------
    model : (h, w) array
        At the prior means.
    tiles : tuple of Tile
    matrix : (P, P) array
        Information of the pixels.
    right : (P,) array
    """

    model: FloatArray
    tiles: tuple[Tile, ...]
    matrix: FloatArray
    right: FloatArray

    def moved(self, answer: FloatArray) -> FloatArray:
        """Model (h, w) at parameters (P,)."""
        image = self.model.copy()
        for tile in self.tiles:
            part = image[tile.box]
            part += (answer[tile.parameters].astype(np.float32) @ tile.design).reshape(part.shape)
        return image


def equations(drawing: Drawing, scene: Scene) -> Equations:
    """Model, derivatives and normal equations of a drawing on a scene."""
    count, (h, w) = len(drawing.amplitude), scene.image.shape
    matrix, right = np.zeros((3 * count + COMMON,) * 2), np.zeros(3 * count + COMMON)
    model, tiles = scene.surroundings.copy(), []
    across, down = (max(1, round(n / TILE)) for n in (w, h))
    parts = _parts(scene.profile)
    for y in np.array_split(np.arange(h), down):
        for x in np.array_split(np.arange(w), across):
            box = slice(y[0], y[-1] + 1), slice(x[0], x[-1] + 1)
            drawn = _drawn(drawing.xy, parts, x, y)
            own = drawn.own
            light = drawing.amplitude[drawn.all].astype(np.float32) @ drawn.light
            model[box] += light.reshape(len(y), len(x))
            parameters = np.concatenate([own, count + own, 2 * count + own, 3 * count + np.arange(COMMON)])
            tile = Tile(box, parameters, _design(drawing, drawn, scene, x, y))
            tiles.append(tile)
            root = np.sqrt(scene.weight[box]).ravel()
            seen = root > 0
            if seen.any():
                whole = seen.all()
                weighted = (tile.design if whole else tile.design[:, seen]) * root[seen].astype(np.float32)
                information = weighted @ weighted.T
                if len(own) == count:
                    matrix += information
                else:
                    matrix[np.ix_(parameters, parameters)] += information
                left = (root * (scene.image[box] - model[box]).ravel())[seen]
                right[parameters] += weighted @ left.astype(np.float32)
    return Equations(model, tuple(tiles), matrix, right)


def shifts_px(drawing: Drawing, answer: FloatArray, scene: Scene) -> FloatArray:
    """How far parameters (P,) move the columns, (N, 2); what has no light stays."""
    n, (h, w) = len(drawing.amplitude), scene.image.shape
    own, common = answer[n : 3 * n].reshape(2, n).T, answer[3 * n :]
    off = drawing.xy - np.array([w, h]) / 2
    shift = drawing.place[:, None] * own + SHIFT * drawing.a_px * common[:2]
    shift = shift + STRAIN * (off[:, :1] * common[2:4] + off[:, 1:] * common[4:6]) + drawing.moves * common[FIELD]
    return np.asarray(np.where(drawing.amplitude[:, None] == 0, 0.0, shift))


def moved_to(drawing: Drawing, answer: FloatArray, scene: Scene, system: Equations) -> tuple[Scene, Drawing]:
    """Scene and drawing at parameters (P,).

    What is linear in them (the background, and light where atoms are missing) becomes part of what surrounds.
    """
    n = len(drawing.amplitude)
    dark = drawing.amplitude == 0
    linear = np.concatenate([np.tile(dark, 3), np.arange(COMMON) >= COMMON - 3])
    added = system.moved(np.where(linear, answer, 0.0)) - system.model
    gain = 1 + GAIN * answer[3 * n + COMMON - 4]
    light = np.where(dark, 0.0, drawing.amplitude * gain + drawing.brightness * answer[:n])
    there = drawing._replace(xy=drawing.xy + shifts_px(drawing, answer, scene), amplitude=light)
    return scene._replace(surroundings=scene.surroundings + added), there


def _parts(profile: Profile) -> list[Part]:
    """Core and tail, as far as they are seen."""
    tail = profile.core_cov_px2 + max(profile.tail_sigma_px**2 - profile.width_px**2, 0.0) * np.eye(2)
    each = ((1 - profile.tail_fraction, profile.core_cov_px2), (profile.tail_fraction, tail))
    heights = [share / (2 * np.pi * np.sqrt(np.linalg.det(cov))) for share, cov in each]
    parts = []
    for height, (_, cov) in zip(heights, each, strict=True):
        if (share := height / sum(heights)) > FAINT:
            wide = 2 * np.linalg.eigvalsh(cov)[-1]
            reach, felt = (np.sqrt(max(np.log(share / least), 0.0) * wide) for least in (FAINT, WEAK))
            parts.append(Part(float(height), np.linalg.inv(cov), float(reach), float(felt)))
    return parts


def _drawn(xy: FloatArray, parts: list[Part], x: NDArray[np.int64], y: NDArray[np.int64]) -> Drawn:
    """Columns seen on a tile. As `stemfit.columns.stamps.drawn`, but for what is fainter than `FAINT`."""
    off = np.abs(xy - [x.mean(), y.mean()]) - [np.ptp(x) / 2, np.ptp(y) / 2]
    outside = np.hypot(*np.maximum(off, 0).T)
    seen = np.flatnonzero(outside < max(part.reach for part in parts))
    felt = np.flatnonzero(outside[seen] < max(part.felt for part in parts))
    light = np.zeros((len(seen), len(y), len(x)), dtype=np.float32)
    moves = np.zeros((2, len(felt), len(y), len(x)), dtype=np.float32)
    for part in parts:
        near = np.flatnonzero(outside[seen] < part.reach)
        dx, dy = ((k - xy[seen[near], n, None]).astype(np.float32) for n, k in enumerate((x, y)))
        (xx, cross), (_, yy) = part.precision.astype(np.float32)
        along_x = (xx * dx)[:, None, :] + (cross * dy)[:, :, None]
        along_y = (cross * dx)[:, None, :] + (yy * dy)[:, :, None]
        value = np.exp(-0.5 * (along_x * dx[:, None, :] + along_y * dy[:, :, None])) * np.float32(part.height)
        light[_all_or(near, len(seen))] += value
        close = np.flatnonzero(outside[seen[near]] < part.felt)
        rows, some = _all_or(np.searchsorted(felt, near[close]), len(felt)), _all_or(close, len(near))
        moves[0, rows] += value[some] * along_x[some]
        moves[1, rows] += value[some] * along_y[some]
    shapes = np.concatenate([light[None, _all_or(felt, len(seen))], moves])
    n = len(y) * len(x)
    return Drawn(seen, light.reshape(len(seen), n), seen[felt], shapes.reshape(3, len(felt), n))


def _all_or(rows: NDArray[np.intp], count: int) -> NDArray[np.intp] | slice:
    """Rows, or all of them as a slice, which copies nothing."""
    return slice(None) if len(rows) == count else rows


def _design(
    drawing: Drawing, drawn: Drawn, scene: Scene, x: NDArray[np.int64], y: NDArray[np.int64]
) -> Images:
    """Derivative images (3 n + COMMON, len(y) len(x)), each times the prior width of its parameter."""
    own, (value, *moves), n = drawn.own, drawn.shapes, len(drawn.own)
    xy, amplitude, (h, w) = drawing.xy[own], drawing.amplitude[own], scene.image.shape
    width, most = scene.profile.width_px, float(drawing.amplitude.max())
    # Light where an atom is missing comes from its neighbours: it lies anywhere within the width of a column.
    reach = np.where(amplitude == 0, drawing.brightness[own] * width, amplitude * drawing.place[own])
    design = np.empty((3 * n + COMMON, value.shape[1]), dtype=np.float32)
    np.multiply(drawing.brightness[own, None].astype(np.float32), value, out=design[:n])
    for k, move in enumerate(moves, 1):
        np.multiply(reach[:, None].astype(np.float32), move, out=design[k * n : (k + 1) * n])
    shift, lever = SHIFT * drawing.a_px * amplitude, STRAIN * amplitude * (xy - np.array([w, h]) / 2).T
    peak = LEVEL * most / (2 * np.pi * width**2)
    slope_y, slope_x = (a.ravel() for a in np.meshgrid(y / (h - 1) - 0.5, x / (w - 1) - 0.5, indexing="ij"))
    levers = np.vstack([shift, lever, amplitude * drawing.moves[own].T]).astype(np.float32)  # (5, n)
    by_x, by_y = (levers @ move for move in moves)  # (5, n px) each
    design[3 * n :] = [
        by_x[0], by_y[0], by_x[1], by_y[1], by_x[2], by_y[2], by_x[3] + by_y[4],
        (GAIN * drawing.amplitude[drawn.all]).astype(np.float32) @ drawn.light,
        np.full(len(slope_x), peak), peak * slope_x, peak * slope_y,
    ]
    return design
