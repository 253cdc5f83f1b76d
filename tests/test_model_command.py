"""`stemfit model`: weights of the authors come in, and weights say what they know."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer.testing
from safetensors.torch import save_file

import cli
from definet.checkpoint import import_published, load_checkpoint, save_checkpoint, shipped
from definet.model import DefiNet, ModelConfig
from definet.predict import relax
from definet.structure_file import Columns, read_structure, write_structure
from definet.structures import build, pristine

RUNNER = typer.testing.CliRunner()
THEIRS = Path(__file__).parent / "data" / "ema_h32_l4.pt"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Any:
    return RUNNER.invoke(cli.app, [*arguments], catch_exceptions=False)


def assert_one_line(done: Any, code: int, *words: str) -> None:
    assert (done.exit_code, done.stdout) == (code, ""), done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_imported_weights_predict_as_the_originals_with_their_self_edges() -> None:
    done = run("model", "import", str(THEIRS), "--out", "m.safetensors")
    assert (done.exit_code, done.stderr) == (0, "") and "4 layers, 32 channels, 128 radial functions" in done.stdout
    assert "self edges" in done.stdout and os.listdir() == ["m.safetensors"]
    built = build(pristine("MoS2", 6), "V_S2")
    write_structure(Path("d.extxyz"), built.structure, Columns({"marker": built.marker}))
    assert run("relax", "d.extxyz", "--checkpoint", "m.safetensors", "--out", "o.extxyz").exit_code == 0
    moved = read_structure(Path("o.extxyz")).structure.cart_coords - built.atoms.cart_coords
    theirs = import_published(THEIRS)
    assert theirs.config.self_edges
    [wanted] = relax([built], theirs)
    np.testing.assert_allclose(moved, (wanted.positions_A - built.structure.cart_coords)[built.occupied], atol=1e-5)


def test_what_weights_of_others_were_trained_on_is_not_known_unless_it_is_stated() -> None:
    write_structure(Path("d.cif"), build(pristine("MoS2", 6), "V_S").atoms)

    def imported(*options: str) -> tuple[dict[str, Any], list[str], str]:
        """What is stored and printed of the weights, and what is said against a prediction."""
        done = run("model", "import", str(THEIRS), "--out", "m.safetensors", *options)
        assert done.exit_code == 0, done.stderr
        told = json.loads(run("model", "info", "m.safetensors", "--json").stdout)
        relaxed = run("relax", "d.cif", "--host", "MoS2", "--checkpoint", "m.safetensors", "--out", "o.cif", "--json")
        [structure] = json.loads(relaxed.stdout)["structures"]
        return told, [line for line in structure["warnings"] if "training range" in line], done.stdout

    told, [warning], said = imported()
    assert (told["teacher"], told["hosts"]) == ("not known", {}) and "hosts: not known" in said
    assert "nothing is known of what these weights were trained on" in warning
    told, [warning], said = imported("--teacher", "r2SCAN", "--published")
    assert told["teacher"] == "r2SCAN" and told["hosts"]["MoS2"]["a_A"] == 3.19032 and len(told["hosts"]) == 6
    assert "which kinds of defects in MoS2 were in the training set is not known" in warning and "blackP" in said
    assert imported("--teacher", "mine")[0]["teacher"] == "mine" and imported("--published")[0]["teacher"] == "PBE"


def test_cutoffs_can_be_stated() -> None:
    options = ["--out", "m.safetensors", "--cutoff", "5", "--basis-cutoff", "12"]
    assert run("model", "import", str(THEIRS), *options).exit_code == 0
    config = load_checkpoint(Path("m.safetensors")).config
    assert (config.cutoff, config.basis_cutoff) == (5.0, 12.0)


def test_what_stands_there_is_replaced_whole() -> None:
    Path("m.safetensors").write_text("old")
    assert run("model", "import", "none.pt", "--out", "m.safetensors").exit_code == 6
    assert Path("m.safetensors").read_text() == "old"
    assert run("model", "import", str(THEIRS), "--out", "m.safetensors").exit_code == 0
    assert load_checkpoint(Path("m.safetensors")).config.channels == 32 and os.listdir() == ["m.safetensors"]


def test_info_of_the_shipped_weights() -> None:
    document, checkpoint = json.loads(run("model", "info", "--json").stdout), load_checkpoint(shipped())
    assert document["sha256"] == checkpoint.sha256 and document["units"] == "angstrom"
    assert document["parameters"] == sum(value.numel() for value in checkpoint.weights.values())
    assert document["cutoff_A"] == document["architecture"]["cutoff"] == checkpoint.config.cutoff
    assert document["teacher"] == checkpoint.provenance.teacher and document["data_sha256"]
    assert document["scores"] == dict(checkpoint.scores)
    for name, seen in checkpoint.hosts.items():
        told = document["hosts"][name]
        assert (told["a_A"], tuple(told["elements"]), tuple(told["kinds"]), told["structures"]) == (
            seen.a_A, seen.elements, seen.kinds, seen.structures
        )  # fmt: skip
    text = run("model", "info").stdout
    for name, seen in checkpoint.hosts.items():
        [line] = [line for line in text.splitlines() if line.startswith(f"{name} ") and f"{seen.a_A:.4f}" in line]
        assert f" {seen.structures} " in line and " ".join(seen.elements) in line
    for word in (f"{document['parameters']:,}", f"{checkpoint.config.cutoff:g} A", checkpoint.sha256[:12]):
        assert word in text


def test_info_of_weights_that_know_nothing_of_themselves() -> None:
    run("model", "import", str(THEIRS), "--out", "m.safetensors")
    text = run("model", "info", "m.safetensors").stdout
    assert "errors: not known" in text and "another program" in text


def test_info_of_weights_as_training_leaves_them() -> None:
    """Their one score is an error that belongs to no group."""
    checkpoint = replace(import_published(THEIRS), scores={"validation_A": 0.01584})
    save_checkpoint(Path("m.safetensors"), checkpoint)
    text = run("model", "info", "m.safetensors").stdout
    assert "validation  1.58 pm" in text and "errors: not known" in text and "in plane" not in text
    assert "springs" not in text, "the authors' network has none"
    config = ModelConfig(channels=8, layers=1, gaussians=4, degree=1)
    scores = {"validation_A": 0.01584, "all/structures": 3.0, "all/in_plane_A": 0.0123}
    springs = replace(checkpoint, config=config, weights=DefiNet(config).state_dict(), scores=scores)
    save_checkpoint(Path("s.safetensors"), springs)
    text = run("model", "info", "s.safetensors").stdout
    assert "springs of degree 1" in text and "validation  1.58 pm" in text
    *_, head, row = text.splitlines()
    assert head.startswith("group") and row.split() == ["all", "3", "1.23", "-", "-", "-"]


def corrupt() -> None:
    Path("bad.safetensors").write_bytes(shipped().read_bytes()[:3000])


def future() -> None:
    about = {"format": "definet.checkpoint/9", "units": "angstrom"}
    save_file({"w": torch.zeros(2)}, "bad.safetensors", {"definet": json.dumps(about)})


def no_model() -> None:
    save_file({"w": torch.zeros(2)}, "bad.safetensors")


def pickled() -> None:
    torch.save({"w": torch.zeros(2)}, "bad.safetensors")


def missing() -> None:
    pass


def folder() -> None:
    Path("bad.safetensors").mkdir()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (corrupt, ["not a readable safetensors file"]),
        (future, ["definet.checkpoint/9", "a release that reads"]),
        (no_model, ["format None"]),
        (pickled, ["not a readable safetensors file", "stemfit model import FILE --out M.safetensors"]),
        (missing, ["no such checkpoint"]),
        (folder, ["is a folder, not a checkpoint"]),
    ],
)
def test_weights_that_cannot_be_used(make: Any, words: list[str]) -> None:
    make()
    assert_one_line(run("model", "info", "bad.safetensors"), 6, "bad.safetensors: ", *words)
    write_structure(Path("d.cif"), build(pristine("MoS2", 4), "V_S").atoms)
    done = run("relax", "d.cif", "--host", "MoS2", "--out", "o.cif", "--checkpoint", "bad.safetensors")
    assert_one_line(done, 6, "bad.safetensors: ", *words)
    assert done.stderr.count("bad.safetensors: ") == 1 and not Path("o.cif").exists()


def other_network() -> None:
    torch.save({"weight": torch.zeros(3)}, "theirs.pt")


def words_only() -> None:
    Path("theirs.pt").write_text("no weights")


def theirs_is_a_folder() -> None:
    Path("theirs.pt").mkdir()


def whole_network() -> None:
    torch.save(torch.nn.Linear(2, 2), "theirs.pt")


def ours() -> None:
    run("model", "import", str(THEIRS), "--out", "ours.safetensors")
    Path("ours.safetensors").rename("theirs.pt")


def tensors_of_others() -> None:
    save_file({"w": torch.zeros(2)}, "theirs.pt")


def half() -> None:
    Path("theirs.pt").write_bytes(THEIRS.read_bytes()[:100_000])


@pytest.mark.parametrize(
    ("make", "word"),
    [(other_network, "not a published DefiNet"), (words_only, "not a readable PyTorch"), (half, "not a readable"),
     (missing, "no such"), (theirs_is_a_folder, "is a folder"), (whole_network, "save the parameters alone"),
     (ours, "needs no import"), (tensors_of_others, "a safetensors file")],
)  # fmt: skip
def test_what_cannot_be_imported(make: Any, word: str) -> None:
    make()
    done = run("model", "import", "theirs.pt", "--out", "m.safetensors")
    assert_one_line(done, 6, "theirs.pt: ", word)
    assert "weights_only" not in done.stderr, "nobody is told to run what is in the file"
    assert not Path("m.safetensors").exists()


@pytest.mark.parametrize(
    ("options", "code", "word"),
    [
        (["--out", "m.pt"], 2, "is no .safetensors file"),
        (["--out", "m.safetensors", "--cutoff", "0"], 2, "no cutoffs"),
        (["--out", "m.safetensors", "--cutoff", "40"], 2, "no cutoffs"),
        (["--out", "none/m.safetensors"], 5, "none/m.safetensors: cannot be written"),
    ],
)
def test_import_asked_wrongly(options: list[str], code: int, word: str) -> None:
    assert_one_line(run("model", "import", str(THEIRS), *options), code, word)


# What may stand in the metadata of a damaged file, and a word of the line that says so.
DAMAGE: list[tuple[str, Any, str]] = [
    ("", [], "format None"),
    ("", "text", "format None"),
    ("units", "nm", "'nm'"),
    ("config/channels", "32", "channels = '32'"),
    ("config/channels", 32.0, "channels = 32.0"),
    ("config/channels", -1, "channels = -1"),
    ("config/channels", 9000, "shape"),
    ("config/channels", 10**9, "channels = 1000000000"),
    ("config/cutoff", "6", "cutoff = '6'"),
    ("config/cutoff", -1.0, "cutoff = -1.0"),
    ("config/smooth", 1, "smooth = 1"),
    ("config/wings", 2, "wings"),
    ("provenance/hosts", [1], "hosts|list"),
    ("provenance/hosts/MoS2/a_A", "x", "'x'"),
    ("provenance/hosts/MoS2/a_A", -3.0, "-3.0"),
    ("scores", [1], "list"),
]


@pytest.mark.parametrize(("key", "value", "word"), DAMAGE, ids=[f"{key}={value}" for key, value, _ in DAMAGE])
def test_damaged_metadata_are_one_line(key: str, value: Any, word: str) -> None:
    from safetensors import safe_open

    with safe_open(shipped(), "pt") as file:
        about = json.loads(file.metadata()["definet"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    *path, last = key.split("/")
    inner = about
    for part in path:
        inner = inner[part]
    if key:
        inner[last] = value
    save_file(tensors, "bad.safetensors", {"definet": json.dumps(about if key else value)})
    done = run("model", "info", "bad.safetensors")
    assert_one_line(done, 6, "bad.safetensors: ")
    assert any(part in done.stderr for part in word.split("|")), done.stderr
