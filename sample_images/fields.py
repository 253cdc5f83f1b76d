"""The sample fields: which crystal, which defects where, which microscope, which troubles."""

from __future__ import annotations

from dataclasses import dataclass, field

from stemfit.simulate.multislice import Optics
from stemfit.synthetic import Acquisition

MARGIN = 14
SIZE = 512


@dataclass(frozen=True)
class Placed:
    """A defect by label, anchored at a cell counted from the field's origin; `direction` in steps of 60 degrees."""

    label: str
    i: int
    j: int
    layer: str = "top"
    direction: int = 0


@dataclass(frozen=True)
class Field:
    """One square image of `size` pixels a side.

    `stated_scale` is what the file says per true pixel size (None: the file says nothing), `displaced` by how much
    atoms next to a defect move more than the potential says.
    """

    name: str
    host: str
    defects: tuple[Placed, ...]
    polarity: int
    rotation_deg: float
    optics: Optics
    acquisition: Acquisition
    seed: int
    pixel_A: float = 0.108
    source_fwhm_A: float = 0.8
    stated_scale: float | None = 1.0
    origin_A: tuple[float, float] = field(default=(0.4, -0.7))
    size: int = SIZE
    displaced: float = 1.0


FIELDS = (
    Field(
        "mos2_sv",
        "MoS2",
        (
            Placed("V_S", -5, 5, "top"),
            Placed("V_S", 1, 4, "bottom"),
            Placed("V_S", 5, 0, "top"),
            Placed("V_S", -2, -1, "bottom"),
            Placed("V_S", -6, 0, "top"),
            Placed("V_S", 2, -5, "top"),
            Placed("V_S", 6, -6, "bottom"),
            Placed("V_S", -1, -5, "bottom"),
            Placed("V_S", 2, 0, "top"),
        ),
        polarity=1,
        rotation_deg=13.7,
        optics=Optics(60e3, 30.0, 60.0, 200.0, {"C10": 8.0, "C12": 6.0, "phi12": 0.6}),
        acquisition=Acquisition(
            counts=110, jitter_px=0.3, drift_px=(5.2, -3.1), distortion_px=0.5, background=0.05,
            gain=150.0, offset=900.0, read_sigma=60.0, dtype="uint16", margin_px=MARGIN,
        ),
        seed=11,
    ),
    Field(
        "wse2_sv_dv",
        "WSe2",
        (
            Placed("V_Se", -5, 5, "top"),
            Placed("V_Se2", 1, 4),
            Placed("V_Se", 5, 0, "bottom"),
            Placed("V_Se2", -2, -1),
            Placed("V_Se", -6, 0, "top"),
            Placed("V_Se", 2, -5, "top"),
            Placed("V_Se2", 5, -6),
            Placed("V_Se", -1, -5, "bottom"),
            Placed("V_Se", 2, 0, "bottom"),
            Placed("V_Se2", -2, 3),
        ),
        polarity=-1,
        rotation_deg=41.3,
        optics=Optics(60e3, 30.0, 55.0, 200.0, {"C10": -6.0, "C12": 5.0, "phi12": 1.9}),
        acquisition=Acquisition(
            counts=90, jitter_px=0.4, drift_px=(-6.0, 4.0), distortion_px=0.6, background=0.08,
            gain=220.0, offset=1500.0, read_sigma=80.0, dtype="uint16", margin_px=MARGIN,
        ),
        seed=12,
        origin_A=(-0.3, 0.9),
    ),
    Field(
        "mos2_line",
        "MoS2",
        (
            Placed("SVL-5", -4, 3, "top", 0),
            Placed("DVL-8", 2, -4, "top", 1),
            Placed("V_S", -5, -1, "bottom"),
            Placed("V_S", 5, 2, "top"),
        ),
        polarity=-1,
        rotation_deg=22.9,
        optics=Optics(60e3, 31.0, 70.0, 200.0, {"C10": 5.0, "C12": 7.0, "phi12": -0.4}),
        acquisition=Acquisition(
            counts=150, jitter_px=0.25, drift_px=(3.5, 5.5), distortion_px=0.4, background=0.06,
            gain=1.0, offset=0.0, read_sigma=0.4, dtype="float32", margin_px=MARGIN,
        ),
        seed=13,
        stated_scale=1.08,
        origin_A=(0.2, 0.5),
    ),
    Field(
        "wse2_trefoil",
        "WSe2",
        (
            Placed("T1", -3, 3),
            Placed("T1", 4, -3, direction=0),
            Placed("V_Se", 3, 3, "top"),
            Placed("V_Se", -4, -3, "bottom"),
        ),
        polarity=1,
        rotation_deg=5.2,
        optics=Optics(80e3, 28.0, 60.0, 180.0, {"C10": 4.0, "C12": 5.0, "phi12": 1.1}),
        acquisition=Acquisition(
            counts=120, jitter_px=0.35, drift_px=(4.5, 2.0), distortion_px=0.5, background=0.05,
            gain=180.0, offset=1200.0, read_sigma=70.0, dtype="uint16", margin_px=MARGIN,
        ),
        seed=14,
        pixel_A=0.104,
        source_fwhm_A=0.85,
        origin_A=(0.7, 0.1),
    ),
    Field(
        "mose2_sv",
        "MoSe2",
        (
            Placed("V_Se", -5, 5, "bottom"),
            Placed("V_Se", 1, 4, "top"),
            Placed("V_Se", 5, 0, "top"),
            Placed("V_Se", -2, -1, "bottom"),
            Placed("V_Se2", -6, 0),
            Placed("V_Se", 2, -4, "bottom"),
            Placed("V_Se", -1, -5, "top"),
        ),
        polarity=-1,
        rotation_deg=33.1,
        optics=Optics(60e3, 30.0, 80.0, 200.0, {"C10": 6.0, "C12": 8.0, "phi12": 0.2}),
        acquisition=Acquisition(
            counts=70, jitter_px=0.3, drift_px=(-4.0, -5.0), distortion_px=0.7, background=0.1,
            gain=300.0, offset=2000.0, read_sigma=100.0, dtype="uint8", margin_px=MARGIN,
        ),
        seed=15,
        pixel_A=0.112,
        stated_scale=None,
        origin_A=(-0.6, -0.2),
    ),
    Field(
        "ws2_pristine",
        "WS2",
        (),
        polarity=1,
        rotation_deg=51.8,
        optics=Optics(80e3, 27.0, 50.0, 180.0, {"C10": -5.0, "C12": 4.0, "phi12": 0.9}),
        acquisition=Acquisition(
            counts=180, jitter_px=0.45, drift_px=(6.5, 3.0), distortion_px=0.5, background=0.04,
            gain=120.0, offset=800.0, read_sigma=50.0, dtype="uint16", margin_px=MARGIN,
        ),
        seed=16,
        pixel_A=0.102,
        source_fwhm_A=0.75,
        origin_A=(0.1, 0.8),
    ),
    Field(
        "hbn_pristine",
        "hBN",
        (),
        polarity=-1,
        rotation_deg=28.4,
        optics=Optics(60e3, 32.0, 50.0, 200.0, {"C10": 5.0, "C12": 5.0, "phi12": 0.5}, thermal_A=0.06),
        acquisition=Acquisition(
            counts=25, jitter_px=0.3, drift_px=(3.0, -4.0), distortion_px=0.4, background=0.1,
            gain=400.0, offset=1000.0, read_sigma=120.0, dtype="uint16", margin_px=MARGIN,
        ),
        seed=17,
        pixel_A=0.1,
        source_fwhm_A=0.7,
        origin_A=(0.3, 0.3),
    ),
)
