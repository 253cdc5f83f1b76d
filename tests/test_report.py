"""The page of one image: complete, self-contained, and safe against what stands in file names."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from fake_analysis import fake_analysis

from stemfit.report import html

PNG = b"\x89PNG fake"
EVIL = "<script>alert('x')</script>&\""


class Page(HTMLParser):
    """Tags, addresses and visible text; complains about tags that do not nest."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.text, self.open = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "srcset", "action")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def analysis():
    return fake_analysis(shape=(280, 350))


@pytest.fixture(scope="module")
def page(analysis):
    return Page(html(analysis, PNG))


def test_nothing_is_loaded_from_elsewhere(page):
    assert page.addresses == ["data:image/png;base64,iVBORyBmYWtl"]
    assert "script" not in page.tags
    assert "link" not in page.tags


def test_warnings_come_before_everything_else(analysis):
    text = html(analysis, PNG)
    assert text.index("differs from the lattice") < text.index("<img") < text.index("<table")
    assert 'class="warnings"' not in html(replace(analysis, warnings=()), PNG)


def test_everything_is_told(page, analysis):
    text = " ".join(page.text)
    calibration = analysis.calibration
    assert f"{calibration.pixel_size_A:.5f} ± {calibration.pixel_size_sigma_A:.5f}" in text
    for name, _ in analysis.host.alternatives:
        assert name in text
    for candidate in analysis.candidates:
        assert candidate.id in text
    for region in analysis.regions:
        assert region.reason in text
    for word in ("columns", "3.20 s", "voltage_kV", "this image", analysis.micrograph.sha256):
        assert word in text


def test_one_row_for_every_defect_and_candidate(analysis):
    text = html(analysis, PNG)
    sections = dict(re.findall(r"<h2>(.*?)</h2>\n(.*?)(?=<h2>|</body>)", text, re.S))
    assert sections["Defects"].count("<tr>") == len(analysis.defects) + 1
    assert sections["Candidate structures"].count("<tr>") == len(analysis.candidates) + 1
    assert sections["Suspected, not claimed"].count("<tr>") == len(analysis.suspects) + 1


def test_labels_are_set_as_in_the_field(analysis):
    text = html(analysis, PNG)
    assert "<b>V<sub>Se</sub></b>" in text
    assert "<b>V<sub>Se<sub>2</sub></sub></b>" in text


def test_a_pair_in_place_of_a_pair_is_bracketed(analysis):
    pair = replace(analysis, defects=(replace(analysis.defects[0], label="O2_Se2"),))
    assert "<b>(O<sub>2</sub>)<sub>Se<sub>2</sub></sub></b>" in html(pair, PNG)


def test_no_certainty_is_claimed(analysis):
    sure = replace(analysis, defects=tuple(replace(d, probability=1.0) for d in analysis.defects))
    assert "1.00</td>" not in re.sub(r"<h2>Candidate.*", "", html(sure, PNG), flags=re.S)
    assert "&gt;0.99" in html(sure, PNG)


def test_what_comes_from_outside_is_escaped(analysis):
    evil = replace(
        analysis,
        micrograph=replace(analysis.micrograph, path=Path(EVIL.replace("/", ""))),
        warnings=(EVIL,),
        settings={EVIL: EVIL},
        environment={EVIL: EVIL},
        timings_s={EVIL: 1.0},
        regions=tuple(replace(region, kind=EVIL, reason=EVIL) for region in analysis.regions),
        defects=tuple(replace(d, type=EVIL, label=EVIL, alternatives=((EVIL, 0.1),)) for d in analysis.defects),
        host=replace(analysis.host, source=EVIL, alternatives=((EVIL, 0.1),)),
    )
    page = Page(html(evil, PNG))
    assert "script" not in page.tags
    assert "".join(page.text).count("alert('x')") >= 12


def test_not_a_number_is_a_dash(analysis):
    scores = tuple(replace(score, ssim=np.nan) for score in analysis.scores)
    text = html(replace(analysis, scores=scores), PNG)
    assert "nan" not in text.lower().replace("nanometre", "")


def test_nothing_found_is_said():
    bare = fake_analysis(shape=(200, 240), vacancies=0, region=False, suspects=False, line=False)
    text = html(replace(bare, defects=(), candidates=(), relaxed=(), scores=()), PNG)
    for sentence in ("No defect is more probable", "Everything was analysed", "None was needed", "0 defects"):
        assert sentence in text
