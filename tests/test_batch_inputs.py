"""Which files of a folder are images, what their results are called, and whose share they are."""

from __future__ import annotations

import hashlib
import json
import os
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stemfit.batch import hashes, inputs
from stemfit.batch.hashes import Hashes
from stemfit.batch.inputs import Shard, Unreadable, find, hashed, shard, told
from stemfit.batch.store import folder_of
from stemfit.errors import InputError, UsageError

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..") and not name.startswith(".")
)


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def names(folder: Path, *patterns: str, results: Path | None = None) -> list[str]:
    return [one.name for one in find(folder, patterns, results).inputs]


def test_images_of_all_kinds_at_any_depth(tmp_path: Path) -> None:
    put(tmp_path, "b.TIF", "a/1.dm4", "a/b/c/x.hspy", "notes.txt", "a/table.csv", "raw.emi", "raw_1.ser", ".hidden.tif")
    assert names(tmp_path) == ["a/1.dm4", "a/b/c/x.hspy", "b.TIF", "raw_1.ser"]
    (tmp_path / "signal.zspy").mkdir()
    put(tmp_path, "signal.zspy/.zgroup", "signal.zspy/0.tif")
    assert "signal.zspy" in names(tmp_path) and "signal.zspy/0.tif" not in names(tmp_path)


def test_patterns_are_of_names_or_paths(tmp_path: Path) -> None:
    put(tmp_path, "a/x.tif", "b/x.tif", "b/y.tif", "b/y.dat", "odd[1].tif")
    assert names(tmp_path, "x.*") == ["a/x.tif", "b/x.tif"]
    assert names(tmp_path, "b/*") == ["b/x.tif", "b/y.dat", "b/y.tif"]
    assert names(tmp_path, "odd[1].tif", "*.dat") == ["b/y.dat", "odd[1].tif"]
    assert names(tmp_path, "none") == []


def test_results_are_no_inputs(tmp_path: Path) -> None:
    put(tmp_path, "x.tif", "x.tif.stemfit/mask.tif", "out/y.tif.stemfit/mask.tif", "out/stray.tif",
        "earlier/deep/z.stemfit/simulated.tif", ".tmp-x/y.tif")  # fmt: skip
    assert names(tmp_path, results=tmp_path / "out") == ["x.tif"]
    assert names(tmp_path, results=tmp_path) == ["out/stray.tif", "x.tif"]  # results beside the images


def test_links_are_followed_once(tmp_path: Path) -> None:
    put(tmp_path / "f", "a/x.tif", "b/y.tif")
    put(tmp_path / "elsewhere", "z.tif")
    (tmp_path / "f/a/up").symlink_to(tmp_path / "f")
    (tmp_path / "f/a/side").symlink_to(tmp_path / "f/b")
    (tmp_path / "f/b/back").symlink_to(tmp_path / "f/a")
    (tmp_path / "f/far").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "f/lost.tif").symlink_to(tmp_path / "nowhere.tif")
    assert names(tmp_path / "f") == ["a/x.tif", "b/y.tif", "far/z.tif", "lost.tif"]
    said = dict(hashed(find(tmp_path / "f").inputs, Hashes(tmp_path / "none", tmp_path / "f")))
    lost = next(what for one, what in said.items() if one.name == "lost.tif")
    assert isinstance(lost, Unreadable) and "leads nowhere" in lost.reason


def test_a_link_to_a_file_that_is_there_is_no_input(tmp_path: Path) -> None:
    put(tmp_path / "f", "b.tif", "sub/c.dat")
    put(tmp_path / "elsewhere", "z.tif")
    for name, target in {"a.tif": "f/b.tif", "x.tif": "elsewhere/z.tif", "y.tif": "elsewhere/z.tif",
                         "c.tif": "f/sub/c.dat"}.items():  # fmt: skip
        (tmp_path / "f" / name).symlink_to(tmp_path / target)
    assert names(tmp_path / "f") == ["b.tif", "c.tif", "x.tif"]
    assert names(tmp_path / "f", "a.tif") == ["a.tif"]  # the other one is not asked for


# -- what is known of files that were read -------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of files that are read in earnest."""
    read: list[str] = []
    monkeypatch.setattr(hashes, "sha256", lambda path: read.append(path.name) or f"hash of {path.read_bytes()!r}")
    return read


def test_a_file_is_read_once(tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashes, "SETTLED_S", -1.0)
    put(tmp_path, "a.tif", "b.tif", "s.zspy/.zgroup", "s.zspy/0.0")
    monkeypatch.setattr(hashes, "sha256", lambda path: reads.append(path.name) or "x")
    for _ in range(2):
        known = Hashes(tmp_path / "kept/hashes.json", tmp_path)
        assert [what for _, what in hashed(find(tmp_path).inputs, known)] == ["x"] * 3
        known.save()
    assert sorted(reads) == ["a.tif", "b.tif", "s.zspy"]
    stat = (tmp_path / "a.tif").stat()
    (tmp_path / "a.tif").write_bytes(b"y")
    os.utime(tmp_path / "a.tif", ns=(stat.st_atime_ns, stat.st_mtime_ns))  # same size, inode and time: but not ctime
    (tmp_path / "s.zspy/0.0").write_bytes(b"yy")
    (tmp_path / "b.tif").unlink()
    known = Hashes(tmp_path / "kept/hashes.json", tmp_path)
    assert len(dict(hashed(find(tmp_path).inputs, known))) == 2 and sorted(reads[3:]) == ["a.tif", "s.zspy"]
    known.save()
    assert sorted(json.loads(known.path.read_text())["files"]) == ["a.tif", "s.zspy"]  # not what is gone


def test_what_has_just_changed_is_read_again(tmp_path: Path, reads: list[str]) -> None:
    put(tmp_path, "new.tif", "old.tif")
    known = Hashes(tmp_path / "hashes.json", tmp_path)
    known.known["old.tif"] = ("another state", "x")
    for _ in range(2):
        dict(hashed(find(tmp_path).inputs, known))
    assert sorted(reads) == ["new.tif", "new.tif", "old.tif", "old.tif"] and known.known == {}
    known.save()
    assert not known.path.exists()


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"schema": "stemfit.hashes/1"}', '{"schema": "stemfit.hashes/1", "files": {"a": 3}}']
)
def test_a_damaged_file_of_hashes_is_none(content: str, tmp_path: Path, reads: list[str]) -> None:
    put(tmp_path, "a.tif")
    (tmp_path / "hashes.json").write_text(content)
    ((_, what),) = hashed(find(tmp_path).inputs, Hashes(tmp_path / "hashes.json", tmp_path))
    assert what == "hash of b'x'"


def test_a_folder_that_cannot_be_listed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "open/x.tif", "closed/y.tif")
    listed = os.scandir

    def refuses(path: Path) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(inputs.os, "scandir", refuses)
    found = find(tmp_path)
    assert [one.name for one in found.inputs] == ["open/x.tif"]
    assert found.unreadable == (Unreadable("closed", "the folder cannot be listed (Permission denied)"),)
    with pytest.raises(InputError, match=r"cannot be listed \(Permission denied\)"):
        find(tmp_path / "closed")


def test_no_folder(tmp_path: Path) -> None:
    put(tmp_path, "file.tif")
    with pytest.raises(InputError, match="no such folder"):
        find(tmp_path / "absent")
    with pytest.raises(InputError, match="is no folder"):
        find(tmp_path / "file.tif")


def test_names_that_are_no_text(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.tif")
    try:
        put(tmp_path, name)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    (one, what), = hashed(find(tmp_path).inputs, Hashes(tmp_path / "none", tmp_path))  # fmt: skip
    assert isinstance(what, Unreadable) and "not written in UTF-8" in what.reason
    assert told(one.name) == "caf\\xe9.tif"


@given(name=NAMES)
@settings(max_examples=60, deadline=None)
def test_any_name_is_found_and_has_its_own_place(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("names")
    try:
        put(folder, f"{name}/{name}.tif")
    except OSError:
        return  # longer than the file system allows
    if name.endswith(".stemfit"):
        assert names(folder) == []
        return
    assert names(folder) == [f"{name}/{name}.tif"]
    assert told(f"{name}.tif") == f"{name}.tif"
    assert folder_of(Path("/r"), f"{name}/{name}.tif") == Path(f"/r/{name}/{name}.tif.stemfit")


@given(contents=st.lists(st.binary(max_size=8), max_size=60), of=st.integers(1, 9))
def test_shards_share_everything_once(contents: list[bytes], of: int) -> None:
    hashes = [hashlib.sha256(content).hexdigest() for content in contents]
    shares = [[k for k, one in enumerate(hashes) if Shard(i, of).holds(one)] for i in range(1, of + 1)]
    assert sorted(k for share in shares for k in share) == list(range(len(contents)))
    for share in shares:  # equal contents are together: none is computed by two
        others = {hashes[k] for other in shares if other is not share for k in other}
        assert not {hashes[k] for k in share} & others


def test_shards_are_even() -> None:
    hashes = [hashlib.sha256(str(k).encode()).hexdigest() for k in range(4000)]
    sizes = [sum(map(Shard(i, 8).holds, hashes)) for i in range(1, 9)]
    assert max(abs(size - 500) for size in sizes) < 5 * (500 * 7 / 8) ** 0.5  # five standard deviations


@given(text=st.text(string.digits + "/- ", max_size=5))
def test_shards_count_from_one(text: str) -> None:
    try:
        number, of = map(int, text.split("/"))
        right = 1 <= number <= of and set(text) <= set(string.digits + "/")
    except ValueError:
        right = False
    if right:
        assert shard(text) == (number, of)
    else:
        with pytest.raises(UsageError, match="is no share"):
            shard(text)
