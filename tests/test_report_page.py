"""The page as people meet it: in a browser, from a file, with a mouse, a finger or the keyboard, without a network."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import handmade
import numpy as np
import pytest
from test_report import hostile, large, stating

from stemfit.analysis import Analysis
from stemfit.report import html
from stemfit.result import write

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install Debian's package chromium")

PIXELS = """canvas => {
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let hash = 0;
  for (const value of data) hash = (31 * hash + value) | 0;
  return hash;
}"""

SPREAD = """canvas => {
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const green = data.filter((_, k) => k % 4 === 1), mean = green.reduce((a, b) => a + b, 0) / green.length;
  return Math.sqrt(green.reduce((sum, one) => sum + (one - mean) ** 2, 0) / green.length);
}"""

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    """With two structures at the first defect that cannot be told apart."""
    made = Analysis.load(write(handmade.analysis(), tmp_path_factory.mktemp("page") / "x.stemfit"))
    first, *others = made.candidates
    twin = replace(first, id="1-2", label="V_S", posterior=0.4, tie_with=("1-1",))
    atoms = {name: made.structures[name] for name in ("1-1", "2-1")}
    imaging = made.document["imaging"]
    lights = {**imaging["amplitudes"], "Se": {"value": 110.0, "sigma": 3.0, "source": "table"}}
    candidates = (replace(first, tie_with=("1-2",)), twin, *others)
    tied = replace(made, candidates=candidates, structures={**atoms, "1-2": atoms["1-1"]})
    return stating(tied, imaging={**imaging, "amplitudes": lights})


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as started:
        running = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, analysis: Analysis) -> Path:
    place = tmp_path_factory.mktemp("pages")
    (place / "report.html").write_text(html(analysis), encoding="utf-8")
    return place


@pytest.fixture
def visit(browser: Any, folder: Path) -> Iterator[Open]:
    """Opens a page, and complains at the end about every error and every request for anything but the file."""
    contexts, wrong = [], []

    def go(name: str = "report.html", *, width: int = 1280, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda asked: wrong.append(asked.url) if asked.url[:5] not in ("file:", "data:") else None)
        page.goto((folder / name).as_uri())
        if options.get("java_script_enabled", True):
            page.wait_for_selector("#map[data-ready]")
            settle(page)
        return page

    yield go
    for context in contexts:
        context.close()
    assert wrong == []


def settle(page: Any) -> None:
    """Until what was asked for is drawn."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def drawn(page: Any, canvas: str = "#map") -> int:
    settle(page)
    return int(page.eval_on_selector(canvas, PIXELS))


def view(page: Any) -> dict[str, Any]:
    """What is in view."""
    seen = "({ scale: page.view.scale, shift: page.view.shift, fit: page.view.fit(), picked: page.view.picked })"
    return dict(page.evaluate(seen))


def at(page: Any, x: float, y: float) -> dict[str, float]:
    """Where a pixel of the image is on the canvas."""
    u, v = page.evaluate("([x, y]) => page.view.toScreen(x, y)", [float(x), float(y)])
    return {"x": u, "y": v}


def test_it_opens_and_shows_the_image(visit: Open) -> None:
    page = visit()
    assert page.title() == "image.tif: MoSe2"
    assert page.eval_on_selector("#map", SPREAD) > 20
    assert page.locator("#legend li").all_inner_texts()[0].startswith("Mo (")


def test_nothing_can_be_sent(browser: Any, folder: Path) -> None:
    page = browser.new_page()
    page.goto((folder / "report.html").as_uri())
    held = """() => new Promise(done => {
      document.addEventListener("securitypolicyviolation", event => done(event.effectiveDirective));
      fetch("http://127.0.0.1:9/").catch(() => {});
    })"""
    assert page.evaluate(held) == "connect-src"
    page.close()


def test_layers_and_pictures_can_be_switched(visit: Open) -> None:
    page = visit()
    seen = {drawn(page)}
    for name in ("columns", "lattice", "names", "suspects", "defects", "regions"):
        page.locator(f"input[value={name}]").click()
        seen.add(drawn(page))
    for name in ("simulated", "residual"):
        page.locator(f"input[value={name}]").check()
        seen.add(drawn(page))
    assert len(seen) == 9
    assert page.locator(".scale").is_visible()


def test_pointing_at_a_column_or_a_defect_tells_its_numbers(visit: Open, analysis: Analysis) -> None:
    page = visit()
    x, y = (analysis.columns[name][40] for name in ("x_px", "y_px"))
    page.locator("#map").hover(position=at(page, x, y))
    tip = page.locator("#tip").inner_text()
    assert "Column 41: " in tip and f"x {x:.2f} ± 0.10 px, y {y:.2f} ± 0.20 px" in tip and "± 5.0" in tip
    page.locator("#map").hover(position=at(page, *analysis.defects[1].center_px))
    assert "Defect 2: VSe2 DV, P 0.95" in page.locator("#tip").inner_text()
    assert "or else VSe 0.03" in page.locator("#said").text_content()
    assert page.locator("tr.near").get_attribute("data-id") == "2"


def test_list_and_image_pick_for_each_other(visit: Open, analysis: Analysis) -> None:
    page = visit()
    assert page.locator("tr.picked").get_attribute("data-id") == "1"
    page.locator("tr[data-id='3'] td.name").click()
    settle(page)
    seen = view(page)
    assert seen["picked"] == 3 and seen["scale"] > 1.2 * seen["fit"]
    where, size = at(page, *analysis.defects[2].center_px), page.locator("#map").bounding_box()
    assert 0 < where["x"] < size["width"] and 0 < where["y"] < size["height"]
    assert page.locator(".dossier:visible").get_attribute("id") == "defect-3"
    page.get_by_role("button", name="Show the whole image").click()
    page.locator("#map").click(position=at(page, *analysis.defects[1].center_px))
    assert page.locator("tr.picked").get_attribute("data-id") == "2"
    assert page.locator("tr[data-id='2'] .pick").get_attribute("aria-pressed") == "true"
    assert page.locator(".dossier:visible").get_attribute("id") == "defect-2"


def test_the_list_sorts_and_filters(visit: Open) -> None:
    page = visit()

    def order() -> list[str]:
        return [row.get_attribute("data-id") for row in page.locator("#table tbody tr:visible").all()]

    chance = page.get_by_role("button", name="P", exact=True)
    chance.click()
    assert order()[:2] == ["4", "3"] and page.locator("th[aria-sort=ascending]").inner_text() == "P"
    chance.click()
    assert order()[-2:] == ["3", "4"]
    page.get_by_role("button", name="type").click()
    types = [row.split()[1] for row in page.locator("#table tbody tr").all_inner_texts()]
    assert types == ["DV", "SV", "SV", "UNKNOWN"]
    before = drawn(page)
    page.get_by_label("DV (1)").uncheck()
    assert "2" not in order() and len(order()) == 3
    assert drawn(page) != before  # the image leaves it out, too


def test_the_keyboard_reaches_everything(visit: Open) -> None:
    page = visit()
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
        ring = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert ring != "none", reached[-1]
    assert reached[0] == "skip"
    order = [reached.index(name) for name in ("map", "pick", "atoms", "look")]
    assert order == sorted(order)  # as it is read
    page.locator("#map").focus()
    whole = view(page)
    page.keyboard.press("+")
    near = view(page)
    assert near["scale"] > whole["scale"]
    page.keyboard.press("ArrowRight")
    assert view(page)["shift"] != near["shift"]
    page.keyboard.press("0")
    assert view(page)["scale"] == pytest.approx(whole["scale"])
    page.keyboard.press("n")
    assert page.locator("tr.picked").get_attribute("data-id") == "2"
    assert "Defect 2: VSe2 DV, P 0.95" in page.locator("#tip").inner_text()
    page.keyboard.press("Shift+ArrowLeft")
    first = page.locator("#said").text_content()
    page.keyboard.press("Shift+ArrowLeft")
    assert "±" in first and page.locator("#said").text_content() != first
    page.locator("tr[data-id='1'] .pick").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.locator("tr.picked").get_attribute("data-id") == "3"


def test_candidates_stand_side_by_side(visit: Open) -> None:
    page = visit()
    rows = page.locator("#defect-1 tr[data-candidate]")
    page.wait_for_selector("#defect-1[data-drawn]")
    assert rows.count() == 2 and rows.locator(".patch canvas").count() == 2 and rows.locator(".tie").count() == 2
    assert page.eval_on_selector("#defect-1 .patch canvas", SPREAD) > 1
    assert len({drawn(page, f"[data-tile={name}]") for name in ("image", "simulated", "residual")}) == 3
    assert "Candidate 1-1" in page.locator("#which").inner_text()
    page.wait_for_selector("#over[data-of='1-1']")
    over = drawn(page, "#over canvas")
    assert over != drawn(page, "[data-tile=image]") and page.eval_on_selector("#over canvas", SPREAD) > 20
    page.get_by_role("button", name="1-2").click()
    assert "Candidate 1-2, relaxed: VS" in page.locator("#which").inner_text()
    page.wait_for_selector("#over[data-of='1-2']")


def test_the_drawn_structure_lies_on_the_image(visit: Open, analysis: Analysis) -> None:
    """At a column of the image there is an atom, in its colour."""
    page = visit()
    page.wait_for_selector("#over[data-of='1-1']")
    defect = analysis.defects[0]
    spot = """([u, v]) => { const ink = document.querySelector("#over canvas").getContext("2d");
      return [...ink.getImageData(Math.round(260 * u), Math.round(260 * v), 1, 1).data.slice(0, 3)]; }"""
    # as closeups.js has it: the extent and 1.7 cells on each side
    cell = float(np.sqrt(abs(np.linalg.det(analysis.cell_px))))
    side = 2 * float(np.abs(defect.extent_px - defect.center_px).max()) + 3.4 * cell
    h, w = analysis.image.shape
    left, top = (np.clip(c + 0.5 - side / 2, 0, n - side) for c, n in zip(defect.center_px, (w, h), strict=True))
    at = np.column_stack([analysis.columns["x_px"], analysis.columns["y_px"]])
    metal = at[(analysis.columns["sublattice"] == "M")]
    nearest = metal[np.argmin(np.hypot(*(metal - defect.center_px).T))]
    colour = page.evaluate(spot, [float((nearest[0] + 0.5 - left) / side), float((nearest[1] + 0.5 - top) / side)])
    assert "#" + bytes(colour).hex() == page.evaluate("page.scene.elements.Mo[0]")


def test_many_suspects_have_no_names_until_one_looks_closer(visit: Open, analysis: Analysis, folder: Path) -> None:
    first = analysis.suspects[0]
    steps = [np.array([5.0 * k, 0.0]) for k in range(14)]
    many = [
        replace(first, id=100 + k, center_px=first.center_px + step, extent_px=first.extent_px + step)
        for k, step in enumerate(steps)
    ]
    (folder / "many.html").write_text(html(replace(analysis, suspects=tuple(many))), encoding="utf-8")
    page = visit("many.html")
    page.evaluate("""() => {
      const ink = CanvasRenderingContext2D.prototype, plain = ink.fillText;
      page.said = [];
      ink.fillText = function (words, ...more) { page.said.push(words); plain.call(this, words, ...more); };
    }""")

    def suspects_named() -> bool:
        page.evaluate("() => { page.said.length = 0; page.view.redraw(); }")
        settle(page)
        return any("?" in words for words in page.evaluate("page.said"))

    assert not suspects_named()
    page.locator("tr[data-id='105'] .pick").click()
    assert suspects_named()


def test_structures_are_seen_in_three_dimensions(visit: Open) -> None:
    page = visit()
    atoms = page.locator("#atoms")
    if atoms.locator("canvas").count() == 0:
        assert "draws nothing in three dimensions" in atoms.inner_text()
        pytest.skip("this Chromium has no WebGL")
    above = atoms.screenshot()
    assert len(set(above)) > 100 and len(above) > 3000  # an empty box is a few hundred bytes
    page.get_by_role("button", name="from the side").click()
    settle(page)
    side = atoms.screenshot()
    assert side != above
    atoms.focus()
    page.keyboard.press("ArrowLeft")
    settle(page)
    assert atoms.screenshot() != side
    assert page.locator("#elements li").all_inner_texts() == ["Mo", "Se"]
    held = page.evaluate("page.scene.candidates['1'][0].bonds.length")
    sticks = "page.viewer().getModel().selectedAtoms({}).reduce((n, atom) => n + atom.bonds.length, 0) / 2"
    assert page.evaluate(sticks) == held > 0  # none that 3Dmol.js made up


def test_a_phone_shows_all_of_it(visit: Open, analysis: Analysis) -> None:
    page = visit(width=360, has_touch=True, is_mobile=True, device_scale_factor=2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.locator("#map").tap(position=at(page, *analysis.defects[1].center_px))
    assert page.locator("tr.picked").get_attribute("data-id") == "2"
    tip = page.locator("#tip").bounding_box()
    assert tip is not None and tip["x"] >= 0 and tip["x"] + tip["width"] <= 360


def test_without_scripts_everything_is_still_said(visit: Open) -> None:
    page = visit(java_script_enabled=False)
    assert page.locator(".dossier:visible").count() == 4 and page.locator("#table tbody tr:visible").count() == 4


def test_hostile_names_do_nothing(visit: Open, analysis: Analysis, folder: Path) -> None:
    (folder / "evil.html").write_text(html(hostile(analysis)), encoding="utf-8")
    page = visit("evil.html")
    page.on("dialog", lambda dialog: pytest.fail("a name became a script"))
    page.locator("#map").hover(position=at(page, *analysis.defects[0].center_px))
    page.locator("#map").click(position=at(page, *analysis.defects[1].center_px))
    assert "<img src=x onerror=alert('x')>" in page.locator("#tip").inner_text()
    assert page.evaluate("document.images.length") == 3  # the pictures


def test_many_columns_are_drawn(visit: Open, analysis: Analysis, folder: Path) -> None:
    (folder / "large.html").write_text(html(large(analysis)), encoding="utf-8")
    page = visit("large.html")
    with_columns = drawn(page)
    page.locator("input[value=columns]").click()
    assert drawn(page) != with_columns
