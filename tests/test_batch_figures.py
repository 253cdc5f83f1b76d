"""Densities of a folder as a figure: what it shows, and that the same numbers give the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from batch_stub import SETTINGS, image
from matplotlib.figure import Figure
from test_batch import here

from stemfit.batch import Request, run
from stemfit.batch.gallery import FIGURES
from stemfit.batch.statistics import Field, lines
from stemfit.figures import save
from stemfit.figures.statistics import MOST_HOSTS, densities


def fields(host: str, counts: list[int], blind: bool = False) -> list[Field]:
    names = frozenset({"V_S"})
    return [
        Field(host, 50.0, {("DV", "V_S2"): (n, 0.9 * n)} if n else {}, False, names, names if blind else frozenset())
        for n in counts
    ]


def drawn(some: list[Field]) -> Figure:
    return densities(lines(some), some)


def test_intervals_of_all_types_on_a_logarithmic_axis() -> None:
    some = fields("MoS2", [3, 4, 5, 0, 2])
    axes, histogram = drawn(some).axes
    assert axes.get_xscale() == "log"
    assert [text.get_text() for text in axes.get_yticklabels()] == ["all", "DV", "SV"]
    spans = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 2]
    known = {line.type: line.density for line in lines(some) if line.label == "all"}
    for kind, (low, high) in zip(("all", "DV", "SV"), spans, strict=True):
        assert high == known[kind].high
        assert low == (known[kind].low or axes.get_xlim()[0])  # none claimed: to the end of the axis
    assert sum(bar.get_height() for bar in histogram.patches) == 5
    assert histogram.get_ylabel() == "images" and "per nm" in histogram.get_xlabel()


def test_what_cannot_be_told_is_said_and_not_drawn_as_none() -> None:
    (axes,) = drawn(fields("MoS2", [3], blind=True)).axes
    assert "cannot be told" in [text.get_text() for text in axes.texts]
    assert len([line for line in axes.lines if len(line.get_xdata()) == 2]) == 2  # all, DV


@pytest.mark.parametrize("counts", [[0], [0] * 6, [7], list(range(3000))], ids=["one", "none", "single", "many"])
def test_any_number_of_images(counts: list[int], tmp_path: Path) -> None:
    some = [one for k, n in enumerate(counts) for one in fields(f"a_b$c{k % 9}" if len(counts) > 9 else "WS2", [n])]
    figure = drawn(some)
    assert len(figure.axes) == 1 + (MOST_HOSTS if len(counts) > 9 else len(counts) >= 5)
    save(figure, tmp_path / "x.png")


@pytest.mark.parametrize("kind", ["svg", "pdf", "png"])
def test_the_same_numbers_give_the_same_bytes(kind: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(drawn(fields("MoS2", [3, 4, 5, 0, 2])), tmp_path / f"{name}.{kind}")
    assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


def test_figures_stand_beside_the_tables_and_are_no_images_to_analyse(tmp_path: Path) -> None:
    """Also where results are written into the folder of the images."""
    image(tmp_path / "a.tif", 12)
    asked = Request(tmp_path, tmp_path, SETTINGS)
    for _ in range(2):
        assert run(asked, here).inputs == 1
    assert all((tmp_path / name).stat().st_size > 1000 for name in FIGURES)
    image(tmp_path / "a.tif", 12, "damaged")
    assert run(asked, here).failures and not any((tmp_path / name).exists() for name in FIGURES)


def test_an_image_of_that_name_elsewhere_is_an_image(tmp_path: Path) -> None:
    image(tmp_path / "in/statistics.png", 12)
    assert run(Request(tmp_path / "in", tmp_path / "out", SETTINGS), here).done == 1
