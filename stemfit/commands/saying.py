"""What `analyze` and `match` print alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stemfit.wording import sure

MAX_ROWS = 30
"""Defects that the summary lists: about a screen; the files hold all."""

def facts(document: dict[str, Any]) -> dict[str, str]:
    """Image, crystal and scale, one line each."""
    host, scale, lattice, match = (document[key] for key in ("host", "calibration", "lattice", "match"))
    height, width = document["input"]["shape_px"]
    others = "".join(f", {other['name']} {sure(other['probability'])}" for other in host["alternatives"][:2])
    probability = "as stated" if host["source"] == "user" else f"inferred, P {sure(host['probability'])}{others}"
    stated = scale["metadata_pixel_size_A"]
    length = [(x**2 + y**2) ** 0.5 for x, y in (lattice["a_px"], lattice["b_px"])]
    return {
        "image": f"{document['input']['path']}, {width} x {height} px",
        "host": f"{host['name']} ({probability})",
        **_microscope(document["settings"]),
        "pixel size": f"{scale['pixel_size_A']:.5f} +- {scale['pixel_size_sigma_A']:.1g} A from the {scale['source']}"
        + (f"; the file says {stated:.5f}" if stated else ""),
        "lattice": f"|a| = {length[0]:.3f} px, |b| = {length[1]:.3f} px, turned by {lattice['rotation_deg']:.2f} deg, "
        f"anisotropy {lattice['anisotropy']:.3f}",
        "columns": f"{lattice['residual_rms_pm']:.1f} pm rms about their sites, "
        f"{100 * lattice['masked_fraction']:.1f} % of the area masked",
        "match": f"NCC {number(match['ncc'], '.4f')}, reduced chi2 {number(match['reduced_chi2'], '.2f')}",
        "defects": f"{len(document['defects'])} claimed, {len(document['suspects'])} suspected",
    }


def _microscope(settings: dict[str, Any]) -> dict[str, str]:
    """Voltage, convergence and detector, as far as they are known, and which of them the file states."""
    forms = {"voltage_kV": "{:.4g} kV", "convergence_mrad": "convergence {:.4g} mrad",
             "detector_mrad": "detector {:.4g} to {:.4g} mrad"}  # fmt: skip
    known = {name: settings[name] for name in forms if settings.get(name) is not None}
    words = {name: forms[name].format(*(v if isinstance(v, list | tuple) else [v])) for name, v in known.items()}
    of_file = set(settings.get("from_file", ()))
    if not known or not of_file:
        return {"microscope": ", ".join(words.values())} if known else {}
    if set(known) == of_file:
        return {"microscope": f"{', '.join(words.values())}; the file says so"}
    return {"microscope": ", ".join(text + " (the file)" * (name in of_file) for name, text in words.items())}


def number(value: float | None, form: str) -> str:
    """A number that may be unknown."""
    return "-" if value is None else format(value, form)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of equal length as lines with aligned columns."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
