"""What the reading decides reaches the result: signal, frame, voltage and the words about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.testing
from recorded_files import write_velox

import cli
from stemfit.observed import Settings
from stemfit.stated import as_stated
from stemfit.synthetic import as_micrograph, crystal

PIXEL_A = 0.2


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Result of a Velox file with the stacks of two detectors."""
    folder = tmp_path_factory.mktemp("velox")
    image = crystal((170, 190), pixel_size_A=PIXEL_A, rotation_deg=14.0, half_share=0.4, seed=2).image
    rng = np.random.default_rng(3)
    frames = np.stack([np.roll(image, k, axis=1) + rng.normal(0, 0.05 * image.max(), image.shape) for k in range(3)])
    write_velox(folder / "run.emd", {"BF": -frames, "HAADF": frames.astype(np.float32)}, metres=1e-10 * PIXEL_A)
    arguments = ["analyze", str(folder / "run.emd"), "--frame", "aligned", "--host", "MoS2", "--relaxer", "keep",
                 "--out", str(folder / "result"), "--json"]  # fmt: skip
    done = typer.testing.CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert (done.exit_code, done.stderr) == (0, "")
    return dict(json.loads(Path(folder / "result/analysis.json").read_text()))


def test_input_says_what_was_taken(document: dict[str, Any]) -> None:
    taken = document["input"]
    assert (taken["signal"], taken["frame"], taken["dtype"]) == ("HAADF", "aligned", "float64")
    assert 170 >= taken["shape_px"][0] >= 166 and 188 >= taken["shape_px"][1] >= 183


def test_warnings_say_it_in_words(document: dict[str, Any]) -> None:
    signals, frames, voltage = document["warnings"][:3]
    assert signals == "2 signals: BF, HAADF; HAADF taken; --signal NAME for another"
    assert "3 frames that were shifted onto each other: they drifted by up to 2.0 px" in frames
    assert voltage == "the voltage, 80 kV, is what the file states; --voltage for another"


def test_the_stated_voltage_is_used(document: dict[str, Any]) -> None:
    assert document["settings"]["voltage_kV"] == 80
    assert document["calibration"]["metadata_pixel_size_A"] == pytest.approx(PIXEL_A)


def test_the_users_voltage_wins() -> None:
    micrograph = as_micrograph(np.eye(70), None)
    assert as_stated(Settings(), micrograph) == (Settings(), ())
    stated = type(micrograph)(**{**vars(micrograph), "stated_voltage_kV": 80.0, "warnings": ("w",)})
    assert as_stated(Settings(voltage_kV=60.0), stated) == (Settings(voltage_kV=60.0), ("w",))
    used, said = as_stated(Settings(), stated)
    assert used.voltage_kV == 80 and said[0] == "w" and "80 kV" in said[1]
