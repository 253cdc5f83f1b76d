"""Tables of `unseen.py`: found, wrong and false by dose and host, calibration, inferred hosts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scoring import REACH, Claim, Said, Tally, overlap, same
from unseen_fields import DOSES, Image

BINS = (0.0, 0.5, 0.8, 0.95, 0.99, 0.999, 1.0)
KINDS = ("SV", "DV")
Row = tuple[str, ...]
Statement = tuple[float, bool]
"""A stated probability, and whether it was so."""


class Scored(NamedTuple):
    """One analysis against the truth.

    Attributes
    ----------
    image : Image
    said : Said or str
        Or why nothing was said.
    columns : int
        Sites in the scored part of the image.
    truth, claims, suspects, naive : list of Claim
        What is to be found, and what analysis and threshold say there.
    ours, threshold : Tally
    """

    image: Image
    said: Said | str
    columns: int
    truth: list[Claim]
    claims: list[Claim]
    suspects: list[Claim]
    naive: list[Claim]
    ours: Tally
    threshold: Tally

    @property
    def host(self) -> str:
        """The true one."""
        return str(self.image.truth["host"])


class Both(NamedTuple):
    """An image analysed with the host stated and without."""

    given: Scored
    auto: Scored
    cpu_s: float


def reach_px(image: Image) -> float:
    """Distance within which a claim is about a defect."""
    return REACH * float(np.hypot(*image.truth["a_px"]))


def all_of(pairs: Sequence[Both]) -> Iterator[tuple[str, Row, list[Row]]]:
    """Title, head and rows of every table."""
    given = [pair.given for pair in pairs]
    by_dose = [cell for dose in DOSES for cell in (f"{dose}: stated", "so")]
    yield "Each image (failed: its defects count as missed)", IMAGE_HEAD, [_image(pair) for pair in pairs]
    yield "Host stated", SUM_HEAD, _sums(given)
    inferred = [row for row in _sums([pair.auto for pair in pairs]) if row[1] == "all"]
    yield "Host inferred: a wrong host gives wrong names", SUM_HEAD, inferred
    yield "False claims per 1000 columns", RATE_HEAD, _rates(given)
    yield "Claims and suspects: probability of the name", ("stated", *by_dose), _calibration(given, _named)
    yield "Claims and suspects: probability of any defect", ("stated", *by_dose), _calibration(given, _present)
    yield "Claims of the threshold", ("claim", *by_dose), [_threshold(given, kind) for kind in KINDS]
    yield "Inferred hosts", ("the file's scale", "dose", "right", "mean probability"), _hosts(pairs)


# -- counts --------------------------------------------------------------------------------------------------------

TALLY_HEAD = ("SV", "DV", "wrong name", "false", "threshold: SV", "DV", "wrong name", "false")
IMAGE_HEAD = ("field", "dose", "conditions", "columns", *TALLY_HEAD, "inferred host", "CPU s")
SUM_HEAD = ("dose", "host", "images (failed)", "columns", *TALLY_HEAD)
RATE_HEAD = ("dose", "pristine fields", "threshold", "fields with vacancies", "threshold")


def conditions(image: Image) -> str:
    """Dose (electrons per square Angstrom), voltage, detector, pixel and what the file says of it."""
    optics, stated, pixel = image.truth["optics"], image.truth["stated_pixel_size_A"], image.truth["pixel_size_A"]
    dose = image.peak_per_A2 / image.truth["dose"]["scattered_fraction_at_metal_peak"]
    scale = "no scale" if stated is None else f"scale {100 * (stated / pixel - 1):+.1f} %"
    inner, outer = optics["detector_mrad"]
    return f"{dose:.1e} e/A2, {optics['voltage_kV']:.0f} kV, {inner:.0f}-{outer:.0f} mrad, {pixel:.3f} A, {scale}"


def _image(pair: Both) -> Row:
    given, answer = pair.given, pair.auto.said
    dose = given.image.dose
    inferred = "(failed)" if isinstance(answer, str) else f"{answer.host} {answer.host_probability:.2f}"
    name = given.image.path.stem.removesuffix("-" + dose.replace(" ", "-"))
    columns = f"{given.columns}{' (failed)' if isinstance(given.said, str) else ''}"
    return (name, dose, conditions(given.image), columns, *_tallies([given]), inferred, f"{pair.cpu_s:.1f}")


def _tallies(scored: Sequence[Scored]) -> Row:
    """Cells of `TALLY_HEAD`, summed."""
    true = Counter(defect.type for one in scored for defect in one.truth)
    cells: list[str] = []
    for tallies in ([one.ours for one in scored], [one.threshold for one in scored]):
        cells += [f"{sum(tally.found[k] for tally in tallies)}/{true[k]}" if true[k] else "-" for k in KINDS]
        cells += [str(sum(tally.wrong for tally in tallies)), str(sum(tally.false for tally in tallies))]
    return tuple(cells)


def _sums(scored: Sequence[Scored]) -> list[Row]:
    """Rows by dose and host, and by dose."""
    rows = []
    for dose in DOSES:
        here = [one for one in scored if one.image.dose == dose]
        for host in (*sorted({one.host for one in here}), "all"):
            some = [one for one in here if host in (one.host, "all")]
            failed = sum(isinstance(one.said, str) for one in some)
            images = f"{len(some)} ({failed})" if failed else str(len(some))
            rows.append((dose, host, images, str(sum(one.columns for one in some)), *_tallies(some)))
    return rows


def _rates(scored: Sequence[Scored]) -> list[Row]:
    """False claims per thousand columns."""
    rows = []
    for dose in DOSES:
        cells = [dose]
        for pristine in (True, False):
            some = [one for one in scored if one.image.dose == dose and pristine is (not one.image.truth["defects"])]
            columns = sum(one.columns for one in some)
            for tallies in ([one.ours for one in some], [one.threshold for one in some]):
                false = sum(tally.false for tally in tallies)
                cells.append(f"{1e3 * false / columns:.2f} ({false} of {columns})" if columns else "-")
        rows.append(tuple(cells))
    return rows


# -- how sure and how right ----------------------------------------------------------------------------------------


def _named(one: Scored) -> list[Statement]:
    """Of each claim and suspect: probability of its name, and whether a defect of that name is there."""
    return [(claim.probability, _right(claim, one)) for claim in (*one.claims, *one.suspects)]


def _present(one: Scored) -> list[Statement]:
    """Of each claim and suspect: probability that anything is wrong there, and whether it is."""
    reach = reach_px(one.image)
    return [
        (claim.defective, any(overlap(claim, defect, reach) for defect in one.truth))
        for claim in (*one.claims, *one.suspects)
    ]


def _right(claim: Claim, one: Scored) -> bool:
    reach = reach_px(one.image)
    return any(same(claim, defect) and overlap(claim, defect, reach) for defect in one.truth)


def _calibration(scored: Sequence[Scored], stated: Callable[[Scored], list[Statement]]) -> list[Row]:
    """Stated probability against how often it was so, by bin and dose; the last bin ends with 1."""
    rows = []
    for low, high in pairwise(BINS):
        cells = [f"{low:g} to {high:g}"]
        for dose in DOSES:
            at_dose = [statement for one in scored if one.image.dose == dose for statement in stated(one)]
            cells += _agreement([(p, so) for p, so in at_dose if low <= p < high or (high == 1 and p >= 1)])
        rows.append(tuple(cells))
    return rows


def _agreement(statements: Sequence[Statement]) -> Row:
    """Mean stated probability, and how many were so."""
    if not statements:
        return "-", "-"
    return f"{np.mean([p for p, _ in statements]):.3f}", f"{sum(so for _, so in statements)}/{len(statements)}"


def _threshold(scored: Sequence[Scored], kind: str) -> Row:
    """How many claims of one kind are right where the threshold makes them; it states no probability."""
    cells = [kind]
    for dose in DOSES:
        made = [(one, claim) for one in scored if one.image.dose == dose for claim in one.naive if claim.type == kind]
        cells += ["-", f"{sum(_right(claim, one) for one, claim in made)}/{len(made)}"]
    return tuple(cells)


def _hosts(pairs: Sequence[Both]) -> list[Row]:
    """How often the inferred host is the true one, by what the file says of the scale."""
    rows: list[Row] = []
    for says in ("none", "right", "wrong"):
        for dose in DOSES:
            some = [pair.auto for pair in pairs if pair.auto.image.dose == dose and _scale(pair.auto.image) == says]
            answers = [(one.host, one.said) for one in some if not isinstance(one.said, str)]
            right = sum(answer.host == host for host, answer in answers)
            mean = f"{np.mean([answer.host_probability for _, answer in answers]):.2f}" if answers else "-"
            rows.append((says, dose, f"{right}/{len(some)}", mean))
    return rows


def _scale(image: Image) -> str:
    stated = image.truth["stated_pixel_size_A"]
    if stated is None:
        return "none"
    return "right" if abs(stated / image.truth["pixel_size_A"] - 1) < 1e-4 else "wrong"
