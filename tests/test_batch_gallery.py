"""The page of a folder: safe whatever files are called, closed to the network, filtered in a browser."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from batch_stub import SETTINGS, image
from PIL import Image
from test_batch import here
from test_batch_tables import NASTY

from stemfit.batch import Request, run, thumbnail

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install Debian's package chromium")


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
    assert set(re.findall(r'src="([^,"]*)', html)) == {"data:image/jpeg;base64"}


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
    page.fill("[name=low]", "5")  # 1.5 nm^2: more than 7.5 defects
    assert len(shown(page)) == 1
    page.click("[type=reset]")
    page.select_option("[name=type]", "-")
    assert shown(page) == [NASTY[0]]
    page.click("[type=reset]")
    page.fill("[name=name]", "DAY ")
    page.check("[name=calm]")
    assert shown(page) == ["day 2/x.tif", "day 3/x.tif", "day 5/x.tif"]


@in_a_browser
def test_order(page: Any) -> None:
    page.select_option("[name=order]", "density")
    names = shown(page)
    assert names[0] == "day 6/x.tif" and set(names[-2:]) == {"z <b>bug.tif", "z bad.tif"}
    page.select_option("[name=order]", "name")
    assert shown(page) == sorted(shown(page), key=lambda name: name.encode("utf-16-be"))


@in_a_browser
def test_it_fits(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.eval_on_selector(".look-at img", "img => img.naturalWidth") == 20
    box, over = (page.eval_on_selector(f".look-at {one}", "e => e.getBoundingClientRect().toJSON()")
                 for one in ("img", "svg"))  # fmt: skip
    assert box == over  # the circles lie on the picture


@in_a_browser
def test_a_card_leads_to_its_report(page: Any, results: Path) -> None:
    links = page.eval_on_selector_all("a.look-at", "all => all.map(a => a.href)")
    there = {(path / "report.html").as_uri() for path in results.rglob("*.stemfit")}
    assert {unquote(link) for link in links} == {unquote(uri) for uri in there}
