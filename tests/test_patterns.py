"""Crystals of any cell: lattice, names and vacancies against images whose truth is known."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from patterns import BLACK_P, OBLIQUE, SQUARE, Pattern, Shot, honeycomb, shoot, write_cif
from scipy.spatial import cKDTree

from stemfit.columns import Columns, find
from stemfit.crystal_file import read_host
from stemfit.errors import NotAnalysable
from stemfit.hosts import ProjectedHost, projected
from stemfit.lattice import Look, Optics, PatternFit, Reading, fit_pattern, read_crystal
from stemfit.lattice.sites import sites_near

T1 = Pattern(
    3.19 * np.array([[1.0, 0.0], [-0.5, np.sqrt(0.75)]]),
    (("Mo", 0.0, 0.0, 1.0), ("S", 1 / 3, 2 / 3, 0.25), ("S", 2 / 3, 1 / 3, 0.25)),
)
"""Hexagonal with three columns, 120 degrees between a and b."""

CENTRED = Pattern(np.diag([4.1, 5.2]), (("Sn", 0.0, 0.0, 1.0), ("Sn", 0.5, 0.5, 1.0)))

CIFS = {
    "square": ((3.9, 3.9, 20, 90, 90, 90), [("Fe", 0, 0, 0.55), ("Fe", 0, 0, 0.45), ("Se", 0.5, 0.5, 0.5)]),
    "oblique": (
        (6.4, 6.5, 20, 90, 90, 106),
        [("Re", 0, 0, 0.5), ("Re", 0.42, 0.11, 0.5), ("S", 0.21, 0.55, 0.57), ("S", 0.60, 0.46, 0.57),
         ("S", 0.83, 0.27, 0.43), ("S", 0.24, 0.86, 0.43)],
    ),
    "1T": ((3.19, 3.19, 20, 90, 90, 120),
           [("Mo", 0, 0, 0.5), ("S", 1 / 3, 2 / 3, 0.58), ("S", 2 / 3, 1 / 3, 0.42)]),
    "centred": ((4.1, 5.2, 20, 90, 90, 90), [("Sn", 0, 0, 0.5), ("Sn", 0.5, 0.5, 0.5)]),
    # Two columns that no table tells apart: seen from either side it might be the other.
    "even": ((4.4, 4.9, 20, 90, 90, 98), [("Mn", 0, 0, 0.5), ("Fe", 0.41, 0.33, 0.5)]),
}  # fmt: skip

EVEN = Pattern(
    np.array([[4.4, 0.0], [4.9 * np.cos(np.radians(98)), 4.9 * np.sin(np.radians(98))]]),
    (("Mn", 0.0, 0.0, 1.0), ("Fe", 0.41, 0.33, 1.03)),
)
UNEVEN = EVEN._replace(columns=(("Mn", 0.0, 0.0, 1.0), ("W", 0.41, 0.33, 4.0)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CIFs of all of them."""
    made = tmp_path_factory.mktemp("cif")
    for name, (cell, atoms) in CIFS.items():
        write_cif(made / f"{name}.cif", cell, atoms)
    cell, atoms = CIFS["even"]
    write_cif(made / "uneven.cif", cell, [atoms[0], ("W", *atoms[1][1:])])
    return made


def host_of(name: str, folder: Path) -> ProjectedHost:
    return projected(name) if name == "blackP" else read_host(folder / f"{name}.cif")


@cache
def seen(image: bytes, shape: tuple[int, int]) -> Columns:
    return find(np.frombuffer(image).reshape(shape), calibrate=False)


def columns_of(shot: Shot) -> Columns:
    return seen(shot.image.tobytes(), (shot.image.shape[0], shot.image.shape[1]))


def fitted(shot: Shot, host: ProjectedHost) -> PatternFit:
    return fit_pattern(shot.image, columns_of(shot), host)


def named_right(fit: PatternFit, shot: Shot) -> float:
    """Share of the sites with a true column of the same type within 0.1 A."""
    _, which, xy = sites_near(fit.grid, 0.0)
    off, nearest = cKDTree(shot.xy).query(xy)
    right = (off < 0.1 / shot.pixel_A) & (np.array(fit.host.columns)[which] == shot.name[nearest])
    return float(right.mean())


CASES = [
    ("blackP", BLACK_P, {"turn_deg": 23.7, "shear": 0.02}),
    ("blackP", BLACK_P, {"turn_deg": 107.3, "shear": 0.06, "counts": 50.0}),
    ("square", SQUARE, {"turn_deg": 71.2, "shear": -0.04}),
    ("centred", CENTRED, {"turn_deg": 143.9, "shear": 0.05}),
    ("1T", T1, {"turn_deg": 38.3, "shear": -0.03}),
    ("oblique", OBLIQUE, {"turn_deg": 211.8, "shear": 0.03}),
    ("oblique", OBLIQUE, {"turn_deg": 306.1, "shear": -0.05, "mirror": True, "counts": 40.0}),
]


@pytest.mark.parametrize(("name", "pattern", "how"), CASES)
def test_cell_and_names_are_those_of_the_crystal(folder: Path, name: str, pattern: Pattern, how: dict) -> None:
    shot = shoot(pattern, **how)
    fit = fitted(shot, host_of(name, folder))
    assert named_right(fit, shot) > 0.99
    true = np.stack([shot.a_px, shot.b_px])
    # Some 200 columns of 2 pm (10 pm where they touch) over 40 A give 0.05 % and less.
    assert abs(np.linalg.det(np.stack([fit.grid.a_px, fit.grid.b_px]))) == pytest.approx(
        abs(np.linalg.det(true)), rel=1e-3
    )
    assert fit.grid.a_px[0] * fit.grid.b_px[1] - fit.grid.a_px[1] * fit.grid.b_px[0] < 0  # counter-clockwise
    assert fit.explained > 0.9
    assert fit.polarity == (-1 if how.get("mirror") else 1)
    assert fit.undecided == 0


def test_stated_covariance_of_the_cell_is_the_real_one(folder: Path) -> None:
    host, total = host_of("square", folder), 0.0
    for seed in range(3):
        shot = shoot(SQUARE, seed=seed, turn_deg=13.0, counts=60.0)
        grid = fitted(shot, host).grid
        turns = [np.array([[1, 0], [0, 1]]), np.array([[0, 1], [-1, 0]])]  # symmetry of the crystal, 90 degrees
        true = min(
            (s * t @ np.stack([shot.a_px, shot.b_px]) for t in turns for s in (1, -1)),
            key=lambda cell: np.abs(cell - np.stack([grid.a_px, grid.b_px])).max(),
        )
        off = np.concatenate([grid.a_px - true[0], grid.b_px - true[1]])
        total += float(off @ np.linalg.solve(grid.covariance[2:, 2:], off))
    # Chi-squared of 12 degrees of freedom: 99.8 % lie between 2.2 and 33.
    assert 2.2 < total < 33


def test_which_side_is_up_is_left_open_where_nothing_tells(folder: Path) -> None:
    assert fitted(shoot(EVEN), host_of("even", folder)).undecided > 0
    clear = fitted(shoot(UNEVEN), host_of("uneven", folder))
    assert clear.undecided == 0
    assert named_right(clear, shoot(UNEVEN)) > 0.99


@pytest.mark.parametrize(
    ("pattern", "asked"),
    [(SQUARE, "oblique"), (OBLIQUE, "square"), (honeycomb(3.16, ("Mo", 1.0), ("S2", 0.5)), "blackP")],
)
def test_another_crystal_is_refused(folder: Path, pattern: Pattern, asked: str) -> None:
    with pytest.raises(NotAnalysable, match=r"explains|no spots") as caught:
        fitted(shoot(pattern), host_of(asked, folder))
    assert caught.value.exit_code == 4
    assert "--host" in str(caught.value)


def test_noise_holds_no_crystal() -> None:
    image = np.random.default_rng(3).poisson(50, (220, 240)) / 50.0
    with pytest.raises(NotAnalysable):
        fit_pattern(image, find(image, calibrate=False), projected("blackP"))


# -- which crystal it is -------------------------------------------------------------------------------------------


def surveyed(shot: Shot, asked: ProjectedHost | None = None, **known: float) -> Reading:
    return read_crystal(shot.image, columns_of(shot), asked, Optics(**known), Look())  # type: ignore[arg-type]


def test_black_phosphorus_is_inferred_with_its_doubt() -> None:
    shot = shoot(BLACK_P, (150, 170), turn_deg=61.3, shear=0.03)
    found = surveyed(shot).identity
    assert (found.host.name, found.source) == ("blackP", "inferred")
    assert 0.5 < found.probability < 0.99  # other rectangular crystals exist
    assert sum(p for _, p in found.alternatives) + found.probability == pytest.approx(1)
    scaled = surveyed(shot, stated_pixel_A=shot.pixel_A, stated_by_user=True).identity
    assert scaled.probability > max(found.probability, 0.98)


def test_a_crystal_that_nobody_listed_is_no_host() -> None:
    with pytest.raises(NotAnalysable, match=r"--host FILE\.cif") as caught:
        surveyed(shoot(SQUARE, turn_deg=9.3))
    assert caught.value.exit_code == 4


def test_a_stretched_honeycomb_is_no_black_phosphorus() -> None:
    shot = shoot(honeycomb(3.16, ("Mo", 1.0), ("S2", 0.4)), turn_deg=9.3, shear=0.2)
    found = surveyed(shot)
    assert found.lattice.anisotropy > 1.19
    assert found.identity.host.honeycomb
    assert dict(found.identity.alternatives).get("blackP", 0.0) < 0.01


def test_sites_of_a_survey_are_where_the_lattice_says(folder: Path) -> None:
    found = surveyed(shoot(OBLIQUE, mirror=True, turn_deg=31.0), host_of("oblique", folder))
    names = list(found.identity.host.sublattices)
    which = np.array([names.index(s) for s in found.sites.sublattice])
    assert np.allclose(found.lattice.positions(found.sites.ij + found.lattice.basis[which]), found.sites.xy_px)
    assert found.lattice.polarity == -1
    matrix, offset = found.lattice.image_from_structure(found.identity.host.a_A)
    assert np.linalg.det(matrix) < 0  # y up there, y down here: never mirrored
    plane = np.array(found.identity.host.cell.plane)
    turn = np.radians(found.lattice.rotation_deg)
    turned = plane @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    assert np.allclose(turned @ matrix.T, [found.lattice.a_px, found.lattice.b_px])
    assert np.allclose(offset, found.lattice.origin_px)
