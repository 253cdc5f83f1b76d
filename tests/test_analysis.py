"""`import stemfit`: an analysis in memory is what its folder says, and says so without the folder's history."""

from __future__ import annotations

import gc
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile

import stemfit
from stemfit import figures
from stemfit.errors import InputError, UsageError

SAMPLE = Path(__file__).parents[1] / "sample_images" / "mos2_sv.tif"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("api")
    shutil.copy(SAMPLE, place / "image.tif")
    stemfit.analyze(place / "image.tif", host="MoS2", roi=(0, 0, 300, 280), out=place / "x.stemfit")
    return place / "x.stemfit"


@pytest.fixture(scope="module")
def loaded(folder: Path) -> stemfit.Analysis:
    return stemfit.Analysis.load(folder)


def test_the_page_of_a_stored_result_is_that_of_a_fresh_one(folder: Path, loaded: stemfit.Analysis) -> None:
    from stemfit.report import html

    assert html(loaded) == (folder / "report.html").read_text()


def test_structures_are_read_as_every_other_file_is(folder: Path, loaded: stemfit.Analysis) -> None:
    from definet.structure_file import read_atoms

    name = loaded.candidates[0].id
    slow, quick = read_atoms(folder / "candidates" / f"{name}.cif"), loaded.structures[name]
    assert quick.get_chemical_symbols() == slow.get_chemical_symbols() and quick.pbc.all()
    apart = quick.get_scaled_positions(wrap=False) - slow.get_scaled_positions(wrap=False)
    assert np.allclose(apart, np.round(apart), atol=1e-9) and np.allclose(quick.cell, slow.cell)


def test_the_folder_is_what_the_command_writes(folder: Path, loaded: stemfit.Analysis) -> None:
    for name in ("overlay.png", "overlay.pdf", "report.html", "structure.cif"):
        assert (folder / name).stat().st_size > 1000
    asked = loaded.document["settings"]
    assert asked["relaxer"] == "definet" and asked["frame"] is None and asked["host"] == "MoS2"
    assert loaded.document["environment"]["device"] in ("cpu", "cuda")
    assert loaded.document == json.loads((folder / "analysis.json").read_text())
    assert loaded.host == "MoS2" and loaded.name == "image.tif" and 0.05 < loaded.pixel_size_A < 0.3


def test_a_stored_result_is_drawn_as_it_was(folder: Path, loaded: stemfit.Analysis, tmp_path: Path) -> None:
    for name in ("overlay.png", "overlay.pdf"):
        figures.save(figures.overlay(loaded), tmp_path / name)
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_arrays_are_those_of_the_files(folder: Path, loaded: stemfit.Analysis) -> None:
    assert np.array_equal(loaded.image, tifffile.imread(SAMPLE))
    seen = loaded.mask == 0
    residual = tifffile.imread(folder / "residual.tif")
    assert np.array_equal(np.isfinite(loaded.residual), seen)
    assert np.allclose(loaded.residual[seen], residual[seen], atol=1e-5 * np.ptp(loaded.image))


def test_tables_are_ready_for_pandas(loaded: stemfit.Analysis) -> None:
    pandas = pytest.importorskip("pandas")
    columns, defects = pandas.DataFrame(loaded.columns), pandas.DataFrame(loaded.defects)
    assert list(columns)[:3] == ["id", "x_px", "y_px"] and columns["x_px"].dtype == float
    assert set(columns["sublattice"]) <= {"M", "X", ""} and columns["defect_id"].isna().any()
    assert len(defects) == len(loaded.defects) > 0 and {"type", "label", "probability"} <= set(defects)


def test_defects_and_candidates_are_those_of_the_document(loaded: stemfit.Analysis) -> None:
    for defect, stated in zip(loaded.defects, loaded.document["defects"], strict=True):
        assert (defect.id, defect.label, defect.probability) == (stated["id"], stated["label"], stated["probability"])
        assert defect.center_px.tolist() == stated["center_px"]
        assert min(defect.type_probability, 1.0) == pytest.approx(stated["type_probability"])
        assert [defect.kind_of(name) for name, _ in defect.alternatives] == [o["type"] for o in stated["alternatives"]]
        best = loaded.explanations(defect.id)[0]
        assert best.posterior == max(c.posterior for c in loaded.candidates if c.defect == defect.id)
        atoms = loaded.structures[best.id]
        assert set(atoms.get_chemical_symbols()) <= {"Mo", "S", "W", "Se", "O"}
    assert len(loaded.structures) == 1 + len(loaded.candidates)
    assert "x_px" in loaded.structures["structure"].arrays


def test_notebooks_show_overlay_and_defects(loaded: stemfit.Analysis) -> None:
    named = {**loaded.document, "input": {**loaded.document["input"], "path": "<img src=x onerror=1>.tif"}}
    page = replace(loaded, document=named)._repr_html_()
    assert "data:image/png;base64," in page and page.count("<tr>") == 1 + len(loaded.defects)
    assert "<img src=x" not in page and loaded.defects[0].label in page


def test_a_notebook_says_nothing_of_fonts(loaded: stemfit.Analysis, caplog: pytest.LogCaptureFixture) -> None:
    """Under settings in which a family is missing that the figure does not ask for."""
    from matplotlib import font_manager, rc_context

    with caplog.at_level("WARNING", logger=font_manager.__name__), rc_context({"mathtext.cal": "no such family"}):
        assert "data:image/png;base64," in loaded._repr_html_()
    assert [record.getMessage() for record in caplog.records] == []


def test_an_analysis_without_a_folder_says_the_same(
    loaded: stemfit.Analysis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    image = stemfit.open(SAMPLE)
    again = stemfit.analyze(image, host="MoS2", roi=(0, 0, 300, 280))
    assert [(d.label, d.probability) for d in again.defects] == [(d.label, d.probability) for d in loaded.defects]
    assert np.array_equal(again.simulated, loaded.simulated, equal_nan=True)
    assert len(again.structures["structure"]) == len(loaded.structures["structure"])  # still there
    (left,) = tmp_path.glob("stemfit-*")
    del again
    gc.collect()
    assert not left.exists()


def test_without_the_image_masked_areas_are_unknown(folder: Path, loaded: stemfit.Analysis, tmp_path: Path) -> None:
    alone = tmp_path / "moved.stemfit"
    shutil.copytree(folder, alone)
    document = json.loads((alone / "analysis.json").read_text())
    document["input"]["path"] = str(tmp_path / "gone.tif")
    (alone / "analysis.json").write_text(json.dumps(document))
    found = stemfit.Analysis.load(alone)
    seen = loaded.mask == 0
    assert np.allclose(found.image[seen], loaded.image[seen], atol=1e-4 * np.ptp(loaded.image))
    assert np.isnan(found.image[~seen]).all()
    tifffile.imwrite(tmp_path / "gone.tif", np.zeros(loaded.image.shape, np.float32))  # another image of that name
    assert np.isnan(stemfit.Analysis.load(alone).image[~seen]).all()


@pytest.mark.parametrize("content", ["", "data_image0\n", "_cell_length_a 3\n_atom_site_type_symbol\nMo S\n", None])
def test_damaged_structures_are_refused(content: str | None, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    loaded = stemfit.Analysis.load(tmp_path / "copy")
    name = loaded.candidates[0].id
    path = tmp_path / "copy" / "candidates" / f"{name}.cif"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match="no such file" if content is None else "cannot be read"):
        loaded.structures[name]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "simulated.tif").unlink(), "no such file"),
        (lambda f: (f / "simulated.tif").write_bytes(b"II*"), "cannot be read"),
        (lambda f: tifffile.imwrite(f / "mask.tif", np.zeros((3, 3), np.uint8)), "shape"),
        (lambda f: (f / "columns.csv").write_text("id,x_px\n1\n"), "cannot be read"),
        (lambda f: (f / "columns.csv").unlink(), "no such file"),
        (lambda f: (f / "analysis.json").unlink(), "no such file"),
        (
            lambda f: (f / "analysis.json").write_text((f / "analysis.json").read_text().replace("posterior", "x")),
            "incomplete",
        ),
    ],
)
def test_damaged_folders_are_refused(damage, words: str, folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    damage(copy)
    with pytest.raises(InputError, match=words):
        stemfit.Analysis.load(copy)


def test_arrays_and_signals_are_images_too(loaded: stemfit.Analysis) -> None:
    image = stemfit.open(SAMPLE)
    size_A = image.pixel_size_A
    axes = SimpleNamespace(
        signal_axes=[
            SimpleNamespace(index_in_array=k, size=n, scale=size_A / 10, units="nm") for k, n in ((1, 300), (0, 280))
        ],
        navigation_axes=(),
    )
    part = image.image[:280, :300]
    signal = SimpleNamespace(
        data=part, axes_manager=axes, metadata=SimpleNamespace(General=SimpleNamespace(title="HAADF of mine"))
    )
    several = [stemfit.analyze(one, host="MoS2", pixel_size=size) for one, size in ((part, size_A), (signal, None))]
    labels = [[(d.label, round(d.probability, 6)) for d in found.defects] for found in several]
    assert labels[0] == labels[1] and labels[0]
    assert several[0].document["calibration"]["metadata_pixel_size_A"] is None
    assert several[1].document["calibration"]["metadata_pixel_size_A"] == pytest.approx(size_A)
    assert several[1].name == "HAADF of mine" and several[0].name == "array"


def test_options_are_checked_before_anything_is_read() -> None:
    wrongs = (
        {"voltage": -3.0}, {"pixel_size": 100.0}, {"host": "MoS3"}, {"pixel_size": "0.1"}, {"frame": "foo"},
        {"frame": -1}, {"device": "gpu"}, {"simulator": "foo"}, {"relaxer": "foo"}, {"roi": (5, 5, 2, 9)},
    )  # fmt: skip
    for wrong in wrongs:
        with pytest.raises(UsageError):
            stemfit.analyze("no such file.tif", **wrong)
    with pytest.raises(UsageError, match="choose in a file"):
        stemfit.analyze(np.eye(99), frame=2)
    with pytest.raises(AttributeError, match="analyse"):
        stemfit.analyse  # noqa: B018
