"""Options from a TOML file: what they may be, who wins, and that what is printed can be read again."""

from __future__ import annotations

import inspect
import tomllib
from pathlib import Path

import pytest
import typer.testing

import cli
from stemfit.commands import config

RUN = typer.testing.CliRunner()
ANALYZE = config.settings_of(cli.analyze)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What `analyze` is called with."""
    from stemfit import api

    calls: list[dict] = []

    def analyze(image: Path, **options: object) -> None:
        calls.append({name: value for name, value in options.items() if name != "progress"})
        raise KeyboardInterrupt  # nothing more is needed

    monkeypatch.setattr(api, "analyze", analyze)
    return calls


def run(tmp_path: Path, text: str, *more: str) -> object:
    path = tmp_path / "s.toml"
    path.write_text(text)
    return RUN.invoke(cli.app, ["analyze", "image.tif", *more, "--config", str(path)])


def test_every_option_of_every_command_has_a_name_in_the_file() -> None:
    for name, function in cli.FUNCTIONS.items():
        page = RUN.invoke(cli.app, [name, "--help"]).output
        known = config.settings_of(function)
        assert known and all(setting.flag in page for setting in known.values())
        options = [p for p in inspect.signature(function).parameters if p not in ("config",)]
        arguments = {"image", "structure", "structures", "files", "result", "folder", "patterns"}
        assert len(known) == len([p for p in options if p not in arguments]), name
    assert "json" in ANALYZE and "as-json" not in ANALYZE


def test_the_printed_file_is_one_and_changes_nothing(tmp_path: Path, asked: list[dict]) -> None:
    printed = RUN.invoke(cli.app, ["config", "--show"])
    assert printed.exit_code == 0
    assert tomllib.loads(printed.output)["analyze"]["host"] == "auto"
    RUN.invoke(cli.app, ["analyze", "image.tif"])
    run(tmp_path, printed.output)
    assert asked[0] == asked[1]


def test_the_file_is_heeded_and_the_command_line_wins(tmp_path: Path, asked: list[dict]) -> None:
    text = '[analyze]\nhost = "WSe2"\nvoltage = 60\ndetector = [60, 180.5]\nroi = "1,2,300,400"\n[train]\nlr = 1e-3\n'
    run(tmp_path, text)
    run(tmp_path, text, "--voltage=80", "--host", "MoS2")
    assert [c["host"] for c in asked] == ["WSe2", "MoS2"] and [c["voltage"] for c in asked] == [60, 80]
    assert asked[0]["detector"] == (60, 180.5) and asked[1]["roi"] == (1, 2, 300, 400)


@pytest.mark.parametrize(
    ("text", "words", "code"),
    [
        ("[analyze]\nvoltag = 60", "did you mean 'voltage'", 2),
        ("[analyze]\npixel_sizes = 0.1", "did you mean 'pixel-size'", 2),
        ("[analyse]\nhost = 'WSe2'", "did you mean 'analyze'", 2),
        ("[analyze]\nvoltage = '60'", "give a number", 2),
        ("[analyze]\nvoltage = true", "give a number", 2),
        ("[analyze]\nhost = 3", "give text", 2),
        ("[analyze]\njson = 1", "true or false", 2),
        ("[analyze]\nrelaxer = 'definit'", "did you mean 'definet'", 2),
        ("[match]\nrelaxer = 'x'", "there are keep, definet, teacher", 2),
        ("host = 'WSe2'", "stands in no table", 2),
        ("[analyze]\nvoltage = -60", "no positive number", 2),
        ("[analyze\n", "is no TOML", 3),
    ],
)
def test_what_is_wrong_is_refused_with_one_line(
    text: str, words: str, code: int, tmp_path: Path, asked: list[dict]
) -> None:
    answer = run(tmp_path, text)
    assert answer.exit_code == code and not asked
    assert words in answer.stderr and len(answer.stderr.splitlines()) == 1


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple]:
    """What `overlay` shows: (box, defect, labels)."""
    from stemfit import analysis
    from stemfit.commands import overlay

    calls: list[tuple] = []

    def scene(_: object, __: object, crop: object, defect: object, labels: bool) -> None:
        calls.append((crop, defect, labels))
        raise KeyboardInterrupt

    monkeypatch.setattr(overlay, "_scene", scene)
    monkeypatch.setattr(analysis.Analysis, "load", lambda folder: None)
    monkeypatch.chdir(tmp_path)
    return calls


def draw(text: str, *typed: str) -> None:
    Path("s.toml").write_text(text)
    answer = RUN.invoke(cli.app, ["overlay", "x.stemfit", *typed, "--config", "s.toml"])
    assert not answer.stderr.startswith("x.stemfit"), answer.stderr


def test_what_is_typed_displaces_what_it_excludes_in_the_file(drawn: list[tuple]) -> None:
    draw('[overlay]\ncrop = "1,2,30,40"\n')
    draw('[overlay]\ncrop = "1,2,30,40"\n', "--defect", "3")
    draw("[overlay]\ndefect = 3\n", "--crop=1,2,30,40")
    assert drawn == [((1, 2, 30, 40), None, True), (None, 3, True), ((1, 2, 30, 40), None, True)]
    both = RUN.invoke(cli.app, ["overlay", "x.stemfit", "--crop", "1,2,30,40", "--defect", "3"])
    assert both.exit_code == 2 and "leave one" in both.stderr


def test_one_value_of_an_option_excludes_others() -> None:
    groups, stated = config.EXCLUSIVE["relax"], {"checkpoint": "x.safetensors", "refine": "teacher:5", "host": "WSe2"}
    keep = lambda *typed: sorted(config._undisplaced(groups, stated, list(typed)))  # noqa: E731
    assert keep("--relaxer", "teacher") == keep("--relaxer=teacher") == ["host"]
    assert keep("--relaxer", "definet") == keep() == ["checkpoint", "host", "refine"]
    assert config._undisplaced(groups, {"relaxer": "teacher"}, ["--checkpoint", "x"]) == {}
    assert config._undisplaced(groups, {"relaxer": "definet"}, ["--checkpoint", "x"]) == {"relaxer": "definet"}


def test_options_that_exclude_each_other_are_options() -> None:
    for command, groups in config.EXCLUSIVE.items():
        known = config.settings_of(cli.FUNCTIONS[command])
        assert {name.partition("=")[0] for pair in groups for side in pair for name in side} <= set(known)


def test_every_switch_of_a_file_can_be_turned_on_the_command_line(drawn: list[tuple]) -> None:
    for function in cli.FUNCTIONS.values():
        assert all(one.opposite for one in config.settings_of(function).values() if one.kind is bool)
    draw("[overlay]\nlabels = false\n")
    draw("[overlay]\nlabels = false\n", "--labels")
    draw("[overlay]\nlabels = true\n", "--no-labels")
    assert [labels for _, _, labels in drawn] == [False, True, False]


def test_a_missing_file_is_missing_input() -> None:
    answer = RUN.invoke(cli.app, ["analyze", "image.tif", "--config", "nowhere.toml"])
    assert answer.exit_code == 3 and "nowhere.toml" in answer.stderr
