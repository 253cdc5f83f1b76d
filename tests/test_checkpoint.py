from __future__ import annotations

import hashlib
import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from definet.checkpoint import (
    Checkpoint,
    HostRange,
    Provenance,
    import_published,
    kinds_of,
    load_checkpoint,
    save_checkpoint,
    shipped,
)
from definet.exceptions import ModelError, OutputError
from definet.model import DefiNet, ModelConfig

DATA = Path(__file__).parent / "data"


def small() -> Checkpoint:
    torch.manual_seed(0)
    config = ModelConfig(channels=8, layers=2, gaussians=6, cutoff=4.0, basis_cutoff=4.5, smooth=False, elastic=False)
    hosts = {"MoS2": HostRange(3.19, ("Mo", "S"), ("V_S", "SVL"), 12)}
    source = Provenance(hosts, "a teacher", "abc", "1.2")
    return Checkpoint(config, DefiNet(config).state_dict(), source, {"all/in_plane_A": 0.01})


def test_everything_survives_the_file(tmp_path: Path) -> None:
    wrote, path = small(), tmp_path / "net.safetensors"
    save_checkpoint(path, wrote)
    read = load_checkpoint(path)
    assert replace(read, weights={}, sha256="").__dict__ == replace(wrote, weights={}).__dict__
    assert read.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert all(torch.equal(read.weights[name], value) for name, value in wrote.weights.items())
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.safetensors"]
    (wanted := tmp_path / "plain").touch()
    assert path.stat().st_mode & 0o077 == wanted.stat().st_mode & 0o077  # others may read what they may read elsewhere
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["definet"])["units"] == "angstrom"


def test_half_precision_is_read_as_single(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, small())
    with safe_open(path, "pt") as file:
        halved = {name: file.get_tensor(name).half() for name in file.keys()}  # noqa: SIM118
        save_file(halved, path, file.metadata())
    assert {value.dtype for value in load_checkpoint(path).weights.values()} == {torch.float32}


def damaged(tmp_path: Path, what: str) -> Path:
    path, good = tmp_path / "net.safetensors", small()
    save_checkpoint(path, good)
    match what:
        case "missing":
            path.unlink()
        case "truncated":
            path.write_bytes(path.read_bytes()[:-100])
        case "text":
            path.write_text("no weights here, only words " * 20)
        case "foreign":
            save_file(dict(good.weights), path, {"format": "pt"})
        case "future":
            save_file(dict(good.weights), path, {"definet": json.dumps({"format": "definet.checkpoint/99"})})
        case "incomplete":
            save_file(dict(good.weights), path, {"definet": json.dumps({"format": "definet.checkpoint/3"})})
        case "mismatch":
            save_checkpoint(path, replace(good, config=replace(good.config, channels=16)))
        case "nan":
            save_checkpoint(path, replace(good, weights={n: v * float("nan") for n, v in good.weights.items()}))
    return path


@pytest.mark.parametrize("what", ["missing", "truncated", "text", "foreign", "future", "incomplete", "mismatch", "nan"])
def test_a_bad_file_is_a_model_error_that_names_it(tmp_path: Path, what: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_checkpoint(damaged(tmp_path, what))
    assert "net.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 6


def test_a_folder_that_does_not_exist_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        save_checkpoint(tmp_path / "none" / "net.safetensors", small())


@pytest.mark.parametrize("case", ["h32_l4", "h48_l3"])
def test_the_published_layout_is_recognised_by_its_shapes(case: str, tmp_path: Path) -> None:
    facts = json.loads((DATA / f"case_{case}.json").read_text())
    checkpoint = import_published(DATA / f"ema_{case}.pt")
    config = checkpoint.config
    assert (config.channels, config.layers, config.gaussians, config.elements) == (
        facts["hidden_channels"],
        facts["num_layers"],
        facts["num_rbf"],
        facts["num_elements"],
    )
    assert (config.cutoff, config.basis_cutoff) == (facts["neighbour_radius_A"], facts["cutoff"])
    save_checkpoint(tmp_path / "net.safetensors", checkpoint)
    assert load_checkpoint(tmp_path / "net.safetensors").config == config


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("harm"),))


@pytest.mark.parametrize("what", ["missing", "text", "code", "list", "other"])
def test_a_foreign_pickle_is_a_model_error_and_runs_nothing(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "theirs.pt"
    match what:
        case "text":
            path.write_text("no weights here")
        case "code":
            path.write_bytes(pickle.dumps(Harmful(), protocol=2))
        case "list":
            torch.save([torch.zeros(3)], path)
        case "other":
            torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(ModelError, match=r"theirs\.pt"):
        import_published(path)
    assert not (tmp_path / "harm").exists()


def test_kinds_forget_sizes() -> None:
    assert kinds_of("V_S+V_S") == {"V_S"}
    assert kinds_of("SVL-4+W_Mo") == {"SVL", "W_Mo"}
    assert kinds_of("T2-484") == {"T-484"}
    assert kinds_of("T12") == {"T"}
    assert kinds_of("pristine") == frozenset()


def test_shipped_weights_can_be_used_and_say_where_they_come_from() -> None:
    checkpoint = load_checkpoint(shipped())
    assert shipped().stat().st_size < 2_000_000
    assert checkpoint.provenance.data_sha256
    assert checkpoint.provenance.teacher
    assert checkpoint.scores["all/in_plane_ratio"] < 0.5
    assert {"MoS2", "WSe2"} <= set(checkpoint.hosts)
    assert (shipped().parent / "MODEL_CARD.md").is_file()
