"""What must be said of a figure, with every number that a reader needs: the text that goes under it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stemfit.figures.atoms import BALL, TOLERANCE, unexplained
from stemfit.figures.compose import STRAINS, Scene, expanded, in_view
from stemfit.figures.panels import STRONG_RESIDUAL, score
from stemfit.figures.shades import DIM
from stemfit.strain import FARTHEST, WINDOW, displacements
from stemfit.wording import given, log_bayes

FEW = 24
"""Defects that are listed one by one; the tables of the result have all of them."""


SIMULATED = "Simulated follows from the structure, with the measured jitter of rows put back."
"""As a reader compares it with the image."""


def caption(scene: Scene, names: Sequence[str]) -> str:
    """Text of a figure.

    Parameters
    ----------
    scene : Scene
    names : sequence of str
        Panels, as for `compose`; none for the page that `overlay` draws.

    Returns
    -------
    str
        Paragraphs, ASCII as far as names of files are.
    """
    names = expanded(names)
    parts = [_image(scene), _panels(scene, names), _scale(scene), _noise(scene), _match(scene)]
    parts.append(_defects(scene))
    if not names or scene.defect is not None or "structure" in names:
        parts.append(_structures(scene))
    parts.append(_outlines(scene, names))
    if set(names) & {"displacement", *STRAINS}:
        parts.append(_strain(scene))
    parts.append(_source(scene))
    return "\n\n".join(part for part in parts if part) + "\n"


def _image(scene: Scene) -> str:
    host, analysis = scene.analysis.document["host"], scene.analysis
    (h, w), pixel = analysis.image.shape, analysis.pixel_size_A / 10
    x0, y0, x1, y1 = scene.box
    others = ", ".join(f"{other['name']} {other['probability']:.3g}" for other in host["alternatives"][:3])
    call = "as stated by the user" if host["source"] == "user" else f"inferred, P = {host['probability']:.3f}"
    mixture = "; ".join(
        f"{sublattice}: " + ", ".join(f"{element} {f:.3f} +- {sigma:.3f}" for element, (f, sigma) in parts.items())
        for sublattice, parts in (host["composition"] or {}).items()
    )
    view = f"x {max(x0, 0):.0f} to {min(x1, w - 1):.0f}, y {max(y0, 0):.0f} to {min(y1, h - 1):.0f} px"
    size = f"{(x1 - x0) * pixel:.2f} x {(y1 - y0) * pixel:.2f} nm"
    alternatives = f" (else {others})" if others and host["source"] != "user" else ""
    return (
        f"{analysis.name}: {host['name']}, {call}{alternatives}{f'; composition {mixture}' if mixture else ''}. "
        f"Shown: {size} ({view}) of {w} x {h} px."
    )


def _panels(scene: Scene, names: Sequence[str]) -> str:
    low, high = scene.limits
    grey = f"black {low:.4g} to white {high:.4g} image units"
    if not names:
        return (
            f"Top: image ({grey}) with columns by type, the fitted unit cell (white) and defects. Middle: image, "
            "simulated, residual of the whole field. Bottom: close-ups of the surest defects of each kind, from left "
            "to right image, structure (relaxed, of the best candidate, over the image), simulated, residual. "
            f"Residuals are in standard deviations of the noise, colours end at {STRONG_RESIDUAL:g}. {SIMULATED} "
            "NCC and reduced chi2 of a row are of the pixels in view, image against simulated; those of candidates "
            f"below are of their own fit to the patch about the defect.{_empty(scene)}"
        )
    said = {
        "image": f"image ({grey})",
        "columns": "image with the observed columns by type",
        "defects": "image with the defects",
        "structure": f"relaxed structure of the most probable candidates over the image ({DIM:g} as bright)",
        "simulated": "noise-free model of the image, on the same grey scale",
        "residual": f"image minus simulation in standard deviations of the noise (colours end at {STRONG_RESIDUAL:g})",
        "exx": "strain along x", "eyy": "strain along y", "exy": "shear strain", "rotation": "rotation",
        "displacement": "displacements of the columns from the affine cell, arrows longer than true",
    }  # fmt: skip
    letters = [scene.style.letter.format(chr(ord("a") + k)) for k in range(len(names))]
    parts = ["; ".join(f"{letter} {said[name]}" for letter, name in zip(letters, names, strict=True)) + "."]
    if set(names) & {"simulated", "residual"}:
        parts.append(SIMULATED)
    if set(names) & {"structure", "simulated", "residual"}:
        parts.append(_empty(scene).strip())
    return " ".join(part for part in parts if part)


def _empty(scene: Scene) -> str:
    """Which defects in view no structure explains."""
    ids = ", ".join(str(defect.id) for defect in in_view(scene, unexplained(scene.analysis)))
    return f" No structure explains {ids}: sites there are drawn empty, and simulated as measured." if ids else ""


def _scale(scene: Scene) -> str:
    calibration = scene.analysis.document["calibration"]
    stated = calibration["metadata_pixel_size_A"]
    sources = {
        "lattice": "from the fitted lattice and the host's measured lattice constant",
        "metadata": "as the file states it", "user": "as stated by the user",
    }  # fmt: skip
    return (
        f"Pixel size {calibration['pixel_size_A']:.5f} +- {calibration['pixel_size_sigma_A'] or 0:.2g} A, "
        f"{sources[calibration['source']]}; the file says {'nothing' if stated is None else f'{stated:.5f} A'}."
    )


def _noise(scene: Scene) -> str:
    analysis = scene.analysis
    noise, pixel = analysis.noise, analysis.pixel_size_A
    seen = analysis.image[np.isfinite(analysis.simulated)]
    if not seen.size or noise.gain <= 0:
        return f"Noise: {noise.read_sigma:.4g} image units a pixel."
    counts = (float(np.mean(seen)) - noise.offset) / noise.gain
    return (
        f"Noise: {noise.gain:.4g} image units per detected electron above {noise.offset:.4g}, and "
        f"{noise.read_sigma:.4g} that do not depend on the signal; on average {counts:.3g} detected electrons a pixel "
        f"({counts / pixel**2:.3g} per square Angstrom). Correlated over {noise.pixels_per_sample:.2f} px."
    )


def _match(scene: Scene) -> str:
    match, (ncc, chi2) = scene.analysis.document["match"], score(scene.analysis, scene.part)
    whole = f"Whole image: NCC {_number(match['ncc'], 4)}, reduced chi2 {_number(match['reduced_chi2'], 2)}."
    shown = f"Pixels in view, image against simulation: NCC {_number(ncc, 4)}, reduced chi2 {_number(chi2, 2)}."
    return " ".join([whole, shown, *_fit_of_the_best(scene)])


def _fit_of_the_best(scene: Scene) -> list[str]:
    """What the fit of the best candidate is, for a figure of one defect: other numbers than those of the pixels."""
    if scene.defect is None:
        return []
    best = [c for c in scene.analysis.explanations(scene.defect.id) if c.id == scene.defect.best_candidate]
    return [
        f"Best candidate {c.id}, fitted on its own to the patch about the defect (pose, brightness and background): "
        f"NCC {_number(c.ncc, 4)}, reduced chi2 {_number(c.reduced_chi2, 2)}."
        for c in best
    ]


def _number(value: float | None, decimals: int) -> str:
    return "unknown" if value is None or not np.isfinite(value) else f"{value:.{decimals}f}"


def _defects(scene: Scene) -> str:
    claimed, suspected = (in_view(scene, some) for some in (scene.analysis.defects, scene.analysis.suspects))
    if not claimed and not suspected:
        return "No defect is claimed or suspected here."
    counted = f"{len(claimed)} claimed, {len(suspected)} suspected in view"
    mixed = ", whatever the host" if given(scene.analysis.document["host"]) else ""
    lines = [f"Defects ({counted}), each with P of its type and P of exactly this name{mixed}:"]
    if len(claimed) > FEW:
        counts = {label: sum(d.label == label for d in claimed) for label in sorted({d.label for d in claimed})}
        lines.append("  " + ", ".join(f"{n} {label}" for label, n in counts.items()) + "; see defects.csv")
    chosen = [] if len(claimed) > FEW else claimed
    wanted = [scene.defect] if scene.defect is not None and scene.defect not in chosen else []
    for defect in [*chosen, *wanted]:
        others = ", ".join(f"{label} {p:.2g}" for label, p in sorted(defect.alternatives, key=lambda o: -o[1])[:3])
        x, y = defect.center_px
        what = f"{defect.type} {_sure(defect.type_probability)}, {defect.label} {_sure(defect.probability)}"
        lines.append(
            f"  {defect.id}: {what} (else {others}), ln Bayes factor {log_bayes(defect.log_bayes_factor)}, "
            f"at ({x:.1f}, {y:.1f}) px"
        )
    return "\n".join(lines)


def _sure(p: float) -> str:
    if p > 0.999:
        return ">0.999"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _structures(scene: Scene) -> str:
    """Candidates of the defect that the figure is about, or the best ones of those in view."""
    analysis = scene.analysis
    about = [scene.defect] if scene.defect is not None else in_view(scene, analysis.defects)
    lines = []
    for defect in about[:FEW]:
        every = analysis.explanations(defect.id)
        for c in every if scene.defect is not None else [c for c in every if c.id == defect.best_candidate]:
            tie = f", tie with {', '.join(c.tie_with)}" if c.tie_with else ""
            best = ", shown" if c.id == defect.best_candidate else ""
            gain = c.evidence_relaxed_minus_unrelaxed
            more = f", ln evidence over the unrelaxed one {gain:.1f}" if np.isfinite(gain) else ""
            lines.append(
                f"  {c.id}: {c.label}, posterior {_sure(c.posterior)}, NCC {_number(c.ncc, 4)}, SSIM "
                f"{_number(c.ssim, 3)}, reduced chi2 {_number(c.reduced_chi2, 2)}, largest displacement "
                f"{_number(c.max_displacement_A, 3)} A, relaxed by {c.relaxer}{more}{tie}{best}"
            )
    if not lines:
        return ""
    note = "Top and bottom atoms of a column look the same from above: which of them is missing is assumed."
    under = given(analysis.document["host"])
    head = f"Candidate structures{f', {under}, posteriors among them alone' if under else ''} (a tie is one that this"
    return "\n".join([f"{head} image cannot tell from this one):", *lines, note])


def _outlines(scene: Scene, names: Sequence[str]) -> str:
    parts = ["Dotted outlines: what belongs to a defect; thin ones are suspected only (less likely than the crystal)."]
    if not names or "columns" in names:
        parts.append("Filled dots: columns of the perfect crystal; rings: what is there instead, white ones unnamed.")
    if not names or "structure" in names:
        parts.append(
            f"Balls: atoms, colours of Jmol, {BALL:g} of the covalent radius, upper over lower ones, "
            "lower ones darker, foreign ones above the host's of their column; broken rings: one of two atoms is "
            f"missing; sticks: atoms nearer than {TOLERANCE:g} sums of covalent radii, metal pairs left out."
        )
    parts.append("Even grey-blue or hatched: not analysed.")
    return " ".join(parts)


def _strain(scene: Scene) -> str:
    analysis = scene.analysis
    window, (_, _, sigma) = WINDOW * analysis.step_px * analysis.pixel_size_A / 10, displacements(analysis)
    error = float(np.median(sigma)) * analysis.pixel_size_A * 100 if len(sigma) else float("nan")
    jitter = "Jitter of scan lines was taken out. " if analysis.fields is not None else ""
    return (
        "Displacements, strain and rotation are relative to the affine cell that was fitted to the whole image, so "
        "that the mean strain is not in them; strain comes from straight displacement fields in a Gaussian window of "
        f"{window:.2f} nm (standard deviation), from columns that are placed to {error:.1f} pm, those of unknown "
        "defects left out. x right, y up, rotation counter-clockwise. Median standard errors stand at the colour "
        f"bars; grey-blue is not measured, or farther than {FARTHEST:g} lattice constants from every such column. "
        f"{jitter}In one scan distortion of the scan and strain of the crystal cannot be told apart."
    )


def _source(scene: Scene) -> str:
    document = scene.analysis.document
    return (
        f"Image SHA-256 {document['input']['sha256']}; analysed by stemfit {document['version']}; set in "
        f"{scene.style.family}, style {scene.style.name}, {scene.style.width_mm:g} mm wide."
    )
