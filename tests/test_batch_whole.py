"""Results on disk: damaged ones are computed again, and what the user has put into them stays."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from batch_stub import image
from test_batch import counts, here, request
from test_batch_kill import tree

from stemfit.batch import look, run, store, whole
from stemfit.commands.batch import _ended, _planned


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for k in range(3):
        image(tmp_path / "in" / f"{k}.tif", 11 + k)
    return tmp_path / "in"


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("columns.csv", Path.unlink), ("columns.csv", truncate), ("candidates/1-1.cif", Path.unlink),
        ("analysis.json", Path.unlink), ("analysis.json", truncate), ("candidates", shutil.rmtree),
        ("batch.json", truncate), (".", lambda place: (shutil.rmtree(place), place.mkdir())),
    ],
)  # fmt: skip
def test_a_damaged_result_is_computed_again(folder: Path, name: str, harm: Callable[[Path], object]) -> None:
    run(request(folder), here)
    undisturbed = tree(folder.parent / "out")
    harm(folder.parent / "out/1.tif.stemfit" / name)
    assert counts(run(request(folder), here)) == (2, 1, 0, 0)
    assert tree(folder.parent / "out") == undisturbed
    assert counts(run(request(folder), here)) == (3, 0, 0, 0)


def test_a_damaged_result_is_no_pattern_for_its_equals(folder: Path) -> None:
    run(request(folder), here)
    (folder.parent / "out/1.tif.stemfit/columns.csv").unlink()
    image(folder / "equal.tif", 12)
    assert counts(run(request(folder), here)) == (2, 1, 1, 0)
    assert (folder.parent / "out/equal.tif.stemfit/columns.csv").exists()


def _put(result: Path) -> dict[str, bytes]:
    """What a user leaves in a result."""
    (result / "figures").mkdir()
    (result / "notes.txt").write_text("precious")
    (result / "figures/fig2.pdf").write_bytes(b"%PDF")
    (result / "candidates/mine.cif").write_text("data_mine")
    (result / "link").symlink_to("nowhere")
    return {name: (result / name).read_bytes() for name in ("notes.txt", "figures/fig2.pdf", "candidates/mine.cif")}


@pytest.mark.parametrize("known", [True, False])
def test_what_the_user_has_put_into_a_result_stays(
    folder: Path, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(request(folder), here)
    result = folder.parent / "out/1.tif.stemfit"
    mine = _put(result)
    if not known:  # as `stemfit analyze` leaves it; the stub's document is too short for that
        monkeypatch.setattr("stemfit.result.check_place", lambda place, sha256: None)
        (result / "batch.json").unlink()
        del mine["candidates/mine.cif"]
    (result / "candidates/1-1.cif").rename(result / "candidates/9-9.cif")  # ours, and not of the new result
    if known:
        stated = json.loads((result / "batch.json").read_text())
        stated["files"]["candidates/9-9.cif"] = stated["files"].pop("candidates/1-1.cif")
        (result / "batch.json").write_text(json.dumps(stated))
    assert counts(run(request(folder, settings={"host": "WSe2"}), here)) == (0, 3, 0, 0)
    assert {name: (result / name).read_bytes() for name in mine} == mine and (result / "link").is_symlink()
    assert not (result / "candidates/9-9.cif").exists()
    assert not set(mine) & set(json.loads((result / "batch.json").read_text())["files"])
    image(folder / "equal.tif", 12)
    run(request(folder, settings={"host": "WSe2"}), here)
    assert not (folder.parent / "out/equal.tif.stemfit/notes.txt").exists()  # of the other image


@pytest.mark.parametrize("who", ["this run", "a dead one"])
def test_killed_while_a_result_was_replaced(folder: Path, who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run(request(folder), here)
    result = folder.parent / "out/1.tif.stemfit"
    mine = _put(result)
    swapped: list[bool] = []

    class Killed(BaseException):
        """Nothing that comes after is done."""

    def cut(place: Path, work: Path, name: str) -> None:
        aside = work.parent / f"{whole.ASIDE}x"
        aside.mkdir()
        (aside / whole.PLACE).write_text(json.dumps(name))
        place.rename(aside / whole.OLD)
        raise Killed

    monkeypatch.setattr(store, "replace", cut)
    monkeypatch.setattr(shutil, "rmtree", lambda path, ignore_errors: swapped.append(result.exists()))
    if who == "a dead one":
        monkeypatch.setattr("stemfit.batch.lock.restore", lambda work, root: None)
    image(folder / "0.tif", 3)  # nothing of it was put aside
    with pytest.raises(Killed):
        run(request(folder, patterns=("1.tif",), settings={"host": "WSe2"}), here)
    assert swapped[0] is False
    monkeypatch.undo()
    assert result.exists() == (who == "this run")
    run(request(folder, settings={"host": "WSe2"}), here)
    assert {name: (result / name).read_bytes() for name in mine} == mine
    assert not list((folder.parent / "out").glob(".tmp-*"))


def test_only_the_image_at_hand_is_put_back(tmp_path: Path) -> None:
    for k in (1, 2):
        aside = tmp_path / f"work/x{k}/{whole.ASIDE}y"
        (aside / whole.OLD).mkdir(parents=True)
        (aside / whole.PLACE).write_text(json.dumps(f"{k}.tif"))
    whole.restore(tmp_path / "work", tmp_path, "2.tif")
    assert [(tmp_path / f"{k}.tif.stemfit").exists() for k in (1, 2)] == [False, True]


def test_copies_where_there_are_no_second_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*arguments: object, **more: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuses)
    run(request(folder), here)
    mine = _put(folder.parent / "out/1.tif.stemfit")
    run(request(folder, settings={"host": "WSe2"}), here)
    assert {name: (folder.parent / "out/1.tif.stemfit" / name).read_bytes() for name in mine} == mine
    assert store.finished(folder.parent / "out", "1.tif") is not None


def test_what_was_moved_or_renamed_is_not_computed_again(folder: Path) -> None:
    run(request(folder), here)
    out = folder.parent / "out"
    (folder / "sub").mkdir()
    (folder / "0.tif").rename(folder / "sub/moved.tif")
    (folder / "1.tif").rename(folder / "renamed.tif")
    (folder / "2.tif").rename(folder / "2.png")  # a reader may go by the name
    plan = look(request(folder))
    assert (len(plan.jobs), plan.equal, plan.gone) == (3, 2, 3)
    ended = run(request(folder), here)
    assert counts(ended) == (0, 1, 2, 0) and ended.gone == 3
    document = json.loads((out / "sub/moved.tif.stemfit/analysis.json").read_text())
    assert document["input"]["path"] == str(folder / "sub/moved.tif")
    (folder / "3.tif").write_bytes((folder / "renamed.tif").read_bytes())
    shutil.rmtree(out / "0.tif.stemfit")
    assert run(request(folder, patterns=("3.tif",)), here).gone == 2  # what is not asked for is not gone
    (out / "mine.stemfit").mkdir()
    assert counts(run(request(folder, settings={"host": "WSe2"}), here)) == (0, 3, 1, 0)  # of other options: no result


def test_what_is_gone_is_told(folder: Path) -> None:
    run(request(folder), here)
    (folder / "0.tif").unlink()
    request_ = request(folder)
    assert "1 result here is of a file that is gone" in _planned(request_, look(request_))
    assert "1 result here is of a file that is gone" in _ended(request_, run(request_, here))
