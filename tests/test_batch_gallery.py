"""The page of a folder: safe whatever files are called, closed to the network, filtered in a browser."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from batch_stub import SETTINGS, defect, image
from PIL import Image
from test_batch import here
from test_batch_tables import NASTY

from stemfit.batch import Request, gallery, run, thumbnail
from stemfit.batch.records import natural

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install Debian's package chromium")


NASTY_SURE = sorted([NASTY[0], NASTY[2], NASTY[4]], key=natural)
"""Of even numbers."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve good images of two hosts, two that fail, with pictures."""
    place = tmp_path_factory.mktemp("gallery")
    numbers = [0, 1, 2, 3, 10, 11, 25, 30, 44, 51, 62, 99]
    for k, name in enumerate([*NASTY, *(f"day {k}/x.tif" for k in range(7))]):
        image(place / "in" / name, numbers[k])
    image(place / "in/z bad.tif", 7, "damaged")
    image(place / "in/z <b>bug.tif", 7, "bug")
    asked = Request(place / "in", place / "out", SETTINGS)
    run(asked, here)
    for folder in (place / "out").rglob("*.stemfit"):
        Image.new("L", (20, 10), 90).save(folder / thumbnail.NAME, "JPEG")
    run(asked, here)
    return place / "out"


@pytest.fixture(scope="module")
def html(results: Path) -> str:
    return (results / "index.html").read_text(encoding="utf-8")


def test_nothing_from_outside_is_markup(html: str) -> None:
    assert "<img src=x" not in html and "<b>bug" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;.tif" in html and "z &lt;b&gt;bug.tif" in html


def test_nothing_is_loaded(html: str) -> None:
    assert "default-src 'none'" in unescape(html) and html.count("<script>") == 1
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', html)
    assert set(re.findall(r'src="([^,"]*)', html)) == {"data:image/jpeg;base64", "data:image/svg+xml;base64"}
    assert "img-src data:;" in unescape(html)


def test_what_the_page_is_of(html: str) -> None:
    assert re.search(r"made 20\d\d-\d\d-\d\d \d\d:\d\d UTC by stemfit \S+\+[0-9a-f]{16}, relaxer keep</summary>", html)
    for name in ("summary.csv", "summary.parquet", "statistics.csv", "index.sqlite", "statistics.pdf"):
        assert f'<a href="{name}">{name}</a>' in html
    assert "in 6 of 12 images the host is not certain" in unescape(html)
    assert html.count('<span class="bad">P 0.90</span>') == 6 == html.count('<span class="quiet">P 0.90</span>')


def test_a_failure_shows_its_traceback(html: str) -> None:
    assert html.count("<summary>traceback</summary><pre>Traceback") == 2
    assert "RuntimeError: bug 7" in html


@contextlib.contextmanager
def changed(results: Path, name: str, part: str, value: Any) -> Iterator[str]:
    """The page when one result says something else."""
    (place,) = [path for path in results.glob("*.stemfit") if path.name.startswith(name)]
    path = place / "analysis.json"
    text = path.read_text()
    try:
        path.write_text(json.dumps({**json.loads(text), part: value}))
        run(Request(results.parent / "in", results, SETTINGS), here)
        yield (results / "index.html").read_text(encoding="utf-8")
    finally:
        path.write_text(text)
        run(Request(results.parent / "in", results, SETTINGS), here)


def test_suspects_are_no_defects_and_not_nothing(results: Path, html: str) -> None:
    assert html.count("no defect claimed") == 1 and "suspect<" not in html
    with changed(results, NASTY[0], "suspects", [{**defect(9, "SV", "V_S"), "probability": 0.3}]) as now:
        assert re.search(r'no defect claimed<span class="tally quiet">1 suspect</span>', now)


def test_a_crystal_that_nobody_knows_has_no_name(results: Path, html: str) -> None:
    none = {"name": "GaSe", "source": "inferred", "probability": 0.004}
    with changed(results, NASTY[0], "host", none) as now:
        assert '<b class="bad">no known crystal</b> <span class="quiet">analysed as GaSe</span>' in now
    with changed(results, NASTY[0], "host", {**none, "source": "stated"}) as now:
        assert "no known crystal" not in now and "<b>GaSe</b>" in now
    assert "no known crystal" not in html


def test_every_image_has_a_card_and_failures_come_first(html: str) -> None:
    cards = re.findall(r'<article class="card (\w+)"', html)
    assert cards == ["failed"] * 2 + ["ok"] * 12
    assert "damaged; copy it again" in html and "unexpected RuntimeError (bug 7)" in html


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as started:
        running = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(params=[1280, 360], ids=["wide", "narrow"])
def page(request: pytest.FixtureRequest, browser: Any, results: Path) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": request.param, "height": 800})
    page, wrong = context.new_page(), []
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda asked: wrong.append(asked.url) if asked.url[:5] not in ("file:", "data:") else None)
    page.goto((results / "index.html").as_uri())
    yield page
    context.close()
    assert wrong == []


def shown(page: Any) -> list[str]:
    return page.eval_on_selector_all(".card", "all => all.filter(c => !c.hidden).map(c => c.dataset.name)")


@in_a_browser
def test_filters(page: Any) -> None:
    assert len(shown(page)) == 14
    page.select_option("[name=status]", "failed")
    assert shown(page) == ["z <b>bug.tif", "z bad.tif"]
    assert page.inner_text("#shown") == "2 of 14 images shown"
    page.click("[type=reset]")
    page.get_by_text("14 of 14 images shown").wait_for()  # the page obeys a reset a moment later, and forbids eval
    page.select_option("[name=host]", "WSe2")  # odd numbers
    assert len(shown(page)) == 6
    page.select_option("[name=type]", "DV")  # 11, 25, 51, 99 of them
    assert len(shown(page)) == 4
    page.fill("[name=low]", "6")  # 1.25 nm^2: more than 7.5 defects
    assert len(shown(page)) == 1
    page.click("[type=reset]")
    page.select_option("[name=type]", "-")
    assert shown(page) == [NASTY[0]]
    page.click("[type=reset]")
    page.select_option("[name=sure]", "host metal")  # even numbers, and nothing that failed
    assert shown(page) == [*NASTY_SURE, "day 2/x.tif", "day 3/x.tif", "day 5/x.tif"]
    page.select_option("[name=sure]", label="nothing in doubt")  # but 44, which is blind
    assert shown(page) == [*NASTY_SURE, "day 2/x.tif", "day 5/x.tif"]
    page.select_option("[name=sure]", "vacancies")
    assert len(shown(page)) == 11


@in_a_browser
def test_order(page: Any) -> None:
    page.select_option("[name=order]", "density")
    names = shown(page)
    assert names[0] == "day 6/x.tif" and set(names[-2:]) == {"z <b>bug.tif", "z bad.tif"}
    page.select_option("[name=order]", "name")
    assert shown(page) == sorted(shown(page), key=natural)
    page.click("[type=reset]")
    page.get_by_text("14 of 14 images shown").wait_for()
    assert shown(page)[:2] == ["z <b>bug.tif", "z bad.tif"]


@in_a_browser
def test_uneven_densities_stand_out_in_lines_of_labels_too(page: Any) -> None:
    colours = page.evaluate("""["whole", "kind", "name"].map(name => {
        const cell = document.querySelector(`.densities tr.${name} td:last-child`);
        cell.classList.add("uneven");
        return getComputedStyle(cell).color;
    })""")
    assert len(set(colours)) == 1


@in_a_browser
def test_cards_move_only_when_their_order_changes(page: Any) -> None:
    page.evaluate("""window.moved = 0; new MutationObserver(seen => { window.moved += seen.length; }).observe(
        document.getElementById("cards"), {childList: true})""")
    page.fill("[name=name]", "day")
    page.get_by_text("7 of 14 images shown").wait_for()
    assert page.evaluate("window.moved") == 0
    page.select_option("[name=order]", "ncc")
    assert page.evaluate("window.moved") > 0


@in_a_browser
def test_it_fits(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.eval_on_selector(".scroll", "e => e.scrollWidth <= e.clientWidth")  # no column is cut off
    assert page.eval_on_selector(".look-at img", "img => img.naturalWidth") == 20
    box, over = (page.eval_on_selector(f".look-at {one}", "e => e.getBoundingClientRect().toJSON()")
                 for one in ("img", "svg"))  # fmt: skip
    assert box == over  # the circles lie on the picture


@in_a_browser
def test_a_card_leads_to_its_report(page: Any, results: Path) -> None:
    links = page.eval_on_selector_all("a.look-at", "all => all.map(a => a.href)")
    there = {(path / "report.html").as_uri() for path in results.rglob("*.stemfit")}
    assert {unquote(link) for link in links} == {unquote(uri) for uri in there}


@pytest.fixture
def beside(results: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same page where there are more images than one should hold."""
    monkeypatch.setattr(gallery, "MOST_WITHIN", 5)
    asked = Request(results.parent / "in", results, SETTINGS)
    run(asked, here)
    yield results / "index.html"
    monkeypatch.undo()
    run(asked, here)


@in_a_browser
def test_many_pictures_stay_beside_the_page(browser: Any, beside: Path) -> None:
    html = beside.read_text(encoding="utf-8")
    assert "data:image/jpeg" not in html and html.count('/thumbnail.jpg"') == 12
    assert not re.findall(r'(?:src|href)="(?:[a-z]+:)?//', html)
    page, wrong = browser.new_page(), []
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    page.on("request", lambda asked: wrong.append(asked.url) if asked.url[:5] not in ("file:", "data:") else None)
    page.goto(beside.as_uri())
    page.eval_on_selector_all(".look-at img", "all => all.forEach(e => e.scrollIntoView())")
    page.locator(".look-at img").first.scroll_into_view_if_needed()
    page.wait_for_function("[...document.querySelectorAll('.look-at img')].some(e => e.naturalWidth === 20)")
    page.close()
    assert wrong == []
