"""Figures of chosen panels: nothing overlaps, atoms lie in their order, bonds are those of chemistry."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from ase.build import graphene, mx2
from fake_result import fake_result
from matplotlib.collections import EllipseCollection
from matplotlib.font_manager import FontProperties, findfont
from numpy.testing import assert_allclose

from stemfit.analysis import Explanation
from stemfit.figures import STYLES, overlay, save
from stemfit.figures import style as style_module
from stemfit.figures.atoms import bonds, draw_structure
from stemfit.figures.caption import caption
from stemfit.figures.compose import CLOSE_UP, TITLES, Scene, compose
from stemfit.figures.legend import MOST_LABELS
from stemfit.figures.map import MOST_NAMES
from stemfit.figures.marks import columns_px
from stemfit.figures.shades import SIGNED, colour_map
from stemfit.figures.sheet import Sheet, label_text, numbered_claim
from stemfit.figures.style import NATURE


@pytest.fixture(scope="module")
def analysis():
    return fake_result(shape=(186, 230), a_px=20)


def words(figure):
    """Boxes of everything that is written outside of panels."""
    figure.draw_without_rendering()
    texts = [*figure.texts]
    for axes in figure.axes:
        texts += [*axes.get_xticklabels(), axes.xaxis.label] if axes.axison else []
        texts += axes.get_legend().get_texts() if axes.get_legend() else []
    return {text.get_text(): text.get_window_extent() for text in texts if text.get_text()}


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_nothing_overlaps_and_nothing_is_cut_off(style, analysis):
    figure = compose(Scene(analysis, (-0.5, -0.5, 229.5, 185.5), style), list(TITLES))
    width, _ = figure.get_size_inches() * 25.4
    assert_allclose(width, style.width_mm)
    boxes = words(figure)
    assert len(boxes) > 15
    panels = [axes.get_window_extent() for axes in figure.axes if axes.images]
    assert len(panels) == len(TITLES)
    for text, box in boxes.items():
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, text
        assert not any(box.shrunk(0.98, 0.9).overlaps(panel) for panel in panels), text
    for (one, a), (other, b) in combinations(boxes.items(), 2):
        assert not a.shrunk(0.98, 0.8).overlaps(b.shrunk(0.98, 0.8)), (one, other)


@pytest.mark.parametrize("width_mm", [89.0, 183.0])
@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_labels_in_a_crowd_do_not_cover_each_other(style, width_mm):
    """Sixteen vacancies on neighbouring sites; what has no room has no label."""
    crowd = fake_result(shape=(186, 230), a_px=20, vacancies=6, region=False)
    spare = [columns_px(crowd)[k] for k in np.flatnonzero(crowd.columns["sublattice"] == "X")[40:50]]
    more = [replace(crowd.defects[0], id=90 + k, center_px=xy, extent_px=xy[None]) for k, xy in enumerate(spare)]
    crowd = replace(crowd, defects=(*crowd.defects, *more)[:MOST_LABELS])
    wide = replace(style, width_mm=width_mm, dpi=72)
    for figure in (overlay(crowd, wide), compose(Scene(crowd, (-0.5, -0.5, 229.5, 185.5), wide), ["image", "defects"])):
        figure.draw_without_rendering()
        for axes in figure.axes:
            boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
            for one, other in combinations(boxes, 2):
                assert not one.overlaps(other)
        assert sum(len(axes.texts) for axes in figure.axes) > 8


def test_the_letters_are_those_that_come_along(tmp_path, caplog):
    """Whatever is installed: the pdf holds them, an svg asks for what is as wide."""
    for name, family in (("nature", "Liberation Sans"), ("aps", "Liberation Serif")):
        with STYLES[name].context():
            file = findfont(FontProperties(family=family), fallback_to_default=False)
        assert Path(file).parent == Path(style_module.__file__).parent / "fonts"
    sheet = Sheet(10.0)
    with NATURE.context():
        sheet.text(1, 1, "σ 0.5 nm")
    save(sheet.figure, tmp_path / "x.svg")
    assert "Arial, 'Liberation Sans', Helvetica" in (tmp_path / "x.svg").read_text()
    save(sheet.figure, tmp_path / "x.pdf")
    assert b"+LiberationSans" in (tmp_path / "x.pdf").read_bytes()
    for style in STYLES.values():
        sheet = Sheet(10.0, style)
        with style.context():
            sheet.text(1, 1, label_text("V_Se2"))
        save(sheet.figure, tmp_path / "y.pdf", style)
    assert not caplog.records  # no letter was looked for in vain


def test_letters_are_as_large_as_journals_ask():
    capitals = 0.66  # of the size, in Times
    assert STYLES["aps"].small_pt * capitals / 72 * 25.4 >= 2.0
    assert STYLES["aps"].line(0.1) >= 0.5 and STYLES["acs"].line(0.1) >= 0.5
    assert 5 <= STYLES["nature"].small_pt <= STYLES["nature"].text_pt <= 7


def test_a_panel_shows_its_view(analysis):
    figure = compose(Scene(analysis, (39.5, 29.5, 139.5, 109.5)), ["image", "simulated", "exx"])
    for axes in [axes for axes in figure.axes if axes.images]:
        box = axes.get_window_extent()
        assert_allclose(box.height / box.width, 0.8, rtol=1e-6)
    image, simulated, _ = (axes for axes in figure.axes if axes.images and axes.get_xlim() == (39.5, 139.5))
    shown = np.asarray(simulated.images[0].get_array())
    assert_allclose(shown[0, 0], analysis.simulated[30, 40])
    assert image.get_ylim() == (109.5, 29.5)


def test_numbers_at_a_residual_are_of_the_pixels_shown(analysis):
    """Those of the candidate, a fit of its own, stand in the caption under their own name."""
    defect, box = analysis.defects[0], (39.5, 29.5, 139.5, 109.5)
    numbers = {"ncc": 0.1234, "ssim": 0.5, "reduced_chi2": 77.0, "log_likelihood": 0.0, "posterior": 1.0}
    fit = Explanation(
        id="1-1", defect=defect.id, label=defect.label, in_95_set=True, evidence_relaxed_minus_unrelaxed=0.0,
        max_displacement_A=0.0, tie_with=(), relaxer="keep", matrix=np.eye(2), offset_px=np.zeros(2), **numbers,
    )  # fmt: skip
    told = replace(analysis, candidates=(fit,), defects=(replace(defect, best_candidate="1-1"), *analysis.defects[1:]))
    scene = Scene(told, box, defect=told.defects[0])
    part = np.s_[30:110, 40:140]
    image, model = analysis.image[part], analysis.simulated[part]
    seen = np.isfinite(model)
    z = (image - model)[seen] / np.sqrt(analysis.noise.variance(model[seen]))
    ncc, chi2 = np.corrcoef(image[seen], model[seen])[0, 1], np.mean(z**2)
    figure = compose(scene, ["residual"])
    (written,) = [text.get_text() for axes in figure.axes for text in axes.texts if "NCC" in text.get_text()]
    assert written == f"NCC {ncc:.3f}\nχ²/n {chi2:.2f}"
    doubt = {**told.document["host"], "source": "inferred", "probability": 0.56}
    doubtful = caption(replace(scene, analysis=replace(told, document={**told.document, "host": doubt})), ["structure"])
    assert "Candidate structures, given WSe2 (P 0.56), posteriors among them alone" in doubtful
    assert "P of exactly this name, whatever the host:" in doubtful
    words = caption(scene, ["residual"])
    assert f"Pixels in view, image against simulation: NCC {ncc:.4f}, reduced chi2 {chi2:.2f}. Best candidate" in words
    assert "Best candidate 1-1, fitted on its own to the patch" in words and "NCC 0.1234, reduced chi2 77.00" in words


def test_no_strain_is_shown_inside_a_defect_that_is_not_understood(analysis):
    """The columns within two lattice constants of a place belong to it: half of that is blank, what lies out is not."""
    middle, columns = np.array([90.0, 95.0]), dict(analysis.columns)
    seen = np.column_stack([columns["x_px"], columns["y_px"]])
    inside = np.hypot(*(seen - middle).T) < 2 * analysis.step_px
    columns["defect_id"] = np.where(inside, 99.0, columns["defect_id"])
    strange = replace(analysis.defects[0], id=99, type="UNKNOWN", best_candidate=None)
    box = (-0.5, -0.5, 229.5, 185.5)
    maps = {}
    for name, one in (
        ("known", analysis), ("unknown", replace(analysis, columns=columns, defects=(*analysis.defects, strange))),
    ):  # fmt: skip
        axes = next(axes for axes in compose(Scene(one, box), ["exx"]).axes if axes.images)
        maps[name] = np.ma.filled(axes.images[0].get_array(), np.nan)
    high, wide = maps["known"].shape
    y, x = (np.arange(high) + 0.5) * 186 / high - 0.5, (np.arange(wide) + 0.5) * 230 / wide - 0.5
    away = np.hypot(*np.meshgrid(x - middle[0], y - middle[1])) / analysis.step_px
    assert np.isfinite(maps["known"][away < 2.5]).all()
    assert (away < 0.9).sum() > 4 and np.isnan(maps["unknown"][away < 0.9]).all()
    rim = (away > 2.0) & (away < 2.5)
    assert np.isfinite(maps["unknown"][rim]).mean() > 0.9


def test_bonds_are_those_of_the_crystal():
    layer = mx2("MoS2", a=3.16, thickness=3.13, size=(5, 5, 1), vacuum=6)
    pairs = bonds(layer.numbers, layer.positions)
    kinds = {tuple(sorted((layer.symbols[i], layer.symbols[j]))) for i, j in pairs}
    assert kinds == {("Mo", "S")}
    most = np.bincount(pairs.ravel(), minlength=len(layer))
    assert most[layer.numbers == 42].max() == 6 and most[layer.numbers == 16].max() == 3
    sheet = graphene(size=(5, 5, 1), vacuum=5)
    assert np.bincount(bonds(sheet.numbers, sheet.positions).ravel()).max() == 3
    assert len(bonds(np.array([74, 74]), np.array([[0.0, 0, 0], [2.7, 0, 0]]))) == 0  # drawn together by a vacancy
    assert len(bonds(np.array([74]), np.zeros((1, 3)))) == 0


def test_upper_atoms_are_drawn_over_lower_ones(analysis):
    axes = Sheet(50.0).axes(0, 0, 60, 50)
    axes.set(xlim=(40, 140), ylim=(120, 40))
    draw_structure(axes, analysis, NATURE)
    (balls,) = [c for c in axes.collections if isinstance(c, EllipseCollection)]
    faces, at = balls.get_facecolors()[::2], balls.get_offsets()[::2]
    drawn = {}
    for face, (x, y) in zip(faces, at, strict=True):
        drawn.setdefault((round(x, 4), round(y, 4)), []).append(face[:3].sum())
    pairs = [brightness for brightness in drawn.values() if len(brightness) == 2]
    assert len(pairs) > 5
    assert all(first < second for first, second in pairs)  # the lower and darker one first


def labels_of(figure):
    return [text.get_text() for axes in figure.axes if axes.get_legend() for text in axes.get_legend().get_texts()]


def balls_at(axes, xy, reach):
    balls = [c for c in axes.collections if isinstance(c, EllipseCollection)]
    at = np.concatenate([c.get_offsets()[::2] for c in balls])
    return int((np.hypot(*(at - xy).T) < reach).sum())


def test_what_no_structure_explains_has_no_atoms(analysis):
    """An unknown place is drawn empty, the caption says so; a vacancy of which one candidate is known is not."""
    defect = next(d for d in analysis.defects if d.label == "V_Se")
    x, y = defect.center_px
    box = (x - 30, y - 30, x + 30, y + 30)
    strange = replace(defect, type="UNKNOWN", label="UNKNOWN", best_candidate=None)
    others = tuple(d for d in analysis.defects if d.id != defect.id)
    drawn = {}
    for name, one in (("known", analysis), ("unknown", replace(analysis, defects=(strange, *others)))):
        scene = Scene(one, box)
        axes = next(a for a in compose(scene, ["structure"]).axes if a.images)
        drawn[name] = balls_at(axes, defect.center_px, analysis.nearest_px / 2), caption(scene, ["structure"])
    assert drawn["known"][0] == 2 and drawn["unknown"][0] == 0
    empty = f"No structure explains {defect.id}: sites there are drawn empty, and simulated as measured."
    assert empty in drawn["unknown"][1] and "No structure explains" not in drawn["known"][1]


def exchanged(analysis, defect, keep):
    """The same with the structure changed in one column: `keep(atoms, indices from the lowest)` gives new atoms."""
    atoms = analysis.structures["structure"].copy()
    column = np.flatnonzero(atoms.arrays["defect_id"] == defect.id)
    return replace(analysis, structures={"structure": keep(atoms, column[np.argsort(atoms.positions[column, 2])])})


def test_half_filled_columns_have_a_ring(analysis):
    """One of two atoms left: a broken ring about it and a sign for it, neither where both are there."""
    defect = next(d for d in analysis.defects if d.label == "V_Se")
    x, y = defect.center_px
    box = (x - 30, y - 30, x + 30, y + 30)

    def without_lower(atoms, column):
        del atoms[column[0]]
        return atoms

    for one, many in ((analysis, 0), (exchanged(analysis, defect, without_lower), 1)):
        figure = compose(Scene(one, box), ["structure"])
        axes = next(a for a in figure.axes if a.images)
        rings = [line for line in axes.lines if not isinstance(line.get_marker(), str)]
        assert sum(len(line.get_xdata()) for line in rings) == many
        assert labels_of(figure).count("one of two atoms missing") == many
        if many:
            assert_allclose(np.column_stack(rings[0].get_data()), [[x, y]], atol=2.0)


def test_a_foreign_atom_lies_over_the_one_it_shares_a_column_with(analysis):
    defect = next(d for d in analysis.defects if d.label == "V_Se")

    def sulphur_below(atoms, column):
        atoms.numbers[column[0]] = 16
        atoms.arrays["marker"][column] = [1, 0]
        return atoms

    axes = Sheet(50.0).axes(0, 0, 60, 50)
    x, y = defect.center_px
    axes.set(xlim=(x - 30, x + 30), ylim=(y + 30, y - 30))
    draw_structure(axes, exchanged(analysis, defect, sulphur_below), NATURE)
    (balls,) = [c for c in axes.collections if isinstance(c, EllipseCollection)]
    here = np.flatnonzero(np.hypot(*(balls.get_offsets()[::2] - defect.center_px).T) < analysis.nearest_px / 2)
    red, green, blue, _ = balls.get_facecolors()[::2][here[-1]]
    assert len(here) == 2 and red > 0.99 and green > 0.99 and blue < 0.3  # sulphur, as bright as it gets


def test_the_outline_is_in_image_structure_and_simulation(analysis):
    x, y = analysis.defects[0].center_px
    figure = compose(Scene(analysis, (x - 30, y - 30, x + 30, y + 30), defect=analysis.defects[0]), CLOSE_UP)
    found = [sum(line.get_linestyle() != "None" for line in axes.lines) for axes in figure.axes if axes.images]
    assert found[0] == found[3] == 0 and found[1] == found[2] > 0
    page = overlay(analysis)
    rows = [axes for axes in page.axes if axes.images][4:8]
    assert [len(axes.lines) > 0 for axes in rows] == [True, True, True, False]


def test_the_page_says_what_its_close_ups_are(analysis):
    scene = Scene(analysis, (-0.5, -0.5, 229.5, 185.5))
    words = caption(scene, [])
    assert "image, structure (relaxed, of the best candidate, over the image), simulated, residual" in words
    assert "Balls: atoms" in words and "jitter of rows put back" in words
    assert "of the pixels in view" in words and "of their own fit" in words
    assert "model, residual" not in words
    assert {"W atom", "Se atom"} <= set(labels_of(overlay(analysis)))


def test_a_close_up_says_number_and_probability(analysis):
    defect = replace(analysis.defects[0], type="UNKNOWN", label="UNKNOWN", probability=0.997)
    told = replace(analysis, defects=(defect, *analysis.defects[1:]))
    x, y = defect.center_px
    box = (x - 25, y - 25, x + 25, y + 25)
    for scene in (Scene(told, box, defect=defect), Scene(told, box)):
        titles = [text.get_text() for text in compose(scene, CLOSE_UP).texts]
        assert any(f"{defect.id}  unknown >0.99" in title for title in titles)
    assert not any("unknown" in t.get_text() for t in compose(Scene(told, box, labels=False), CLOSE_UP).texts)


def test_a_wider_view_says_numbers_and_probabilities_in_the_structure(analysis):
    figure = compose(Scene(analysis, (-0.5, -0.5, 229.5, 185.5), replace(NATURE, width_mm=183.0)), ["structure"])
    axes = next(a for a in figure.axes if a.images)
    few = replace(analysis, defects=analysis.defects[:2])
    assert len(analysis.defects) > MOST_NAMES and not axes.texts
    figure = compose(Scene(few, (-0.5, -0.5, 229.5, 185.5), replace(NATURE, width_mm=183.0)), ["structure"])
    axes = next(a for a in figure.axes if a.images)
    assert {t.get_text() for t in axes.texts} >= {numbered_claim(d) for d in few.defects}


def test_the_legend_names_the_elements_in_view_alone(analysis):
    """A foreign atom less than a bond beyond the edge is drawn as far as it reaches in, and not listed."""
    defect = next(d for d in analysis.defects if d.label == "V_Se")

    def with_sulphur(atoms, column):
        atoms.numbers[column] = 16
        return atoms

    told, (x, y) = exchanged(analysis, defect, with_sulphur), defect.center_px
    assert "S" in labels_of(compose(Scene(told, (x - 40, y - 40, x + 4, y + 40)), ["structure"]))
    beside = labels_of(compose(Scene(told, (x - 44, y - 40, x - 4, y + 40)), ["structure"]))
    assert "S" not in beside and {"W", "Se"} <= set(beside)


def test_panels_fit_a_slide(analysis):
    """Seven panels in two rows, shrunk; a single one as well; what cannot fit stays as large as it is."""
    slide, whole = replace(STYLES["slide"], dpi=40), (-0.5, -0.5, 229.5, 185.5)
    for names in (["image", "defects", "strain", "residual"], ["image"]):
        figure = compose(Scene(analysis, whole, slide), names)
        assert figure.get_size_inches()[1] * 25.4 <= 254 * 9 / 16
        for axes in (a for a in figure.axes if a.images):
            box = axes.get_window_extent()
            assert_allclose(box.width / box.height, 230 / 186, rtol=1e-6)
    assert compose(Scene(analysis, whole, slide), list(TITLES)).get_size_inches()[1] * 25.4 > 254 * 9 / 16


def test_signed_colours_are_as_strong_on_both_sides():
    shades = colour_map(SIGNED)(np.linspace(0, 1, 101))[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert shades.argmax() in range(48, 53)
    assert (np.diff(shades[:49]) > -0.01).all() and (np.diff(shades[52:]) < 0.01).all()
    assert abs(shades[25] - shades[75]) < 0.12
