"""The overlay: where things are drawn, what is left out when there is no room, and that it is the same every time."""

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from ase.data.colors import jmol_colors
from fake_result import fake_result
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex, to_rgb
from matplotlib.mathtext import MathTextParser
from matplotlib.patches import Polygon
from numpy.testing import assert_allclose

from stemfit import figures
from stemfit.figures import legend, outlines, panels
from stemfit.figures import map as annotated
from stemfit.figures.labels import place
from stemfit.figures.marks import columns_px, distinct_colours
from stemfit.figures.outlines import OUTLINE
from stemfit.figures.shades import contrast
from stemfit.figures.sheet import Sheet, formula, label_text, probability_text, scale_bar
from stemfit.figures.style import NATURE, STYLES

WIDTH_MM = NATURE.width_mm


@pytest.fixture(scope="module")
def analysis():
    return fake_result(shape=(186, 230), a_px=20)


@pytest.fixture(scope="module")
def figure(analysis):
    return figures.overlay(analysis)


def metals(analysis):
    return columns_px(analysis)[analysis.columns["sublattice"] == "M"]


def lines(axes, colour):
    return [line for line in axes.lines if to_hex(line.get_color()) == to_hex(colour)]


def test_one_journal_column_wide(figure):
    width, height = figure.get_size_inches() * 25.4
    assert_allclose(width, WIDTH_MM)
    assert height < 240  # a page


def test_axes_are_in_pixels(analysis, figure):
    height, width = analysis.image.shape
    axes = figure.axes[0]
    assert axes.get_xlim() == (-0.5, width - 0.5)
    assert axes.get_ylim() == (height - 0.5, -0.5)  # y down


def test_the_drawn_cell_is_the_fitted_one(analysis, figure):
    cells = [p.get_xy() for p in figure.axes[0].patches if isinstance(p, Polygon) and len(p.get_xy()) == 5]
    assert len(cells) == 1
    corner, along_a, opposite, along_b, _ = cells[0]
    assert_allclose(along_a - corner, analysis.cell_px[0], atol=1e-9)
    assert_allclose(along_b - corner, analysis.cell_px[1], atol=1e-9)
    assert_allclose(opposite - corner, analysis.cell_px.sum(axis=0), atol=1e-9)
    assert np.hypot(*(metals(analysis) - corner).T).min() < 0.5  # px


def test_outlines_hold_their_defect_and_nothing_else(analysis, figure):
    drawn = [line.get_xydata() for line in lines(figure.axes[0], OUTLINE)]
    assert len(drawn) == len(analysis.defects) + len(analysis.suspects)
    for defect in (*analysis.defects, *analysis.suspects):
        around = [xy for xy in drawn if np.hypot(*(xy.mean(0) - defect.extent_px.mean(0))) < 3]
        assert len(around) == 1
        distance = np.hypot(*(around[0][:, None] - defect.extent_px).transpose(2, 0, 1))
        assert_allclose(
            distance.min(axis=1), annotated.reach_px(analysis), rtol=0.01 if len(defect.sites) == 1 else 0.4
        )
        if len(defect.sites) == 1:
            assert np.hypot(*(metals(analysis) - defect.center_px).T).min() > annotated.reach_px(analysis)


def test_columns_beyond_the_edge_do_not_move_the_image(analysis):
    columns = {**analysis.columns, "x_px": analysis.columns["x_px"] - 25, "y_px": analysis.columns["y_px"] - 30}
    axes = figures.overlay(replace(analysis, columns=columns)).axes[0]
    assert axes.get_xlim() == (-0.5, analysis.image.shape[1] - 0.5)
    assert axes.get_ylim() == (analysis.image.shape[0] - 0.5, -0.5)


def test_close_ups_stay_inside_the_image(analysis):
    corner = replace(analysis.defects[0], center_px=np.array([2.0, 3.0]), extent_px=np.array([[2.0, 3.0]]))
    x0, y0, x1, y1 = panels.close_view(analysis, corner)
    assert x0 == y0 == 0
    assert x1 == y1 > 3 * analysis.step_px


def test_the_legend_fits_and_its_signs_show(analysis):
    species = np.where(np.arange(len(analysis.columns["species"])) % 50, analysis.columns["species"], "")
    stray = replace(analysis, columns={**analysis.columns, "species": species})  # on no site: these have no name
    entries = legend.legend_rows(stray, NATURE)
    texts = [entry.get_label() for row in entries for entry in row]
    assert {"not identified", "not analysed", "defect with probability"} < set(texts)
    sheet = Sheet(20.0)
    with NATURE.context():
        legend.draw_legend(sheet, entries, 0.0)
        drawn = [axes.get_legend() for axes in sheet.figure.axes]
        boxes = [each.get_window_extent() for each in drawn]
    assert [text.get_text() for each in drawn for text in each.get_texts()] == texts
    assert all(sheet.figure.bbox.x0 < box.x0 < box.x1 < sheet.figure.bbox.x1 for box in boxes)
    assert all(above.y0 > below.y0 + 0.8 * above.height for above, below in pairwise(boxes))
    signs = {entry.get_label(): entry for row in entries for entry in row}
    assert signs["not identified"].get_path_effects() and not signs[formula("W")].get_path_effects()


def test_a_sign_has_one_colour_in_image_and_legend(analysis):
    """What is not identified is a white ring with a dark rim in both."""
    species = np.where(np.arange(len(analysis.columns["species"])) % 50, analysis.columns["species"], "")
    stray = replace(analysis, columns={**analysis.columns, "species": species})
    axes = Sheet(60.0).axes(0, 0, 60, 60)
    axes.set(xlim=(0, 230), ylim=(186, 0))
    annotated.draw_columns(axes, stray, NATURE)
    (drawn,) = [line for line in axes.lines if to_hex(line.get_markeredgecolor()) == "#ffffff"]
    assert len(drawn.get_xdata()) == (species == "").sum() > 2
    signs = {entry.get_label(): entry for row in legend.legend_rows(stray, NATURE) for entry in row}
    for ring in (drawn, signs["not identified"]):
        assert to_hex(ring.get_markeredgecolor()) == "#ffffff" and ring.get_markerfacecolor() == "none"
        assert ring.get_path_effects()


@pytest.mark.parametrize("radius", [4.0, 5.3, 8.1, 20.0])
def test_dots_close_evenly(radius):
    """A whole number of them about every circle, about as far apart as asked."""
    axes = Sheet(50.0).axes(0, 0, 50, 50)
    axes.set(xlim=(0, 100), ylim=(100, 0))
    outlines.draw_outline(axes, np.array([[50.0, 50.0]]), radius, outlines.defect_style(0.8))
    (line,) = axes.lines
    period = sum(line._unscaled_dash_pattern[1]) * line.get_linewidth()
    length = np.hypot(*np.diff(line.get_xydata(), axis=0).T).sum() * 50 / 25.4 * 72 / 100
    dots = length / period
    assert_allclose(dots, round(dots), atol=1e-6)
    assert_allclose(period, 2.31 * 0.8, rtol=0.5 / round(dots) * 1.1)


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_small_outlines_have_dots_enough(style, analysis):
    axes = Sheet(60.0, style).axes(0, 0, 30, 30)
    axes.set(xlim=(0, 1000), ylim=(1000, 0))  # so small that the least radius holds
    annotated.draw_outlines(axes, replace(analysis, suspects=()), style)
    line = axes.lines[0]
    length = np.hypot(*np.diff(line.get_xydata(), axis=0).T).sum() * 30 / 25.4 * 72 / 1000
    assert length / (sum(line._unscaled_dash_pattern[1]) * line.get_linewidth()) >= 9


def test_what_is_far_apart_is_not_enclosed_together():
    together = np.array([[50.0, 50.0], [60.0, 50.0], [55.0, 58.0]])
    apart = np.array([[20.0, 20.0], [120.0, 25.0], [70.0, 90.0]])
    line = np.array([[10.0 * k, 3.0 * k] for k in range(8)])
    assert len(outlines.rings(together, 5.0)) == 1
    assert len(outlines.rings(line, 4.2)) == 1
    circles = outlines.rings(apart, 5.0)
    assert len(circles) == 3
    for circle, point in zip(circles, apart, strict=True):
        assert_allclose(np.hypot(*(circle - point).T), 5.0)
    joined = outlines.links(apart, 5.0)
    assert len(joined) == 2  # a tree
    assert all(np.min(np.hypot(*(apart - end).T)) == pytest.approx(5.0) for link in joined for end in link)


def test_everything_printed_stays_on_the_page(figure):
    figure.draw_without_rendering()
    for text in figure.texts:
        box = text.get_window_extent()
        assert figure.bbox.x0 + 1 < box.x0 < box.x1 < figure.bbox.x1 - 1


def test_many_suspects_are_crosses(analysis):
    """One small cross for each instead of an outline, on the map and in its legend."""
    suspect = analysis.suspects[0]
    places = columns_px(analysis)[: outlines.MANY_SUSPECTS + 1]
    many = tuple(replace(suspect, center_px=xy, extent_px=xy[None]) for xy in places)
    figure = figures.overlay(replace(analysis, suspects=many))
    (crosses,) = [line for line in lines(figure.axes[0], OUTLINE) if line.get_marker() == "x"]
    assert_allclose(crosses.get_xydata(), places)
    signs = [sign for row in legend.legend_rows(replace(analysis, suspects=many), NATURE) for sign in row]
    (sign,) = [one for one in signs if str(one.get_label()).startswith("suspected")]
    assert sign.get_marker() == "x" and str(len(many)) in sign.get_label()
    assert len(lines(figure.axes[0], OUTLINE)) == 1 + len(analysis.defects)


def test_suspects_are_thinner(analysis, figure):
    widths = sorted(line.get_linewidth() for line in lines(figure.axes[0], OUTLINE))
    assert widths[0] < 0.7 * widths[-1]


def test_columns_are_drawn_by_species(analysis, figure):
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert sum(len(line.get_xdata()) for line in dots) == len(analysis.columns["id"])
    open_dots = [line for line in dots if line.get_markerfacecolor() == "none"]
    changed = sum(
        len(defect.sites) for defect in analysis.defects if defect.type != "DV"
    )  # that one has no column left
    assert sum(len(line.get_xdata()) for line in open_dots) == changed >= 3


def test_markers_shrink_and_vanish(analysis):
    sizes = [annotated.marker_pt(analysis, points_per_px, NATURE) for points_per_px in (1.0, 0.5, 0.1)]
    assert_allclose(sizes[1], 0.5 * sizes[0])
    assert sizes[2] < annotated.SMALLEST_MARKER_PT < sizes[1]
    axes = Sheet(60.0).axes(0, 0, 60, 60)
    axes.set_xlim(0, 1700)
    annotated.draw_columns(axes, analysis, NATURE)
    assert len(axes.lines) == 0


def test_columns_look_like_their_atoms():
    assert distinct_colours(["W", "Se2"]) == [to_hex(jmol_colors[n]) for n in (74, 34)]
    three = distinct_colours(["Mo", "S2", "S"])
    assert three[:2] == [to_hex(jmol_colors[n]) for n in (42, 16)] and len(set(three)) == 3
    (carbon,) = distinct_colours(["C"])
    assert np.ptp(to_rgb(carbon)) > 0.3  # grey would not show on the image
    everything = distinct_colours([f"C{k}" for k in range(2, 8)])
    assert len(set(everything)) == 6


@pytest.fixture(scope="module")
def crowded():
    return fake_result(shape=(240, 330), a_px=14, vacancies=legend.MOST_LABELS + 4, region=False)


def test_many_defects_are_counted_instead_of_named(crowded):
    figure = figures.overlay(crowded)
    on_map = [text.get_text() for text in figure.axes[0].texts]
    assert not any("V_" in text for text in on_map)
    numbers = [text for text in on_map if text.isdigit()]
    close_ups = [text.get_text().split()[0] for text in figure.texts if text.get_ha() == "left"]
    assert len(numbers) == panels.CLOSE_UPS
    assert numbers == close_ups
    entries = [text.get_text() for axes in figure.axes if axes.get_legend() for text in axes.get_legend().get_texts()]
    assert any(entry.startswith(f"{legend.MOST_LABELS + 4} × ") for entry in entries)
    counts = [sign for row in legend.legend_rows(crowded, NATURE) for sign in row if " × " in str(sign.get_label())]
    assert len(counts) > 2
    assert [sign.get_linestyle() != "None" for sign in counts] == [True] + [False] * (len(counts) - 1)


def test_close_ups_show_every_kind_of_defect(crowded):
    chosen = panels._chosen(crowded)
    assert {d.label for d in chosen} == {d.label for d in crowded.defects}
    assert len(chosen) == panels.CLOSE_UPS
    assert [d.id for d in chosen] == sorted({d.id for d in chosen})


def test_without_anything_to_show():
    bare = fake_result(shape=(120, 150), a_px=20, vacancies=0, region=False, suspects=False, line=False)
    figure = figures.overlay(replace(bare, defects=()))
    assert lines(figure.axes[0], OUTLINE) == []
    assert len(figure.axes) == 7  # map, legend, three panels, two colour bars


def test_a_masked_image_can_be_drawn(analysis):
    blind = replace(
        analysis, simulated=np.full_like(analysis.simulated, np.nan), mask=np.ones_like(analysis.mask)
    )
    figures.overlay(blind)


def test_residual_is_in_units_of_noise(analysis):
    residual = panels.residual_in_noise(analysis)
    assert np.array_equal(np.isnan(residual), np.isnan(analysis.simulated))
    calm = residual[np.isfinite(residual)]
    assert_allclose(np.median(np.abs(calm)) * 1.4826, 1.0, atol=0.15)  # Poisson noise of the made-up image


def test_the_scale_bar_is_as_long_as_it_says():
    for pixel_A in (0.05, 0.11, 0.37):
        sheet = Sheet(50.0)
        axes = sheet.axes(0, 0, 70, 50)
        axes.set(xlim=(-0.5, 699.5), ylim=(499.5, -0.5))
        corners = scale_bar(axes, pixel_A, NATURE)
        sheet.figure.draw_without_rendering()
        bar = axes.artists[0].info
        assert_allclose(bar.length_px * pixel_A / 10, bar.value)
        assert bar.scale_text == f"{bar.value:g} nm"
        assert 0.05 < bar.length_px / 700 <= 0.22
        seen = axes.transData.inverted().transform(bar.window_extent.get_points())
        assert (seen.min(axis=0) > corners.min(axis=0) - 5).all()
        assert (seen.max(axis=0) < corners.max(axis=0) + 15).all()


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_the_same_figure_gives_the_same_bytes(suffix, tmp_path, monkeypatch):
    sheet = Sheet(20.0)
    sheet.axes(0, 0, 30, 20).plot([0, 1], [0, 1])
    for name, clock in (("first", "1000000000"), ("second", "1500000000")):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", clock)  # what a later day would write
        figures.save(sheet.figure, tmp_path / f"{name}.{suffix}")
    first, second = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in ("first", "second"))
    assert first == second
    assert b"atplotlib" not in first


def test_no_global_state():
    code = "import sys, stemfit.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("V_S", r"$\mathrm{V_{S}}$"),
        ("V_S2", r"$\mathrm{V_{S_{2}}}$"),
        ("Mo2_S2", r"$\mathrm{(Mo_{2})_{S_{2}}}$"),
        ("SVL-4", "SVL-4"),
        ("T1-484", "T1-484"),
    ],
)
def test_labels_in_the_typography_of_the_field(label, text):
    assert label_text(label) == text


@given(st.from_regex(r"\A[A-Za-z0-9$_^{}\\-]{1,8}\Z"))
@settings(max_examples=25, deadline=None)
def test_any_label_can_be_set(label):
    parser = MathTextParser("path")
    assert parser.parse(label_text(label)).width >= 0
    assert parser.parse(formula("Se2")).width > parser.parse(formula("S")).width


def test_probabilities_are_never_certain():
    assert [probability_text(p) for p in (0.514, 0.99, 0.9951, 1.0)] == ["0.51", "0.99", ">0.99", ">0.99"]


def box(x0, y0, x1, y1):
    return np.array([[x0, y0], [x1, y1]], dtype=float)


def test_a_label_stands_beside_its_defect_inside_the_image():
    size, shape = np.array([30.0, 8.0]), (100, 200)
    assert place(box(50, 50, 60, 60), size, [], shape).ha == "left"
    at_the_edge = place(box(185, 50, 195, 60), size, [], shape)
    assert at_the_edge.ha == "right"
    assert at_the_edge.box[2] <= 185


def test_a_label_avoids_what_is_taken():
    size, shape = np.array([30.0, 8.0]), (100, 200)
    right = np.array([60.0, 45.0, 100.0, 65.0])
    chosen = place(box(50, 50, 60, 60), size, [right], shape).box
    assert chosen[2] <= right[0] or chosen[3] <= right[1] or chosen[1] >= right[3]


def test_contrast_ignores_hot_pixels():
    rng = np.random.default_rng(0)
    image = rng.normal(1.0, 0.1, (100, 100))
    image[3, 4] = 1e6
    low, high = contrast(image)
    assert 0.6 < low < 0.9 < 1.1 < high < 1.6
    assert contrast(np.full(5, np.nan)) == (0.0, 1.0)
    flat = contrast(np.ones(9))
    assert flat[1] > flat[0]
