"""What files state of the microscope: every place and unit, what cannot be, and what of it an analysis uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
import typer.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_files import write_dm3, write_hspy, write_velox, write_zipped_zspy

import cli
from stemfit.commands import saying
from stemfit.micrograph import Micrograph, from_signal, read
from stemfit.observed import Settings
from stemfit.optics.amplitude import amplitude_A
from stemfit.optics.electron import wavelength_A
from stemfit.stated import as_stated
from stemfit.synthetic import as_micrograph

GREY = np.random.default_rng(21).integers(0, 30_000, (66, 90)).astype(np.uint16)
RING = {"inner_angle": 68.0, "outer_angle": 200.0}
TITAN = """<?xml version="1.0" encoding="utf-8"?><Metadata xmlns="http://maker/schema"><Optics>
<AccelerationVoltage>80000</AccelerationVoltage><BeamConvergence>0.025</BeamConvergence></Optics><Detectors>
<ScanningDetector><DetectorName>BF</DetectorName><CollectionAngleRange><begin>0</begin><end>0.01</end>
</CollectionAngleRange></ScanningDetector><ScanningDetector><DetectorName>HAADF</DetectorName><CollectionAngleRange>
<begin>0.068</begin><end>0.2</end></CollectionAngleRange></ScanningDetector></Detectors><BinaryResult>
<Detector>HAADF</Detector></BinaryResult></Metadata>"""


@pytest.fixture(autouse=True)
def without_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """HDF5 files are good or cut here; what is read in another process first is tested with damaged ones."""
    monkeypatch.setattr("stemfit.micrograph.rosetta.try_hdf5", lambda path: None)


def tem(**values: Any) -> dict[str, Any]:
    return {"Acquisition_instrument": {"TEM": values}}


def in_tiff(path: Path) -> None:
    content = TITAN.encode() + b"\0"
    tifffile.imwrite(path, GREY, extratags=[(34683, 2, len(content), content, True)])


FILES: dict[str, Callable[[Path], None]] = {
    "a.hspy": lambda path: write_hspy(
        path, GREY, **tem(beam_energy=80.0, convergence_angle=25.0, Detector={"HAADF": RING})
    ),
    "a.zspy": lambda path: write_zipped_zspy(
        path, GREY, **tem(beam_energy=80.0, convergence_angle=25.0, Detector={"HAADF": RING})
    ),
    "a.emd": lambda path: write_velox(
        path, {"BF": GREY, "HAADF": GREY}, rings_rad={"BF": (0.0, 0.01), "HAADF": (0.068, 0.2)},
        BeamConvergence="0.025",
    ),
    "a.dm3": lambda path: write_dm3(
        path, GREY, tags={"Microscope Info": {"Voltage": 80000.0}, "EELS": {"Experimental Conditions": {
            "Convergence semi-angle (mrad)": 25.0}}, "ADF": {"Inner angle (rad)": 0.068, "Outer angle (rad)": 0.2}},
    ),
    "a.tif": in_tiff,
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_every_format(tmp_path: Path, name: str) -> None:
    FILES[name](tmp_path / name)
    found = read(tmp_path / name)
    assert found.stated_voltage_kV == pytest.approx(80) and found.stated_convergence_mrad == pytest.approx(25)
    assert found.stated_detector_mrad == pytest.approx((68, 200)), "that of the dark field, not of the bright one"


@pytest.mark.parametrize(("unit", "per_mrad"), [("mrad", 1.0), ("rad", 1e-3), ("deg", 0.18 / np.pi)])
def test_angles_that_name_their_unit(tmp_path: Path, unit: str, per_mrad: float) -> None:
    names = {f"Inner collection angle ({unit})": 70 * per_mrad, f"Outer collection angle ({unit})": 190 * per_mrad}
    write_dm3(tmp_path / "a.dm3", GREY, tags={"Detector": names})
    assert read(tmp_path / "a.dm3").stated_detector_mrad == pytest.approx((70, 190))
    write_dm3(tmp_path / "a.dm3", GREY, tags={"Detector": {"Inner angle": 70.0, "Outer angle": 190.0}})
    assert read(tmp_path / "a.dm3").stated_detector_mrad is None, "without a unit an angle is none"


def test_a_hyperspy_signal_in_memory() -> None:
    axes = [SimpleNamespace(index_in_array=k, size=n, scale=0.02, units="nm") for k, n in enumerate(GREY.shape)]
    microscope = SimpleNamespace(beam_energy=60.0, convergence_angle=30.0)
    metadata = SimpleNamespace(General=SimpleNamespace(title="HAADF"),
                               Acquisition_instrument=SimpleNamespace(TEM=microscope))  # fmt: skip
    signal = SimpleNamespace(data=GREY, axes_manager=SimpleNamespace(navigation_axes=[], signal_axes=axes),
                             metadata=metadata)  # fmt: skip
    found = from_signal(signal)
    assert (found.stated_voltage_kV, found.stated_convergence_mrad) == (60.0, 30.0)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"beam_energy": 0.0}, "a voltage of 0 kV"),
        ({"beam_energy": 60_000.0}, "a voltage of 60000 kV"),
        ({"beam_energy": 15.0}, "a voltage of 15 kV"),
        ({"convergence_angle": 0.0}, "a convergence of 0 mrad"),
        ({"convergence_angle": -25.0}, "a convergence of -25 mrad"),
        ({"convergence_angle": 900.0}, "a convergence of 900 mrad"),
        ({"Detector": {"ADF": {"inner_angle": 200.0, "outer_angle": 60.0}}}, "a detector of 200 to 60 mrad"),
        ({"Detector": {"ADF": {"inner_angle": 0.0, "outer_angle": 0.0}}}, "a detector of 0 to 0 mrad"),
        ({"Detector": {"ADF": {"inner_angle": 60.0, "outer_angle": 600.0}}}, "a detector of 60 to 600 mrad"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_once_and_left_out(tmp_path: Path, values: dict[str, Any], words: str) -> None:
    write_hspy(tmp_path / "a.hspy", GREY, **tem(**values))
    found = read(tmp_path / "a.hspy")
    assert (found.stated_voltage_kV, found.stated_convergence_mrad, found.stated_detector_mrad) == (None, None, None)
    assert found.warnings == (f"the file states {words}, which cannot be: not used",)


def test_what_is_no_number_is_not_stated(tmp_path: Path) -> None:
    write_hspy(tmp_path / "a.hspy", GREY, **tem(beam_energy="", convergence_angle="unknown", Detector={"ADF": "in"}))
    found = read(tmp_path / "a.hspy")
    assert (found.stated_voltage_kV, found.stated_convergence_mrad, found.warnings) == (None, None, ())


# -- what is used --------------------------------------------------------------------------------------------------


def stating(voltage: float | None = None, convergence: float | None = None, detector: Any = None) -> Micrograph:
    return replace(
        as_micrograph(np.eye(70), None), stated_voltage_kV=voltage, stated_convergence_mrad=convergence,
        stated_detector_mrad=detector,
    )  # fmt: skip


def test_all_that_is_stated_is_used_and_said() -> None:
    used, said = as_stated(Settings(), stating(80.0, 25.0, (68.0, 200.0)))
    assert (used.voltage_kV, used.convergence_mrad, used.detector_mrad) == (80.0, 25.0, (68.0, 200.0))
    assert used.from_file == ("voltage_kV", "convergence_mrad", "detector_mrad")
    assert said == (
        "the voltage, 80 kV, the convergence, 25 mrad and the detector, 68 to 200 mrad, are what the file states; "
        "--voltage, --convergence and --detector for others",
    )


def test_what_the_user_types_wins() -> None:
    asked = Settings(voltage_kV=60.0, convergence_mrad=32.0, detector_mrad=(50.0, 180.0))
    assert as_stated(asked, stating(80.0, 25.0, (68.0, 200.0))) == (asked, ())
    used, said = as_stated(Settings(detector_mrad=(50.0, 180.0)), stating(80.0, 25.0, (68.0, 200.0)))
    assert (used.convergence_mrad, used.detector_mrad) == (25.0, (50.0, 180.0)) and "detector" not in said[0]
    assert used.from_file == ("voltage_kV", "convergence_mrad")


@pytest.mark.parametrize(
    ("asked", "stated", "left", "words"),
    [
        ({}, (30.0, None, None), {}, "voltage 30 kV is outside 40 to 300 kV"),
        ({}, (None, 1.046, None), {}, "convergence 1.046 mrad is outside 20 to 40 mrad"),
        ({}, (None, None, (25.0, 200.0)), {}, "25 to 200 mrad begins inside the bright field of 30 mrad"),
        ({}, (None, 38.0, (35.0, 200.0)), {"convergence_mrad": 38.0}, "inside the bright field of 38 mrad"),
        ({}, (None, 45.0, (42.0, 200.0)), {}, "inside the bright field of 45 mrad"),
        ({"convergence_mrad": 36.0}, (None, 20.0, (35.0, 200.0)), {}, "inside the bright field of 36 mrad"),
        ({"detector_mrad": (28.0, 90.0)}, (None, 30.0, None), {}, "reaches into the detector, 28 to 90 mrad"),
        ({}, (None, None, (150.0, 300.0)), {}, "detector 150 to 300 mrad is not an annulus within 20 to 220"),
    ],
)  # fmt: skip
def test_what_no_dark_field_can_have_is_left_out(
    asked: dict[str, Any], stated: tuple[Any, ...], left: dict[str, Any], words: str
) -> None:
    used, said = as_stated(Settings(**asked), stating(*stated))
    assert used == Settings(**asked, **left, from_file=tuple(left))
    assert said[-1].startswith("not used of what the file states: ") and words in said[-1]


@settings(deadline=None, max_examples=200)
@given(
    kV=st.none() | st.floats(20, 1500), mrad=st.none() | st.floats(0.01, 500),
    ring=st.none() | st.tuples(st.floats(0.01, 500), st.floats(0.01, 500)).filter(lambda r: r[0] < r[1]),
)  # fmt: skip
def test_whatever_a_file_states_columns_have_a_brightness(
    kV: float | None, mrad: float | None, ring: tuple[float, float] | None
) -> None:
    """The table refuses what it does not know with a word about options, which nobody has given here."""
    from stemfit.optics.scattering import kernel

    used, said = as_stated(Settings(), stating(kV, mrad, ring))
    assert kernel("Mo", used.voltage_kV, used.convergence_mrad, used.detector_mrad).amplitude_A2 > 0
    assert used.detector_mrad is None or used.detector_mrad[0] >= (used.convergence_mrad or 30.0)
    assert bool(said) == any(stated is not None for stated in (kV, mrad, ring))


def light(element: str, kV: float, ring_mrad: tuple[float, float]) -> float:
    """Of one atom, by its partial waves: none of it from the table."""
    inner, outer = (1e-3 * angle / wavelength_A(kV) for angle in ring_mrad)
    g, wave = amplitude_A(element, kV, 1.01 * outer)
    at = np.linspace(inner, outer, 1500)
    return float(np.trapezoid(np.interp(at, g, np.abs(wave) ** 2) * at, at))


@pytest.mark.parametrize("kV", [60.0, 200.0])
def test_a_detector_beyond_the_table_is_cut_back_where_that_costs_little(kV: float) -> None:
    used, said = as_stated(Settings(), stating(None, None, (110.0, 300.0)))
    assert used.detector_mrad == (110.0, 220.0) and "from 220 to 300 mrad is outside the table" in said[-1]
    for element in ("W", "S", "Se", "N"):
        whole, cut = (light(element, kV, (110.0, end)) / light("Mo", kV, (110.0, end)) for end in (300.0, 220.0))
        assert abs(cut / whole - 1) < 0.025
    far = [light("S", kV, (150.0, end)) / light("Mo", kV, (150.0, end)) for end in (500.0, 160.0)]
    assert abs(far[1] / far[0] - 1) > 0.025, "further out, or with less of the ring, it would not do"


# -- on the command line -------------------------------------------------------------------------------------------


def test_multislice_looks_at_the_file_before_it_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Settings] = []

    def analyze(micrograph: Any, settings: Settings, relaxer: Any, **options: Any) -> Any:
        asked.append(settings)
        raise MemoryError

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("stemfit.pipeline.analyze", analyze)
    run = typer.testing.CliRunner().invoke
    write_velox(Path("a.emd"), {"HAADF": GREY}, BeamConvergence="0.025")
    command = ["analyze", "a.emd", "--relaxer", "keep", "--simulator", "multislice"]
    done = run(cli.app, command)
    assert done.exit_code == 2 and not asked
    assert "neither you nor the file states detector; state --detector" in done.stderr
    assert run(cli.app, [*command, "--detector", "60,200"]).exit_code == 4 and len(asked) == 1
    write_velox(Path("a.emd"), {"HAADF": GREY}, rings_rad={"HAADF": (0.06, 0.2)}, BeamConvergence="0.025")
    assert run(cli.app, command).exit_code == 4 and len(asked) == 2


def test_the_summary_says_who_states_it() -> None:
    settings = {"voltage_kV": 80.0, "convergence_mrad": None, "detector_mrad": [60, 200], "from_file": ["voltage_kV"]}
    assert saying._microscope(settings) == {"microscope": "80 kV (the file), detector 60 to 200 mrad"}
    of_file = {**settings, "from_file": ["voltage_kV", "detector_mrad"]}
    assert saying._microscope(of_file) == {"microscope": "80 kV, detector 60 to 200 mrad; the file says so"}
    assert saying._microscope({**settings, "from_file": []}) == {"microscope": "80 kV, detector 60 to 200 mrad"}
    assert saying._microscope({"voltage_kV": None}) == {}
