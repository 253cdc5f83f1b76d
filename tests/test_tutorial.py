"""The tutorial runs as it stands."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "tutorial.md"


def blocks() -> list[tuple[int, str]]:
    """Code blocks of the page, with the lines where they begin."""
    text = PAGE.read_text()
    return [(text[: m.start(1)].count("\n"), m[1]) for m in re.finditer(r"```python\n(.*?)```", text, re.S)]


def test_the_blocks_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pandas")
    shutil.copy(ROOT / "sample_images" / "mos2_sv.tif", tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for line, code in blocks():
        exec(compile("\n" * line + code, str(PAGE), "exec"), names)
    printed = capsys.readouterr().out
    assert "MoS2" in printed and "V_S at" in printed and "part.stemfit" not in printed
    assert (tmp_path / "part.stemfit" / "report.html").exists()
    assert len(blocks()) > 8
