"""What `import stemfit` offers beside `stemfit.Analysis`: `stemfit.open`, `stemfit.analyze`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stemfit import micrograph
from stemfit.commands import asking
from stemfit.crystal_file import asked_host
from stemfit.errors import UsageError, after_reading
from stemfit.mask_file import read_mask
from stemfit.micrograph import Frame, Micrograph

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from stemfit.analysis import Analysis

__all__ = ["analyze", "open"]


def open(
    path: str | Path, *, frame: Frame | None = None, signal: str | int | None = None, pixel_size: float | None = None
) -> Micrograph:
    """Read an image and its scale.

    Parameters
    ----------
    path : path
        TIFF, PNG, dm3, dm4, emd, ser, emi, mrc, hspy or zspy.
    frame : int, "mean" or "aligned", optional
        Which image of a stack, from 0, or how all of them become one.
    signal : str or int, optional
        Name or number of a signal in a file with several; the annular dark field without.
    pixel_size : float, optional
        Angstrom; wins over what the file states.

    Raises
    ------
    InputError, NotAnalysable, UsageError
        The file is missing or damaged; holds no single grey image; an option is out of range.
    """
    size = asking.pixel_size("pixel_size", pixel_size)
    if not (frame is None or frame in ("mean", "aligned") or (isinstance(frame, int) and frame >= 0)):
        raise UsageError(f"frame {frame!r} is none", remedy='give a number from 0, "mean" or "aligned"')
    name = None if signal is None else str(signal)
    return micrograph.read(path, frame=frame, signal=name, pixel_size_A=size)


def _known(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{name} {value!r} is not known", remedy=f"choose {', '.join(choices)}")


def analyze(
    image: str | Path | Micrograph | ArrayLike | Any,
    *,
    host: str = "auto",
    pixel_size: float | None = None,
    voltage: float | None = None,
    convergence: float | None = None,
    detector: tuple[float, float] | None = None,
    roi: tuple[int, int, int, int] | None = None,
    mask: str | Path | None = None,
    frame: Frame | None = None,
    signal: str | int | None = None,
    relaxer: Literal["definet", "teacher", "keep"] = "definet",
    checkpoint: str | Path | None = None,
    simulator: Literal["fast", "multislice"] = "fast",
    temperature: float | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    out: str | Path | None = None,
    progress: Callable[[str], None] = lambda stage: None,
) -> Analysis:
    """Find the defects of one image and the structures behind them: `stemfit analyze` as a function.

    Parameters
    ----------
    image : path, Micrograph, (H, W) array or HyperSpy signal
    host : str
        "auto", the name of a crystal, or the path of a CIF.
    pixel_size : float, optional
        Angstrom; wins over the lattice.
    voltage, convergence : float, optional
        kV and mrad; what the file states without, where that can be.
    detector : (inner, outer), optional
        mrad; likewise.
    roi : (x0, y0, x1, y1), optional
        px; x1, y1 exclusive.
    mask : path, optional
        Image whose non-zero pixels are not analysed.
    frame, signal : optional
        As for `open`; for paths, `frame` also for HyperSpy signals.
    relaxer, checkpoint, simulator, device : optional
        As the options of the command.
    temperature : float, optional
        Kelvin, at which relaxation energies weigh structures of one name.
    out : path, optional
        Folder to write, with overlay and report; without, nothing stays on disk.
    progress : callable, optional
        Called with the name of each stage as it begins.

    Raises
    ------
    StemfitError
        As the command ends: `UsageError`, `InputError`, `NotAnalysable`, `OutputError`; models raise `DefinetError`.
    """
    # Everything that can fail early does so before the slow imports.
    asked_host(host)
    _known("relaxer", relaxer, ("definet", "teacher", "keep"))
    _known("simulator", simulator, ("fast", "multislice"))
    _known("device", device, ("auto", "cpu", "cuda"))
    roi = None if roi is None else asking.rectangle("roi", ",".join(map(str, roi)))
    voltage, convergence = asking.positive("voltage", voltage), asking.positive("convergence", convergence)
    asking.check_microscope(voltage, convergence, detector)
    pixel_size = asking.pixel_size("pixel_size", pixel_size)
    recorded = _recorded(image, frame, signal, pixel_size)
    if mask is not None:
        read_mask(Path(mask), recorded.image.shape)
    if simulator == "multislice":
        asking.check_multislice(recorded, voltage, convergence, detector)
    from stemfit import result

    if out is not None:
        result.check_place(Path(out), recorded.sha256)
    progress("loading")
    from stemfit import pages, pipeline, relax
    from stemfit.analysis import Analysis

    settings = pipeline.Settings(
        host=host, pixel_size_A=pixel_size, voltage_kV=voltage, convergence_mrad=convergence, detector_mrad=detector,
        roi=roi, mask=None if mask is None else str(mask), device=device,
        temperature_K=asking.positive("temperature", temperature), simulator=simulator,
    )  # fmt: skip
    relaxing = relax.relaxer(relaxer, device, None if checkpoint is None else Path(checkpoint))
    with after_reading(recorded.warnings):
        findings = pipeline.analyze(recorded, settings, relaxing, progress=progress)
    progress("writing")
    more = {"relaxer": relaxer, "checkpoint": checkpoint and str(checkpoint), "frame": frame, "signal": signal}
    findings = replace(findings, settings={**findings.settings, **more})
    if out is not None:
        return Analysis.load(result.write(findings, Path(out), extras=pages.draw), image=recorded.image)
    place = Path(tempfile.mkdtemp(prefix="stemfit-"))
    return Analysis.load(result.write(findings, place / "result"), image=recorded.image, temporary=place)


def _recorded(image: Any, frame: Frame | None, signal: str | int | None, pixel_size_A: float | None) -> Micrograph:
    """The image, from wherever it is."""
    if isinstance(image, str | Path):
        return open(image, frame=frame, signal=signal, pixel_size=pixel_size_A)
    if signal is not None or (frame is not None and not hasattr(image, "axes_manager")):
        raise UsageError("frame and signal choose in a file", remedy="give the one image that is meant")
    if hasattr(image, "axes_manager"):
        return micrograph.from_signal(image, pixel_size_A, frame)
    if not isinstance(image, Micrograph):
        return micrograph.from_array(image, pixel_size_A)
    if pixel_size_A is None:
        return image
    return replace(image, pixel_size_A=pixel_size_A, pixel_size_source="user")
