"""From an image to its defects: the whole method on one page, in the order of the data."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import Any

import numpy as np

from definet.predict import resolve_device
from definet.service import shared
from stemfit import warn
from stemfit.candidate_alloys import mixtures_of, propose_in
from stemfit.candidates import Candidate
from stemfit.columns import Columns
from stemfit.contrast import looks_inverted
from stemfit.defects import Defect, otherwise, with_kinds, with_naming_doubt
from stemfit.errors import NotAnalysable
from stemfit.lattice import RowOffsets, SiteMap
from stemfit.matching.compare import compare
from stemfit.matching.given import Given
from stemfit.matching.judge import Matching, judge, same_host
from stemfit.matching.spots import look_for
from stemfit.micrograph import Micrograph
from stemfit.observed import Clock, Observed, observe
from stemfit.observed import Settings as Settings
from stemfit.relax import Relaxed, Relaxer
from stemfit.result import Findings, HostCall, agreement
from stemfit.score import Ranking, Score, engine_of, rank, with_energies, with_structure_of_label
from stemfit.simulate.field import drawn, painted
from stemfit.stated import as_stated

NOBODY = 0.01
"""Probability of a host below which nothing that is said of an image with dark spots can help anybody."""

BRIGHT_ATOMS = "give the annular dark field, with bright atoms; this looks like a bright field or an inverted image"


def analyze(
    micrograph: Micrograph, settings: Settings, relaxer: Relaxer, *,
    progress: Callable[[str], None] = lambda stage: None,
) -> Findings:
    """Find the defects of an image and the structures behind them.

    Parameters
    ----------
    micrograph : Micrograph
    settings : Settings
    relaxer : Relaxer
        From `stemfit.relax.relaxer`.
    progress : callable, optional
        Called with the name of each stage as it begins.

    Raises
    ------
    NotAnalysable
        If the image shows no columns or no lattice, or dark spots where no crystal has them.
    """
    clock = Clock(progress)
    settings, read = as_stated(settings, micrograph)
    v = observe(micrograph, settings, clock)
    host, optics = v.identity.host, (settings.voltage_kV, settings.detector_mrad)
    with clock("candidates"):
        mixed = mixtures_of(v.posteriors, host, v.mixtures)
        candidates = tuple(
            c for d in v.found
            for c in propose_in(d, host, v.lattice, v.sites, v.rates, mixed, settings.max_candidates)
        )
    with clock("relax"):
        relaxed = tuple(relaxer(candidates))
        candidates = with_energies(candidates, relaxed, settings.temperature_K)
    with clock("score"):
        engine = engine_of(settings.simulator, host, optics[0], settings.convergence_mrad, optics[1])
        ranking = rank(
            v.found, candidates, relaxed, v.image, v.columns, v.imaging, v.lattice, v.sites, v.brightness,
            v.rates["UNKNOWN"], engine,
        )
    explained = candidates, relaxed, ranking.scores
    with clock("names"):
        claimed, suspects = _named(v, settings, ranking, candidates)
    result = told(v, asdict(settings), clock, claimed, suspects, explained)
    left = v.identity.left_with(agreement(result)["reduced_chi2"])
    if left is not v.identity:
        if left.probability < NOBODY and looks_inverted(v.micrograph.image, result.simulated, v.lattice.a_px_iso):
            raise NotAnalysable("dark spots on a bright ground, and no crystal explains them", remedy=BRIGHT_ATOMS)
        v = v._replace(identity=left)
        claimed, suspects = _named(v, settings, ranking, candidates)
        result = told(v, asdict(settings), clock, claimed, suspects, explained)
    return replace(result, warnings=(*read, *result.warnings))


def _named(
    v: Observed, settings: Settings, ranking: Ranking, candidates: Sequence[Candidate]
) -> tuple[tuple[Defect, ...], tuple[Defect, ...]]:
    """What is claimed and what is suspected, with the names that are left if the crystal may be another."""
    names = otherwise(
        v.identity, v.columns, v.sites, v.brightness, settings.voltage_kV, settings.detector_mrad,
        settings.convergence_mrad,
    )
    claimed, suspects = (
        tuple(
            with_structure_of_label(now, then, candidates, ranking.scores, ranking.free)
            for now, then in zip(with_naming_doubt(some, v.found, v.identity, names, v.measured), some, strict=True)
        )
        for some in (ranking.claimed, ranking.doubted + v.suspects)
    )
    return claimed, suspects


def match(
    micrograph: Micrograph, settings: Settings, givens: Sequence[Given], relaxer: Relaxer | None, others: Relaxer, *,
    at_px: tuple[float, float] | None = None, progress: Callable[[str], None] = lambda stage: None,
) -> Findings:
    """Find structures of the user's own in an image, and say how well they explain it.

    Parameters
    ----------
    micrograph : Micrograph
    settings : Settings
    givens : sequence of Given
        From `stemfit.matching.given.read_given`.
    relaxer : Relaxer or None
        None: atoms stand as in the file.
    others : Relaxer
        Of the structures that `analyze` would propose in the same place.
    at_px : (x, y), optional
        Where to look; anywhere without.
    progress : callable, optional
        Called with the name of each stage as it begins.

    Raises
    ------
    NotAnalysable
        If the image shows no columns or no lattice, or a structure has no room in it.
    StructureError
        If a structure is one of another host.
    """
    clock = Clock(progress)
    settings, read = as_stated(settings, micrograph)
    v = observe(micrograph, settings, clock)
    same_host(givens, v.identity)
    with clock("places"):
        spots = look_for(v, givens, at_px)
    with clock("candidates"):
        compared = [compare(v, spot) for spot in spots]
    with clock("relax"):
        relaxed = [one.relaxed(relaxer, others) for one in compared]
    with clock("score"):
        answer = Matching.of(judge(v, *each, givens) for each in zip(compared, relaxed, strict=True))
    elsewhere = answer.unmatched(v.found)
    asked = {"command": "match", **asdict(settings), "structures": [str(g.path) for g in givens], "at_px": at_px}
    result = told(v, asked, clock, answer.found, answer.doubted, answer.explained, elsewhere)
    own = (*(w for g in givens for w in g.warnings), *answer.warnings(elsewhere))
    return replace(result, matches=answer.as_scanned(v.rows), warnings=(*read, *own, *result.warnings))


def told(
    v: Observed, settings: Mapping[str, Any], clock: Clock, claimed: tuple[Defect, ...], suspects: tuple[Defect, ...],
    explained: tuple[tuple[Candidate, ...], tuple[Relaxed, ...], tuple[Score, ...]],
    elsewhere: tuple[Defect, ...] = (),
) -> Findings:
    """Everything that is said of an image; what was found `elsewhere` is drawn as it was measured."""
    candidates, relaxed, scores = explained
    with clock("simulate"):
        drawing = drawn(
            v.sites, v.imaging, v.identity.host, v.lattice, claimed + elsewhere, candidates, relaxed, v.brightness,
            v.columns, [p for p in v.posteriors if p.species],
        )
        simulated = v.units.on(v.rows.jittered(painted(drawing, v.imaging)))
        simulated = np.where(v.region_map > 0, np.nan, simulated)
        each = np.column_stack([drawing.xy_px, v.units.unit * drawing.light, drawing.on_site])
        measured = each[~drawing.told]
    inverted = looks_inverted(v.micrograph.image, simulated, v.lattice.a_px_iso)
    warnings = warn.collect(
        v.identity, v.calibration, v.posteriors, v.brightness, v.imaging, candidates, relaxed, v.rows, v.spikes,
        claimed, v.cut, inverted,
    )
    claimed, suspects = (tuple(with_kinds(d, v.posteriors) for d in some) for some in (claimed, suspects))
    seen, sites, claimed, suspects = _as_scanned(v.rows, v.columns, v.sites, claimed, suspects)
    fractions = {s: p.composition() for s, p in v.mixtures.items()} or None
    call = HostCall(
        v.identity.host, v.identity.source, v.identity.probability, v.identity.alternatives, fractions
    )
    found = Findings(
        v.micrograph, v.units.columns(seen), call, v.calibration, v.lattice, sites, v.regions, v.region_map,
        v.units.imaging(v.imaging), claimed, suspects, candidates, relaxed, scores, simulated, warnings, settings,
        _environment(str(settings["device"])), clock.seconds, tuple(p for p in v.posteriors if p.species), (), v.rows,
        measured, warn.apart(v.posteriors, v.brightness, v.imaging, call.host.sublattices),
    )
    chi2, blind = agreement(found)["reduced_chi2"], warn.blind_to(found.apart_sigma)
    left = () if inverted else warn.unexplained(chi2, call.host.name)
    doubts = warn.doubts(v.identity, v.posteriors, blind, claimed, chi2, inverted)
    return replace(found, warnings=(*left, *warnings), blind_to=blind, doubts=doubts)


def _as_scanned(
    rows: RowOffsets, columns: Columns, sites: SiteMap, *defects: tuple[Defect, ...]
) -> tuple[Columns, SiteMap, tuple[Defect, ...], tuple[Defect, ...]]:
    """Positions in the image as it was scanned, with the jitter of its rows."""
    columns = replace(columns, xy_px=rows.in_image(columns.xy_px))
    sites = replace(sites, xy_px=rows.in_image(sites.xy_px))
    claimed, suspects = (
        tuple(
            replace(d, center_px=rows.in_image(d.extent_px).mean(axis=0), extent_px=rows.in_image(d.extent_px))
            for d in of
        )
        for of in defects
    )
    return columns, sites, claimed, suspects


def _environment(device: str) -> dict[str, str]:
    packages = ("numpy", "scipy", "torch", "pymatgen", "e3nn")
    versions = {name: version(name) for name in packages}
    network = shared()
    elsewhere = {} if network is None else {"network_device": network.greeting.device}
    return {"python": platform.python_version(), **versions, "device": resolve_device(device).type, **elsewhere}
