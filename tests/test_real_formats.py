"""Files that microscopes wrote, where they are at hand (set STEMFIT_REAL_IMAGES to their folder)."""

from __future__ import annotations

from pathlib import Path

import pytest

from stemfit.errors import NotAnalysable
from stemfit.micrograph import from_array, read

READ = {
    "abf_inverted_contrast.hspy": ((512, 512), None, None, None),  # a scale without a unit; no word of the detector
    "cdte_haadf_calibrated.dm3": ((512, 512), 0.1638835, "HAADF", 200.0),
    "oxide_no_unit.dm3": ((512, 512), None, "06-SI Survey Image", 200.0),
    "particles_velox_um.emd": ((512, 512), None, "HAADF", 200.0),
    "rgb_8bit.tif": ((1024, 1024), None, None, None),  # three equal channels
    "tia_single.ser": ((128, 128), None, None, None),
}
"""Shape, pixel size in Angstrom, signal and voltage."""

REFUSED = {
    "decimal_comma.dm3": "16 x 4 px is too small",
    "tia_stack.ser": "a stack of 5 images; choose one with --frame 0 to 4",
    "velox_multisignal_complex.emd": "9 signals: B-D, DPC, iDPC, .* none is called a dark field; choose one",
}


@pytest.mark.parametrize("name", READ)
def test_read(real_images: Path, name: str) -> None:
    shape, pixel_size_A, signal, voltage_kV = READ[name]
    result = read(real_images / "formats" / name)
    assert result.image.shape == shape and (result.signal, result.stated_voltage_kV) == (signal, voltage_kV)
    assert result.pixel_size_A == (pixel_size_A and pytest.approx(pixel_size_A, rel=1e-6))


@pytest.mark.parametrize(
    ("name", "said"), [("particles_velox_um.emd", "53.02 A a pixel (Velox)"), ("tia_single.ser", "52.61 A a pixel (TI")]
)
def test_pixels_that_show_no_atoms(real_images: Path, name: str, said: str) -> None:
    """5.3024 nm, which the file states in micrometres."""
    assert said in read(real_images / "formats" / name).warnings[0]


@pytest.mark.parametrize("name", REFUSED)
def test_refused(real_images: Path, name: str) -> None:
    with pytest.raises(NotAnalysable, match=REFUSED[name]):
        read(real_images / "formats" / name)


def test_pixels_are_those_of_hyperspys_own_reader(real_images: Path) -> None:
    """Not lazily, and without any of our code between."""
    from rsciio.digitalmicrograph import file_reader

    path = real_images / "formats/cdte_haadf_calibrated.dm3"
    assert (read(path).image == from_array(file_reader(str(path))[0]["data"]).image).all()


def test_frames_of_a_stack(real_images: Path) -> None:
    path = real_images / "formats/tia_stack.ser"
    frames = [read(path, frame=k) for k in range(5)]
    assert all("3.844 A a pixel (TIA)" in frame.warnings[0] for frame in frames)
    mean = sum(frame.image for frame in frames) / 5
    assert read(path, frame="mean").image == pytest.approx(mean)


@pytest.mark.parametrize(("signal", "words"), [("DPC", "phase"), ("2", "phase"), ("DF4-A", "2 x 2 px")])
def test_signals_of_a_velox_file(real_images: Path, signal: str, words: str) -> None:
    with pytest.raises(NotAnalysable, match=words):
        read(real_images / "formats/velox_multisignal_complex.emd", signal=signal)
