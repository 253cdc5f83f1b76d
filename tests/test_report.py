"""The page of one image: complete, self-contained, and safe against what stands in file names."""

from __future__ import annotations

import json
import re
import tomllib
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import handmade
import numpy as np
import pytest

from stemfit.analysis import Analysis
from stemfit.report import html, words
from stemfit.report.pictures import levels, reduced, signed
from stemfit.result import write

EVIL = "<img src=x onerror=alert('x')></script><script>alert('y')</script>&\""
ROOT = Path(__file__).parents[1]


class Page(HTMLParser):
    """Tags, addresses, scripts and visible text; complains about tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.raw: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.policy = self.kind = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        named = dict(attributes)
        self.attributes += attributes
        self.addresses += [value for name, value in attributes if name in ("src", "href", "srcset", "action")]
        if named.get("http-equiv") == "Content-Security-Policy":
            self.policy = named["content"]
        if tag not in ("meta", "img", "input", "rect", "br"):
            self.open.append(tag)
            self.kind = named.get("type", "")

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("script", "style"):
            self.raw.append((self.open[-1], self.kind, data))
        else:
            self.text.append(data)

    @property
    def said(self) -> str:
        return " ".join(" ".join(self.text).split())

    @property
    def scene(self) -> dict:
        (data,) = (data for tag, kind, data in self.raw if kind == "application/json")
        return json.loads(data)


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return Analysis.load(write(handmade.analysis(), tmp_path_factory.mktemp("report") / "x.stemfit"))


@pytest.fixture(scope="module")
def text(analysis: Analysis) -> str:
    return html(analysis)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def stating(analysis: Analysis, **parts: object) -> Analysis:
    """The same with other parts of its document."""
    return replace(analysis, document={**analysis.document, **parts})


# -- nothing from elsewhere ----------------------------------------------------------------------------------------


def test_nothing_is_loaded_from_elsewhere(page: Page) -> None:
    assert {address.partition(",")[0] for address in page.addresses} == {"data:image/png;base64", "#list"}
    assert not {"link", "iframe", "object", "base", "form"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "style"]


def test_the_policy_allows_what_the_page_holds_and_nothing_else(page: Page) -> None:
    rules = dict(rule.split(" ", 1) for rule in page.policy.split("; "))
    assert rules["default-src"] == rules["connect-src"] == "'none'" and rules["img-src"] == "data:"
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        held = [data for kind, how, data in page.raw if kind == tag and how != "application/json"]
        hashes = [f"'sha256-{b64encode(sha256(data.encode()).digest()).decode()}'" for data in held]
        assert sorted(rules[rule].split()) == sorted(hashes) and held


def test_3dmol_comes_with_its_licence_and_only_where_it_is_needed(analysis: Analysis, text: str) -> None:
    assert "3dmol v2.5" in text and "__webpack_modules__" in text and "University of Pittsburgh" in text
    bare = html(replace(analysis, candidates=()))
    assert "__webpack_modules__" not in bare and "University of Pittsburgh" not in bare
    assert len(bare) < len(text) - 500_000


def test_the_wheel_holds_what_the_page_is_made_of() -> None:
    packaging = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = packaging["tool"]["setuptools"]["package-data"]["stemfit"]
    files = [path for path in (ROOT / "stemfit").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    other = [path.relative_to(ROOT / "stemfit") for path in files if path.suffix != ".py"]
    assert len(other) > 10
    assert [str(path) for path in other if not any(path.match(pattern) for pattern in patterns)] == []
    assert set(packaging["project"]["license-files"]) >= {
        "LICENSE", "stemfit/report/assets/3Dmol-LICENSE.txt", "stemfit/figures/fonts/LICENSE.txt",
    }  # fmt: skip


# -- what is said --------------------------------------------------------------------------------------------------


def test_warnings_come_before_everything_else(analysis: Analysis, text: str) -> None:
    assert text.index("11 % larger than the lattice") < text.index("<canvas") < text.index("<table")
    assert 'class="warnings"' not in html(stating(analysis, warnings=[]))


def test_everything_is_told(page: Page, analysis: Analysis) -> None:
    for word in (
        "0.18000 ± 0.00020 Å", "0.20000 Å", "WSe 2", "vacuum", "no columns", "5.0 %", "1.50 s", "torch", "c0ffee",
        "this image", "NCC", "0.95", "UNKNOWN: none of the structures that are known", "no defect",
        analysis.document["input"]["sha256"], "roi", "1-1", "2-1",
    ):  # fmt: skip
        assert word in page.said, word


def test_one_row_for_every_defect_and_candidate(analysis: Analysis, text: str) -> None:
    rows = re.findall(r'<tr data-id="(\d+)" data-type="(\w+)"', text)
    assert rows == [("1", "SV"), ("2", "DV"), ("3", "UNKNOWN"), ("4", "suspected")]
    assert re.findall(r'<tr data-candidate="([^"]+)"', text) == ["1-1", "2-1"]
    assert re.findall(r'<article class="dossier" id="defect-(\d)"', text) == ["1", "2", "3", "4"]


def test_labels_are_set_as_in_the_field() -> None:
    assert words.label("V_Se2") == "V<sub>Se<sub>2</sub></sub>"
    assert words.label("O2_Se2") == "(O<sub>2</sub>)<sub>Se<sub>2</sub></sub>"
    assert words.label("V_S+V_S+W_Mo") == "2 V<sub>S</sub>, W<sub>Mo</sub>"
    assert words.label("DVL-8") == "DVL-8" and words.label(EVIL).count("<") == 0
    assert words.formula("MoSe2") == "MoSe<sub>2</sub>" and words.formula("a2.cif") == "a2.cif"


def test_no_certainty_is_claimed_and_no_doubt_is_lost(analysis: Analysis) -> None:
    sure = replace(analysis, defects=tuple(replace(d, probability=1.0, alternatives=()) for d in analysis.defects))
    text = html(sure)
    assert text.count("&gt;0.99</td>") >= 3 and ">1.00<" not in text and "P 1" not in text
    crowd = tuple((f"X{k}_Se", 0.004) for k in range(50))
    vague = replace(analysis.defects[0], probability=0.6, alternatives=(("V_S", 0.2), *crowd))
    assert words.shares(vague) == [("V_Se", 0.6), ("V_S", 0.2), (words.OTHERS, pytest.approx(0.2))]
    assert "others, each below 0.01 0.20" in Page(html(replace(analysis, defects=(vague,)))).said


def test_ties_are_seen(analysis: Analysis) -> None:
    first = analysis.candidates[0]
    for label, words_of_it in ((first.label, "tie 1-9 (same label)"), ("V_S", "tie 1-9")):
        other = replace(first, id="1-9", label=label, tie_with=("1-1",))
        both = replace(
            analysis, candidates=(replace(first, tie_with=("1-9",)), other),
            structures={"1-1": analysis.structures["1-1"], "1-9": analysis.structures["1-1"]},
        )  # fmt: skip
        said = Page(html(both)).said
        assert words_of_it in said and ("(same label)" in said) == ("same" in words_of_it)


def test_a_doubtful_host_is_named_where_it_is_assumed(analysis: Analysis) -> None:
    """Posteriors hold under one host, probabilities of defects over all: .99 beside .44 must not puzzle anyone."""
    host = analysis.document["host"]
    doubt = {"source": "inferred", "probability": 0.56, "alternatives": [{"name": "WS2", "probability": 0.44}]}
    said = Page(html(stating(analysis, host={**host, **doubt}))).said
    assert "Structures compared with the image here, given MoSe2 (P 0.56)" in said
    assert "What it may be, whatever the host" in said and "also weighs the other hosts" in said
    for clear in ({"source": "user"}, {"source": "inferred", "probability": 0.995}):
        said = Page(html(stating(analysis, host={**host, **doubt, **clear}))).said
        assert "given MoSe2" not in said and "whatever the host" not in said and "other hosts" not in said


def test_numbers_have_as_many_digits_as_their_error_allows() -> None:
    assert words.measured(2659495.9, 2365.5) == "(2.6595 ± 0.0024) × 10⁶"
    assert words.measured(201.0234, 0.0789) == "201.023 ± 0.079"
    assert words.measured(201.0234, 3.2) == "201.0 ± 3.2"
    assert words.measured(float("nan"), 1.0) == "–" and words.measured(2.5, float("nan")) == "2.5"


def test_not_a_number_is_a_dash(page: Page) -> None:
    assert not re.search(r"\b(nan|none|null|inf)\b", page.said.replace("none of the", ""), re.I)  # the ssim is NaN


def test_nothing_found_is_said(analysis: Analysis) -> None:
    bare = replace(analysis, defects=(), suspects=(), candidates=(), mask=np.zeros_like(analysis.mask))
    said = Page(html(stating(bare, regions=[], defects=[], suspects=[], candidates=[]))).said
    for sentence in ("No defect is more probable", "nothing is suspected", "No region was left out", "0 defects"):
        assert sentence in said


# -- what comes from outside ---------------------------------------------------------------------------------------


def hostile(analysis: Analysis) -> Analysis:
    """The same result of a user who means harm."""
    document = analysis.document
    names = {**analysis.columns, "sublattice": np.full_like(analysis.columns["sublattice"], EVIL, dtype="U99")}
    evil = stating(
        replace(
            analysis, columns=names,
            defects=tuple(replace(d, type=EVIL, label=EVIL, alternatives=((EVIL, 0.05),)) for d in analysis.defects),
            candidates=tuple(replace(c, label=EVIL, relaxer=EVIL, tie_with=(EVIL,)) for c in analysis.candidates),
        ),
        warnings=[EVIL], settings={EVIL: EVIL}, environment={EVIL: EVIL}, timings_s={EVIL: 1.0},
        input={**document["input"], "path": EVIL.replace("/", ""), "dtype": EVIL},
        host={**document["host"], "name": EVIL, "alternatives": [{"name": EVIL, "probability": 0.1}]},
        regions=[{**region, "kind": EVIL, "reason": EVIL} for region in document["regions"]],
    )  # fmt: skip
    return evil


def test_what_comes_from_outside_is_escaped(analysis: Analysis) -> None:
    clean, page = Page(html(analysis)), Page(html(hostile(analysis)))
    assert page.tags.count("script") == clean.tags.count("script") and page.tags.count("img") == clean.tags.count("img")
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "".join(page.text).count("alert('x')") >= 20
    (data,) = (data for _, kind, data in page.raw if kind == "application/json")
    assert not set(data) & set("<>&") and page.scene["defects"][0]["label"] == EVIL


# -- what is drawn -------------------------------------------------------------------------------------------------


def test_columns_are_those_of_the_table(analysis: Analysis, page: Page) -> None:
    drawn, table = page.scene["columns"], analysis.columns
    assert np.allclose(drawn["x"], table["x_px"], atol=0.006)
    assert np.allclose(drawn["sy"], table["sigma_y_px"], atol=1e-3)
    names = [page.scene["signs"][k]["species"] for k in drawn["sign"]]
    assert names == table["species"].tolist()
    assert sum(sign["count"] for sign in page.scene["signs"]) == len(table["id"])


def test_what_an_alloy_is_made_of_is_told_and_drawn_alike(analysis: Analysis) -> None:
    mixed = {**analysis.document["host"], "composition": {"X": {"Se": [0.7, 0.01], "S": [0.3, 0.02]}}}
    names = analysis.columns["species"].copy()
    names[np.flatnonzero(names == "Se2")[::3]] = "SSe"
    alloy = replace(stating(analysis, host=mixed), columns={**analysis.columns, "species": names})
    page = Page(html(alloy))
    assert "Sublattice X: Se 70.0 ± 1.0 %, S 30.0 ± 2.0 %" in page.said
    filled = {sign["species"] for sign in page.scene["signs"] if sign["filled"]}
    assert filled == {"Mo", "Se2", "SSe"} and "Se" in {sign["species"] for sign in page.scene["signs"]}


def test_the_lattice_goes_through_the_sites_as_the_scan_bent_them(analysis: Analysis, page: Page) -> None:
    lines = [np.array(line) for line in page.scene["lattice"]]
    nodes = np.vstack(lines)
    metal = analysis.columns["sublattice"] == "M"
    xy = np.column_stack([analysis.columns["x_px"], analysis.columns["y_px"]])[metal]
    off = [np.hypot(*(nodes - at).T).min() for at in xy]
    assert max(off) < 0.15  # rounded to 0.1 px; the affine cell alone is off by up to 1.5 px
    away = xy.mean(axis=0) + 0.5 * analysis.cell_px[0]
    assert np.hypot(*(nodes - away).T).min() > 2


def test_candidates_stand_where_the_image_has_them(analysis: Analysis, page: Page) -> None:
    """The atom under each column of the drawing is where the columns of the image are, in the axes of the image."""
    xy = np.column_stack([analysis.columns["x_px"], analysis.columns["y_px"]])
    imaging = analysis.document["imaging"]
    assert page.scene["candidates"]["1"][0]["columns"] is None  # nobody said how bright a single Se is
    lights = {**imaging["amplitudes"], "Se": {"value": 110.0, "sigma": 3.0, "source": "table"}}
    scene = Page(html(stating(analysis, imaging={**imaging, "amplitudes": lights}))).scene
    for defect in analysis.defects[:2]:
        (one,) = scene["candidates"][str(defect.id)]
        places = np.array([atom[1:] for atom in one["atoms"]])
        px = defect.center_px + places[:, :2] * [1, -1] / analysis.pixel_size_A
        near = (np.hypot(*places[:, :2].T) < 5) & (px[:, 1] > 10)
        off = np.array([np.hypot(*(xy - at).T).min() for at in px[near]]) * analysis.pixel_size_A
        assert near.sum() > 10 and off.max() < 0.25  # atoms were moved by 1 % and the scan is bent
        kinds = {frozenset(one["atoms"][k][0] for k in pair) for pair in one["bonds"]}
        assert kinds == {frozenset(("Mo", "Se"))}  # and no metals with each other
        assert max(np.linalg.norm(places[i] - places[j]) for i, j in one["bonds"]) < 3
        drawn = np.array(one["columns"])
        assert np.array([np.hypot(*(drawn[:, :2] - at).T).min() for at in px]).max() < 0.3
        gap = 0.5 if defect.label == "V_Se" else 0.0
        here = drawn[np.hypot(*(drawn[:, :2] - defect.center_px).T) < 4]
        assert len(here) == (1 if gap else 0)


def test_pictures_keep_values_and_know_what_is_unknown() -> None:
    values = np.array([[0.0, 5.0, 10.0, np.nan]])
    assert levels(values, 0, 10).tolist() == [[1, 128, 255, 0]]
    assert levels(values, 6, 7).tolist() == [[1, 1, 255, 0]]
    ramp = signed()
    assert ramp[1, 2] > ramp[1, 0] and ramp[255, 0] > ramp[255, 2] and ramp[128].min() > 210
    tall = np.arange(15.0).reshape(3, 5)
    assert np.allclose(reduced(tall, 2), [[3.0, 5.0, 6.5], [10.5, 12.5, 14.0]])
    assert np.isnan(reduced(np.full((4, 4), np.nan), 2)).all()


def test_a_page_of_1024_px_and_5000_columns_can_be_mailed(analysis: Analysis) -> None:
    assert len(html(large(analysis)).encode()) < 6e6


def large(analysis: Analysis, side: int = 1024, columns: int = 5000) -> Analysis:
    """The same with a larger image, all noise, which no file format makes small."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:side, :side]
    simulated = 30 + 20 * np.sin(x / 5) * np.sin(y / 5)
    image = simulated + rng.normal(0, 8, (side, side))
    many = {name: np.resize(values, columns) for name, values in analysis.columns.items()}
    places = {name: rng.uniform(0, side, columns) for name in ("x_px", "y_px")}
    return replace(
        analysis, image=image, simulated=simulated, mask=np.zeros((side, side), np.uint8), columns=many | places
    )
