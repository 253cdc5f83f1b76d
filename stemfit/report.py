"""One self-contained page about one image: everything that the result says, warnings first.

No script, no external resource; every text that comes from outside (file names, settings, reasons) is escaped.
"""

from __future__ import annotations

import math
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

import stemfit
from stemfit.defects import Defect, names_in
from stemfit.result.findings import Findings
from stemfit.wording import log_bayes

Cells = Sequence[str]
"""Cells of one row, ready-made HTML."""

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.45 system-ui, sans-serif; color: #1b1f24; max-width: 1080px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; margin-bottom: .1em; overflow-wrap: anywhere; }
h2 { font-size: 1.1em; margin-top: 2em; border-bottom: 1px solid #c8cdd6; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block; overflow-x: auto; }
th, td { text-align: left; padding: .2em .9em .2em 0; vertical-align: top; border-bottom: 1px solid #e6e8ec; }
th { font-weight: 600; white-space: nowrap; }
td.n, th.n { text-align: right; white-space: nowrap; }
img { width: 100%; max-width: 720px; display: block; }
.warnings { background: #fff4d6; border-left: 4px solid #e69f00; padding: .6em 1em; margin: 1em 0; }
.warnings ul { margin: .2em 0; padding-left: 1.2em; }
.quiet { color: #5b6470; }
sub sub { font-size: .85em; }
"""


def html(analysis: Findings, overlay_png: bytes) -> str:
    """Page about one analysis.

    Parameters
    ----------
    analysis : Findings
    overlay_png : bytes
        The overlay as a PNG file; it becomes part of the page.

    Returns
    -------
    str
        HTML5, UTF-8.
    """
    title = f"{analysis.micrograph.path.name}: {analysis.host.host.name}"
    sections = [
        f"<h1>{escape(analysis.micrograph.path.name)}</h1><p>{_summary(analysis)}</p>",
        _warnings(analysis.warnings),
        _overlay(overlay_png),
        _section("Structures looked for", _matches(analysis)) if analysis.matches else "",
        _section("Scale and lattice", _pairs(_lattice(analysis))),
        _section("Host", _host(analysis)),
        _section("Defects", _defects(analysis.defects, "No defect is more probable than the pristine crystal.")),
        _section("Suspected, not claimed", _defects(analysis.suspects, "None.")),
        _section("Candidate structures", _candidates(analysis)),
        _section("Not analysed", _regions(analysis)),
        _section("Imaging conditions, as fitted", _pairs(_imaging(analysis)) + _amplitudes(analysis)),
        _section("Settings", _pairs(_plain(analysis.settings))),
        _section("Software", _pairs({"stemfit": escape(stemfit.__version__), **_plain(analysis.environment)})),
        _section("Time", _pairs({escape(stage): f"{seconds:.2f} s" for stage, seconds in analysis.timings_s.items()})),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; style-src '
        '\'unsafe-inline\'"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(section for section in sections if section)
        + "\n</body></html>\n"
    )


# -- sections ------------------------------------------------------------------------------------------------------


def _summary(analysis: Findings) -> str:
    height, width = analysis.micrograph.image.shape
    pixel_A = analysis.calibration.pixel_size_A
    share = float(np.mean(analysis.region_map == 0))
    return (
        f"<b>{escape(analysis.host.host.name)}</b> ({escape(analysis.host.source)}, probability "
        f"{_probability(analysis.host.probability)}), {_count(len(analysis.columns), 'column')}, "
        f"<b>{_count(len(analysis.defects), 'defect')}</b>, {len(analysis.suspects)} suspected; field "
        f"{width * pixel_A / 10:.2f} × {height * pixel_A / 10:.2f} nm, {100 * share:.0f} % of it analysed."
    )


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    items = "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
    return f'<div class="warnings" role="alert"><b>{_count(len(warnings), "warning")}</b><ul>{items}</ul></div>'


def _overlay(png: bytes) -> str:
    data = b64encode(png).decode("ascii")
    return f'<img alt="Overlay: columns, unit cell and defects on the image" src="data:image/png;base64,{data}">'


def _constants(analysis: Findings) -> str:
    """What the scale rests on."""
    lattice, host = analysis.lattice, analysis.host.host
    if host.honeycomb:
        return f"{lattice.a_px_iso:.3f} px, taken as {host.a_A:.3f} Å"
    area_px = abs(float(np.linalg.det(np.stack([lattice.a_px, lattice.b_px]))))
    (ax, ay), (bx, by) = host.cell.plane
    a, b = np.hypot(ax, ay), np.hypot(bx, by)
    return f"a = {a:.3f} Å, b = {b:.3f} Å: a cell of {host.cell.area:.3f} Å² covers {area_px:.2f} px²"


def _lattice(analysis: Findings) -> dict[str, str]:
    calibration, lattice = analysis.calibration, analysis.lattice
    stated = calibration.metadata_pixel_size_A
    return {
        "pixel size": f"{calibration.pixel_size_A:.5f} ± {calibration.pixel_size_sigma_A:.5f} Å, from the "
        + escape(calibration.source),
        "pixel size in the file": "not stated" if stated is None else f"{stated:.5f} Å",
        "lattice constant": _constants(analysis),
        "a, b": f"({_vector(lattice.a_px)}), ({_vector(lattice.b_px)}) px",
        "rotation": f"{lattice.rotation_deg:.2f}°, a above +x",
        "anisotropy": f"{lattice.anisotropy:.4f}",
        "columns about their sites": f"{lattice.residual_rms_px * calibration.pixel_size_A * 100:.1f} pm rms per axis",
        "image": f"{analysis.micrograph.image.shape[1]} × {analysis.micrograph.image.shape[0]} px, "
        + escape(analysis.micrograph.dtype),
        "file": escape(str(analysis.micrograph.path)),
        "SHA-256": f"<code>{escape(analysis.micrograph.sha256)}</code>",
    }


def _host(analysis: Findings) -> str:
    call = analysis.host
    rows = [(call.host.name, call.probability), *call.alternatives]
    return _table(("host", "probability"), [(escape(name), _probability(p)) for name, p in rows], numeric=(1,))


def _defects(defects: Sequence[Defect], none: str) -> str:
    if not defects:
        return f'<p class="quiet">{escape(none)}</p>'
    head = ("id", "type", "label", "P", "x, y (px)", "ln Bayes factor", "what else it may be", "best candidate")
    return _table(head, [_defect(defect) for defect in defects], numeric=(0, 3, 4, 5))


def _defect(defect: Defect) -> Cells:
    others = ", ".join(
        f"{_label(label)} {_probability(p)}" for label, p in sorted(defect.alternatives, key=lambda item: -item[1])
    )
    return (
        str(defect.id),
        escape(defect.type),
        f"<b>{_label(defect.label)}</b>",
        _probability(defect.probability),
        _vector(defect.center_px, 1),
        escape(log_bayes(defect.log_bayes_factor)),
        others,
        escape(defect.best_candidate or "–"),
    )


def _matches(analysis: Findings) -> str:
    """Every structure of the user's own at every place where it may be."""
    head = (
        "structure", "label", "candidate", "found", "P", "x, y (px)", "turned", "ln Bayes factor", "perfect crystal",
        "none of these", "other structures", "tie with",
    )  # fmt: skip
    rows = [
        (
            escape(match.structure), _label(match.label), escape(match.candidate), "yes" if match.found else "no",
            _probability(match.probability), _vector(match.center_px, 1),
            f"{round(match.turn_deg, 1) % 360:.1f}°{', turned over' if match.turned_over else ''}",
            escape(log_bayes(match.log_bayes_factor)), _probability(match.pristine), _probability(match.unknown),
            _probability(match.other), escape(", ".join(match.ties)),
        )
        for match in analysis.matches
    ]  # fmt: skip
    note = (
        '<p class="quiet">"Turned": direction of the x axis of the file, counter-clockwise from the image\'s. '
        "Probabilities are among what was compared at one place.</p>"
    )
    return _table(head, rows, numeric=(4, 6, 7, 8, 9, 10)) + note


def _candidates(analysis: Findings) -> str:
    if not analysis.candidates:
        return '<p class="quiet">None was needed.</p>'
    head = (
        "candidate", "label", "posterior", "in 95 % set", "ln likelihood", "NCC", "SSIM", "χ²/n", "ln gain by relaxing",
        "largest shift (Å)", "relaxed by", "tie with",
    )  # fmt: skip
    together = zip(analysis.candidates, analysis.relaxed, analysis.scores, strict=True)
    rows = [
        (
            escape(candidate.id),
            _label(candidate.label),
            _probability(score.posterior),
            "yes" if score.in_95_set else "",
            _number(score.log_likelihood, 1),
            _number(score.ncc, 4),
            _number(score.ssim, 3),
            _number(score.reduced_chi2, 2),
            _number(score.evidence_relaxed_minus_unrelaxed, 1),
            _number(score.max_displacement_A, 3),
            escape(relaxed.relaxer),
            escape(", ".join(score.tie_with)),
        )
        for candidate, relaxed, score in together
    ]
    note = (
        '<p class="quiet">A tie is a candidate that this image cannot tell from this one. Top and bottom atoms of a '
        "column look the same from above.</p>"
    )
    return _table(head, rows, numeric=range(2, 10)) + note


def _regions(analysis: Findings) -> str:
    if not analysis.regions:
        return '<p class="quiet">Everything was analysed.</p>'
    rows = [
        (
            str(k),
            escape(region.kind),
            f"{100 * np.mean(analysis.region_map == k):.1f} %",
            escape(region.reason),
            "" if region.orientation_deg is None else f"{region.orientation_deg:.1f}°",
        )
        for k, region in enumerate(analysis.regions, start=1)
    ]
    return _table(("region", "kind", "share", "reason", "orientation"), rows, numeric=(0, 2))


def _imaging(analysis: Findings) -> dict[str, str]:
    imaging, pixel_A = analysis.imaging, analysis.calibration.pixel_size_A
    profile, noise = imaging.profile, imaging.noise
    wide, narrow = np.sqrt(np.linalg.eigvalsh(profile.core_cov_px2)[::-1]) * pixel_A
    return {
        "column width": f"{profile.width_px * pixel_A:.3f} Å standard deviation ({wide:.3f} by {narrow:.3f})",
        "tail": f"{100 * profile.tail_fraction:.1f} % with {profile.tail_sigma_px * pixel_A:.2f} Å",
        "noise": f"{_number(noise.gain)} per electron, read noise {_number(noise.read_sigma)}, shared by "
        f"{noise.pixels_per_sample:.2f} px",
        "background": f"{_number(float(np.mean(imaging.background)))} ± {_number(float(np.std(imaging.background)))}",
    }


def _amplitudes(analysis: Findings) -> str:
    rows = [
        (escape(column), _number(a.value), _number(a.sigma), "this image" if a.source == "image" else escape(a.source))
        for column, a in analysis.imaging.amplitudes.items()
    ]
    head = ("column", "brightness (image units × px²)", "standard error", "known from")
    return _table(head, rows, numeric=(1, 2)) if rows else ""


# -- building blocks -----------------------------------------------------------------------------------------------


def _section(title: str, content: str) -> str:
    return f"<h2>{escape(title)}</h2>\n{content}"


def _pairs(pairs: Mapping[str, str]) -> str:
    """Two columns: names are plain text of ours or escaped, values ready-made."""
    rows = "".join(f'<tr><th scope="row">{name}</th><td>{value}</td></tr>' for name, value in pairs.items())
    return f"<table>{rows}</table>"


def _table(head: Sequence[str], rows: Iterable[Cells], numeric: Iterable[int] = ()) -> str:
    right = [' class="n"' if k in set(numeric) else "" for k in range(len(head))]
    top = "".join(f'<th scope="col"{kind}>{escape(name)}</th>' for name, kind in zip(head, right, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(row, right, strict=True)) + "</tr>\n"
        for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>\n{body}</tbody></table>"


def _plain(values: Mapping[str, Any]) -> dict[str, str]:
    return {escape(str(name)): "–" if value is None else escape(str(value)) for name, value in values.items()}


def _label(label: str) -> str:
    """V_S2 as the field writes it; anything else as it is."""
    if "+" in label:
        return ", ".join(_label(name) if n == 1 else f"{n} {_label(name)}" for name, n in names_in(label).items())
    if not re.fullmatch(r"[A-Za-z0-9]+_[A-Za-z0-9]+", label):
        return escape(label)
    there, belongs = (re.sub(r"(\d+)", r"<sub>\1</sub>", part) for part in label.split("_"))
    return f"{f'({there})' if '<' in there else there}<sub>{belongs}</sub>"


def _probability(value: float) -> str:
    """Two decimals, never a certainty."""
    if value > 0.99:
        return "&gt;0.99"
    return "&lt;0.01" if value < 0.01 else f"{value:.2f}"


def _number(value: float, decimals: int | None = None) -> str:
    """Fixed decimals, or four digits; a dash for what is not a number."""
    if not math.isfinite(value):
        return "–"
    return f"{value:.4g}" if decimals is None else f"{value:.{decimals}f}"


def _vector(values: Iterable[float], decimals: int = 3) -> str:
    return ", ".join(f"{value:.{decimals}f}" for value in values)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
