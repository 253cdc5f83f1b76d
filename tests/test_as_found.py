"""A result drawn again: `stemfit simulate STRUCTURE --like RESULT` is the image that the analysis explained it by."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
import tifffile
import typer.testing
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from test_other_hosts import analysed

import cli
from stemfit import micrograph, pipeline, relax, result
from stemfit.result.fields import NAME, Fields, read_fields

SAMPLE = Path(__file__).parents[1] / "sample_images" / "mos2_line.tif"
FloatArray = NDArray[np.float64]

BEND_PX = 3.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lines of vacancies under a jittered, bent scan; half as bright below, on a background that rises."""
    recorded = micrograph.read(SAMPLE)
    size = recorded.image.shape[0]
    y, x = np.mgrid[:size, :size] / size
    bent = [size * y + BEND_PX * np.sin(2 * np.pi * x), size * x + BEND_PX * np.sin(2 * np.pi * y)]
    image = map_coordinates(recorded.image, bent, order=3, mode="nearest")
    image = image * (1 - 0.5 * y) + 0.5 * recorded.image.std() * x
    found = pipeline.analyze(
        replace(recorded, image=image, sha256="0" * 64), pipeline.Settings(host="MoS2"), relax.relaxer("definet")
    )
    return result.write(found, tmp_path_factory.mktemp("as_found") / "line.stemfit")


def again(structure: Path, folder: Path, out: Path) -> FloatArray:
    done = typer.testing.CliRunner().invoke(
        cli.app, ["simulate", str(structure), "--like", str(folder), "--out", str(out)], catch_exceptions=False
    )
    assert done.exit_code == 0, done.stderr
    return np.asarray(tifffile.imread(out), dtype=np.float64)


def ncc(one: FloatArray, other: FloatArray) -> float:
    seen = np.isfinite(one) & np.isfinite(other)
    return float(np.corrcoef(one[seen], other[seen])[0, 1])


def simulated(folder: Path) -> FloatArray:
    return np.asarray(tifffile.imread(folder / "simulated.tif"), dtype=np.float64)


def altered(folder: Path, to: Path, **changed: FloatArray) -> Path:
    """The same result with other fields."""
    shutil.copytree(folder, to)
    fields = read_fields(folder)
    assert fields is not None
    np.savez(to / NAME, **fields._replace(**changed)._asdict())  # type: ignore[arg-type]
    return to


def test_the_image_again(folder: Path, tmp_path: Path) -> None:
    """To the rounding of what is stored: no column of a line, of the crystal or of the rim stands elsewhere."""
    labels = {d["label"] for d in result.read(folder)["defects"]}
    assert {"DVL-8", "SVL-5"} <= labels
    image, known = again(folder / "structure.extxyz", folder, tmp_path / "x.tif"), simulated(folder)
    assert ncc(image, known) > 0.999999
    assert np.nanmax(np.abs(image - known)) < 0.002 * np.nanstd(known)
    micrograph_ = known + tifffile.imread(folder / "residual.tif")
    assert ncc(image, micrograph_) == pytest.approx(result.read(folder)["match"]["ncc"], abs=1e-4)


def test_every_field_counts(folder: Path, tmp_path: Path) -> None:
    fields, known = read_fields(folder), simulated(folder)
    assert isinstance(fields, Fields)
    flat: dict[str, FloatArray] = {
        "background": np.full_like(fields.background, fields.background.mean()),
        "gain": np.ones_like(fields.gain), "row_offset_px": np.zeros_like(fields.row_offset_px),
        "measured": fields.measured[:0],
    }  # fmt: skip
    for name, value in flat.items():
        other = altered(folder, tmp_path / name, **{name: value})
        assert ncc(again(other / "structure.extxyz", other, tmp_path / "x.tif"), known) < 0.9995, name
    # by this width rows are averaged over a column: with a narrow one columns jitter with the row of their middle
    narrow = altered(folder, tmp_path / "row_width_px", row_width_px=np.float64(0.1))
    off = again(narrow / "structure.extxyz", narrow, tmp_path / "x.tif") - known
    assert np.nanmax(np.abs(off)) > 0.02 * np.nanstd(known)  # ten times what storing it rounds off
    atoms = ase.io.read(folder / "structure.extxyz")  # the distortion is asked where a file says no place in the image
    del atoms.arrays["x_px"], atoms.arrays["y_px"]
    bare = altered(folder, tmp_path / "bare")
    straight = altered(folder, tmp_path / "distortion_px", distortion_px=np.zeros_like(fields.distortion_px))
    for result_ in (bare, straight):
        ase.io.write(result_ / "bare.extxyz", atoms, format="extxyz")
    bent, unbent = (again(f / "bare.extxyz", f, tmp_path / "x.tif") for f in (bare, straight))
    assert ncc(bent, known) > 0.99 > ncc(unbent, known)
    asked = {*flat, "row_width_px", "distortion_px"}
    assert asked == set(Fields._fields), "a new field is to be asked here, too"
    (other / NAME).unlink()  # as older results are: even
    assert ncc(again(other / "structure.extxyz", other, tmp_path / "x.tif"), known) < 0.97


def test_places_of_atoms_are_those_of_the_image(folder: Path, tmp_path: Path) -> None:
    """Without the columns `x_px`, `y_px` the map and the distortion are taken, which know no jitter."""
    atoms, known = ase.io.read(folder / "structure.extxyz"), simulated(folder)
    copy = altered(folder, tmp_path / "copy")
    atoms.arrays["x_px"] = atoms.arrays["x_px"] + 1.0
    ase.io.write(copy / "moved.extxyz", atoms, format="extxyz")
    assert ncc(again(copy / "moved.extxyz", copy, tmp_path / "x.tif"), known) < 0.99
    del atoms.arrays["x_px"], atoms.arrays["y_px"]
    ase.io.write(copy / "bare.extxyz", atoms, format="extxyz")
    by_map = ncc(again(copy / "bare.extxyz", copy, tmp_path / "y.tif"), known)
    assert 0.99 < by_map < 0.9999
    straight = altered(folder, tmp_path / "straight", distortion_px=np.zeros((2, 2, 2)))
    shutil.copy(copy / "bare.extxyz", straight)
    assert ncc(again(straight / "bare.extxyz", straight, tmp_path / "z.tif"), known) < by_map - 0.02


def test_an_atom_more_or_less_changes_its_place_only(folder: Path, tmp_path: Path) -> None:
    atoms, copy = ase.io.read(folder / "structure.extxyz"), altered(folder, tmp_path / "copy")
    at = np.column_stack([atoms.arrays["x_px"], atoms.arrays["y_px"]])
    metal = (np.array(atoms.get_chemical_symbols()) == "Mo") & (np.hypot(*(at - [110, 120]).T) < 60)
    gone = int(np.flatnonzero(metal)[0])
    ase.io.write(copy / "structure.extxyz", atoms[[k for k in range(len(atoms)) if k != gone]], format="extxyz")
    change = simulated(folder) - again(copy / "structure.extxyz", copy, tmp_path / "x.tif")
    y, x = np.unravel_index(np.nanargmax(change), change.shape)
    assert np.hypot(*(np.array([x, y]) - at[gone])) < 2.0
    far = np.hypot(*np.mgrid[: change.shape[0], : change.shape[1]] - at[gone, ::-1, None, None]) > 120
    assert np.nanmax(np.abs(change[far])) < 0.01 * np.nanmax(change)


def test_candidates_with_the_field_round_them(folder: Path, tmp_path: Path) -> None:
    """The best one of a line is the image as it was; the perfect crystal in its place differs there and only there."""
    document, known = result.read(folder), simulated(folder)
    line = next(d for d in document["defects"] if d["label"] == "SVL-5")
    files = {c["id"]: c for c in document["candidates"] if c["defect"] == line["id"]}
    best = folder / files[line["best_candidate"]]["file"]
    assert np.nanmax(np.abs(again(best, folder, tmp_path / "x.tif") - known)) < 0.002 * np.nanstd(known)
    perfect = next(c for c in files.values() if c["label"] == "pristine")
    change = again(folder / perfect["file"], folder, tmp_path / "y.tif") - known
    y, x = np.mgrid[: change.shape[0], : change.shape[1]]
    extent = np.array(line["extent_px"])
    off = np.hypot(x[..., None] - extent[:, 0], y[..., None] - extent[:, 1]).min(-1)
    assert np.nanmax(change[off < 6]) > 0.5 * np.nanstd(known)
    assert np.nanmax(np.abs(change[off > 90])) < 0.02 * np.nanmax(change)


def test_what_is_no_candidate(folder: Path, tmp_path: Path) -> None:
    copy = altered(folder, tmp_path / "copy")
    mine = copy / "candidates" / "mine.cif"
    shutil.copy(next((copy / "candidates").glob("*.cif")), mine)
    run = typer.testing.CliRunner().invoke
    done = run(cli.app, ["simulate", str(mine), "--like", str(copy), "--out", str(tmp_path / "x.tif")])
    assert done.exit_code == 3 and "does not say where" in done.stderr and done.stderr.count("\n") == 1
    (copy / NAME).write_bytes(b"Tuesday")
    whole = copy / "structure.extxyz"
    done = run(cli.app, ["simulate", str(whole), "--like", str(copy), "--out", str(tmp_path / "x.tif")])
    assert done.exit_code == 3 and "fields.npz" in done.stderr and done.stderr.count("\n") == 1


def test_columns_nearer_than_others_are_neighbours(tmp_path: Path) -> None:
    """Pairs of black phosphorus are 0.7 A apart from above: neither is taken for the other."""
    found, _ = analysed("blackP", "blackP")
    folder = result.write(found, tmp_path / "p.stemfit")
    image = simulated(folder)
    drawn = again(folder / "structure.extxyz", folder, tmp_path / "p.tif")
    assert np.nanmax(np.abs(drawn - image)) < 1e-3 * np.nanmax(np.abs(image))


def test_results_that_cannot_be_drawn_again_are_refused(folder: Path, tmp_path: Path) -> None:
    """Arrays that do not belong together, and a candidate of a result that never said how it lies."""
    bad = altered(folder, tmp_path / "bad", measured=np.zeros((3, 3)))
    old = shutil.copytree(folder, tmp_path / "old")
    (old / NAME).unlink()
    for structure, where, word in (
        (bad / "structure.extxyz", bad, "belong together"), (next((old / "candidates").glob("*.cif")), old, NAME),
    ):  # fmt: skip
        arguments = ["simulate", str(structure), "--like", str(where), "--out", str(tmp_path / "x.tif")]
        done = typer.testing.CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
        assert done.exit_code == 3 and done.stderr.count("\n") == 1 and word in done.stderr
