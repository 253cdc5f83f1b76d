"""Tables of a folder, read by others: csv, pandas, sqlite3; densities against scipy's distributions."""

from __future__ import annotations

import csv
import json
import re
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from batch_stub import SETTINGS, image
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from test_batch import here

from stemfit.batch import Request, run
from stemfit.batch.records import CANDIDATE, DEFECT, IMAGE, TYPES, natural
from stemfit.batch.remarks import remarks
from stemfit.batch.statistics import Field, density, garwood, lines

NASTY = ['comma, "quote".tif', "new\nline.tif", "<img src=x onerror=alert(1)>.tif", "Ünïcode 二硫化.tif", "'; DROP.tif"]
AREA_NM2 = 1.25
"""Judged in every image that the stub makes up; its pixels that are not masked are 1.5."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nasty names, one failure and two equal images."""
    place = tmp_path_factory.mktemp("tables")
    for k, name in enumerate(NASTY):
        image(place / "in" / name, 10 * k + 3)
    image(place / "in/again.tif", 3)
    image(place / "in/bad.tif", 7, "damaged")
    run(Request(place / "in", place / "out", SETTINGS), here)
    return place / "out"


def test_one_row_for_each_image_in_every_table(results: Path) -> None:
    with (results / "summary.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == sorted([*NASTY, "again.tif", "bad.tif"])  # natural order of these, too
    assert list(rows[0]) == list(IMAGE)
    frame = pandas.read_parquet(results / "summary.parquet")
    assert frame["file"].tolist() == [row["file"] for row in rows]
    with sqlite3.connect(results / "index.sqlite") as index:
        kept = index.execute(f"SELECT {', '.join(IMAGE)} FROM images ORDER BY rowid").fetchall()
    index.close()
    for row, other, third in zip(rows, frame.itertuples(index=False), kept, strict=True):
        for name, one, two, three in zip(IMAGE, row.values(), other, third, strict=True):
            if three is None:
                assert one == "" and pandas.isna(two)
            elif IMAGE[name] is str:
                assert one == two == three
            else:
                assert float(one) == float(two) == float(three)


def test_what_the_rows_say(results: Path) -> None:
    frame = pandas.read_csv(results / "summary.csv").set_index("file")
    bad = frame.loc["bad.tif"]
    assert (bad.status, bad.exit_code, bad.reason) == ("failed", 3, "damaged; copy it again")
    assert frame.loc["again.tif"].isna().equal_to and frame.loc[NASTY[0]].equal_to == "again.tif"
    four = frame.loc[NASTY[4]]  # the stub's number 43: four double vacancies, three single ones
    assert (four.DV, four.SV, four.defects, four.columns) == (4, 3, 7, 100)
    assert four.judged_nm2 == pytest.approx(AREA_NM2) and four.defects_per_nm2 == pytest.approx(7 / AREA_NM2)
    assert four.warning_texts == 'the scale, 0.1, is "odd" | second' and four.warnings == 2
    assert (four.doubts, four.host_uncertain, four.blind_to, four.looked_for) == ("host vacancies", 1, "V_S", "V_S")
    assert frame.loc[NASTY[0]].host_uncertain == 1 and frame.loc[NASTY[0]].isna().blind_to
    assert (results / "summary.csv").read_text(encoding="utf-8").count("\n") == 1 + 7 + 2  # a name, in two columns


def test_questions_across_the_folder(results: Path) -> None:
    with sqlite3.connect(results / "index.sqlite") as index:
        index.execute("PRAGMA foreign_keys = ON")
        assert index.execute("PRAGMA foreign_key_check").fetchall() == []
        per_label = dict(index.execute(
            "SELECT label, COUNT(*) FROM defects JOIN images USING (file) "
            "WHERE claimed AND equal_to IS NULL GROUP BY label"))  # fmt: skip
        assert per_label == {"V_S": 3 * 5, "V_S2": 0 + 1 + 2 + 3 + 4}
        best = index.execute(
            "SELECT d.label, c.label, c.structure FROM defects d JOIN candidates c "
            "ON c.file = d.file AND c.id = d.best_candidate").fetchall()  # fmt: skip
        assert all(one == other for one, other, _ in best)
        assert all(path.endswith("-1.cif") and ".stemfit/candidates/" in path for *_, path in best)
        for table, columns in (("defects", DEFECT), ("candidates", CANDIDATE)):
            assert [row[1] for row in index.execute(f"PRAGMA table_info({table})")] == list(columns)
    index.close()


def test_the_documented_questions_as_they_stand_there(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[1] / "docs/batch.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(import sqlite3\n.*?)```", text, re.DOTALL)
    (results.parent / "results").symlink_to(results)
    monkeypatch.chdir(results.parent)
    told = []
    kept = re.sub(r"^index\.execute", "told += [index.execute", code, flags=re.M)
    held: dict[str, Any] = {"told": told}
    exec(kept.replace(".fetchall()", ".fetchall()]"), held)
    held["index"].close()
    assert told[0] == [("V_S", 3 * 5), ("V_S2", 0 + 1 + 2 + 3 + 4)]  # of equal images one: 18 claims of V_S in all
    assert told[1] == [] and len(told) == 3  # no lines
    assert told[2] == [(0.75, 25)]


def test_ties_are_told(tmp_path: Path) -> None:
    image(tmp_path / "in/a.tif", 12)
    asked = Request(tmp_path / "in", tmp_path / "out", SETTINGS)
    run(asked, here)
    path = tmp_path / "out/a.tif.stemfit/analysis.json"
    document = json.loads(path.read_text())
    document["candidates"][0]["tie_with"] = ["2-1", "3-1"]
    path.write_text(json.dumps(document))
    run(asked, here)
    with sqlite3.connect(tmp_path / "out/index.sqlite") as index:
        ties = [row[0] for row in index.execute("SELECT tie_with FROM candidates ORDER BY id")]
    assert ties == ["2-1 3-1", None, None]
    index.close()


def test_names_are_in_the_order_in_which_people_count() -> None:
    assert sorted(["im10", "im2", "Im1", "a/9.tif", "a/10.tif", ""], key=natural) == [
        "", "a/9.tif", "a/10.tif", "Im1", "im2", "im10",
    ]  # fmt: skip


def test_results_that_no_table_has_are_told(tmp_path: Path) -> None:
    for name in ("a.tif", "b.tif", "sub/c.tif"):
        image(tmp_path / "in" / name, len(name))
    whole = Request(tmp_path / "in", tmp_path / "out", SETTINGS)
    run(whole, here)
    assert not any("in no table" in text for text in remarks(whole.results))
    run(Request(tmp_path / "in", tmp_path / "out", SETTINGS, ("a*",)), here)
    assert len(pandas.read_csv(tmp_path / "out/summary.csv")) == 1
    (said,) = [text for text in remarks(whole.results) if "in no table" in text]
    assert said.startswith("2 results here are") and said in (tmp_path / "out/index.html").read_text()
    assert remarks(tmp_path / "in") == ()


def test_doubts_about_all_images_are_told(results: Path) -> None:
    said = remarks(results)
    assert said[0].startswith("in 6 of 6 images the host is not certain") and "--host" in said[0]
    assert said[1].startswith("in 1 of 6 images single vacancies cannot be told") and len(said) == 2


def test_statistics_count_equal_images_once(results: Path) -> None:
    frame = pandas.read_csv(results / "statistics.csv")
    whole = frame[(frame.type == "all")].iloc[0]
    assert (whole.host, whole.images, whole["count"]) == ("WSe2", 5, 25)
    assert (whole.images_host_uncertain, whole.images_blind) == (5, 1)
    single = frame[(frame.type == "SV") & (frame.label == "all")].iloc[0]
    assert (single.images, single.images_blind, single["count"], single.count_blind) == (4, 1, 12, 3)
    assert single.area_nm2 == pytest.approx(4 * AREA_NM2) and single.per_nm2 == pytest.approx(12 / (4 * AREA_NM2))
    double = frame[(frame.type == "DV") & (frame.label == "all")].iloc[0]
    assert (double.images, double.images_blind, double["count"]) == (5, 0, 10)
    assert whole.area_nm2 == pytest.approx(5 * AREA_NM2) and whole.expected == pytest.approx(0.75 * 25)
    low, high = stats.chi2.ppf([0.025, 0.975], [50, 52]) / 2 / (5 * AREA_NM2)
    assert (whole.per_nm2_low, whole.per_nm2_high) == pytest.approx((low, high))
    assert [tuple(row) for row in frame[["type", "label"]].to_numpy()] == [
        ("all", "all"), ("SV", "all"), ("SV", "V_S"), ("DV", "all"), ("DV", "V_S2"),
    ]  # fmt: skip


def test_types_are_those_of_the_page() -> None:
    from stemfit.report import words

    assert set(TYPES) == set(words.TYPES)


@given(st.integers(0, 5000), st.floats(0.5, 0.999))
def test_garwood_is_where_the_tails_of_poisson_end(count: int, level: float) -> None:
    low, high = garwood(count, level)
    tail = (1 - level) / 2
    assert stats.poisson.cdf(count, high) == pytest.approx(tail, rel=1e-6)
    assert low == 0 if count == 0 else stats.poisson.sf(count - 1, low) == pytest.approx(tail, rel=1e-6)


@pytest.mark.parametrize("mean", [0.1, 1.0, 3.3, 20.0])
def test_the_interval_holds_the_mean_as_often_as_it_says(mean: float) -> None:
    counts = np.arange(0, 120)
    held = np.array([low <= mean <= high for low, high in map(garwood, counts.tolist())])
    covered = stats.poisson.pmf(counts, mean)[held].sum()
    assert covered >= 0.95
    normal = np.abs(counts - mean) <= 1.96 * np.sqrt(np.maximum(counts, 0))  # the usual one would not
    assert mean > 5 or stats.poisson.pmf(counts, mean)[normal].sum() < 0.95


def test_no_area_no_density() -> None:
    assert density(0, 0.0) == (None, None, None)
    assert density(0, 100.0).low == 0 and density(0, 100.0).high == pytest.approx(-np.log(0.025) / 100)


def test_what_is_looked_for_in_vain_has_a_density_and_what_cannot_be_seen_has_none() -> None:
    names = frozenset({"V_S"})
    seeing, blind = Field("MoS2", 50.0, {}, False, names), Field("MoS2", 50.0, {}, True, names, names)
    found = {(line.type, line.label): line for line in lines([seeing, blind])}
    single = found["SV", "V_S"]
    assert (single.images, single.images_blind, single.area_nm2, single.density) == (1, 1, 50.0, density(0, 50.0))
    assert (found["all", "all"].images, found["all", "all"].area_nm2) == (2, 100.0)
    assert (found["all", "all"].images_host_uncertain, single.images_host_uncertain) == (1, 0)
    (only,) = [line for line in lines([blind]) if line.label == "V_S"]
    assert only.density == (None, None, None) and only.dispersion is None


def test_uneven_densities_are_told() -> None:
    def fields(counts: list[int]) -> list[Field]:
        return [Field("MoS2", 10.0, {("SV", "V_S"): (n, 0.9 * n)}) for n in counts]

    rng = np.random.default_rng(5)
    even = lines(fields(rng.poisson(20, 200).tolist()))[0]
    uneven = lines(fields(rng.poisson(rng.gamma(2, 10, 200)).tolist()))[0]
    assert even.dispersion is not None and even.dispersion == pytest.approx(1, abs=5 * (2 / 199) ** 0.5)
    assert uneven.dispersion is not None and uneven.dispersion > 3 and uneven.p_even is not None
    assert uneven.p_even < 1e-6 < (even.p_even or 0)
    assert lines(fields([1, 0, 2]))[0].dispersion is None  # too few to ask


def test_nothing_is_lost_in_the_sums() -> None:
    fields = [Field(host, 5.0, {("SV", "V_S"): (k, 0.5 * k), ("DV", "V_S2"): (1, 0.9)})
              for k, host in enumerate(["MoS2", "WS2", "MoS2"])]  # fmt: skip
    found = Counter()
    for line in lines(fields):
        found[line.host, line.type, line.label == "all"] += line.number
    for host in ("MoS2", "WS2"):
        assert found[host, "all", True] == sum(found[host, kind, True] for kind in ("SV", "DV"))
        assert all(found[host, kind, True] == found[host, kind, False] for kind in ("SV", "DV"))
