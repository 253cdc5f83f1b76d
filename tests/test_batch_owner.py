"""Results of one folder are not overwritten by those of another, nor is what no batch has written."""

from __future__ import annotations

from pathlib import Path

import pytest
from batch_stub import image
from test_batch import counts, here, request
from test_batch_kill import tree

from stemfit.batch import look, owner, run
from stemfit.batch.inputs import shard
from stemfit.errors import OutputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four images, two of them equal."""
    for name, number in {"a.tif": 12, "sub/a.tif": 3, "sub/b.tif": 12, "c.png": 40}.items():
        image(tmp_path / "in" / name, number)
    return tmp_path / "in"


def test_the_results_of_another_folder_are_not_overwritten(folder: Path, tmp_path: Path) -> None:
    run(request(folder), here)
    before = tree(tmp_path / "out")
    image(tmp_path / "other/a.tif", 5)
    with pytest.raises(OutputError, match=f"holds the results of {folder}.*another --out"):
        run(request(tmp_path / "other"), here)
    with pytest.raises(OutputError, match="holds the results of"):
        run(request(tmp_path / "other", share=shard("1/2")), here)
    with pytest.raises(OutputError, match="holds the results of"):
        look(request(tmp_path / "other"))
    assert tree(tmp_path / "out") == before
    (tmp_path / "link").symlink_to(folder)
    assert counts(run(request(tmp_path / "link"), here)) == (4, 0, 0, 0)  # the same under another name
    folder.rename(tmp_path / "renamed")
    assert counts(run(request(tmp_path / "renamed"), here)) == (4, 0, 0, 0)
    folder.mkdir()
    with pytest.raises(OutputError, match=r"holds the results of .*renamed"):
        image(folder / "new.tif", 1)
        run(request(folder), here)


def test_of_two_folders_that_begin_together_one_is_the_first(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    owner.claim(tmp_path / "out", tmp_path / "one", shard("1/2"))
    owner.claim(tmp_path / "out", tmp_path / "one", shard("2/2"))
    assert not owner._created(tmp_path / "out", tmp_path / "other")  # as who had seen nobody
    with pytest.raises(OutputError, match="holds the results of"):
        owner.claim(tmp_path / "out", tmp_path / "other", shard("2/2"))


@pytest.mark.parametrize("name", ["summary.csv", "index.html", "log.jsonl", "index.sqlite"])
def test_files_that_are_none_of_a_batch_stay(name: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("precious")
    with pytest.raises(OutputError, match=f"{name}: stands there already, is of no batch"):
        run(request(folder), here)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]
    assert (tmp_path / "out" / name).read_text() == "precious"
