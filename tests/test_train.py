from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from relaxations import SMALL, sample, some

from definet.checkpoint import HostRange, load_checkpoint
from definet.evaluate import as_text, evaluate, family, scores
from definet.exceptions import ModelError, OptionError
from definet.losses import energy_loss, errors, excess, position_loss, sigma_loss, total_loss
from definet.model import DefiNet, Prediction
from definet.structures import VACANCY
from definet.train import TrainConfig, example, learning_rate, provenance, train
from definet.train.examples import batched


def trained(run: Path, config: TrainConfig = SMALL):  # type: ignore[no-untyped-def]
    return train(some(), some()[:2], config, run, provenance(some(), "hash"))


def test_a_known_relaxation_is_learnt(tmp_path: Path) -> None:
    """Error on the training structures well below that of doing nothing; the broken twin learns nothing at lr 0."""
    learnt = trained(tmp_path / "run", replace(SMALL, steps=80, validate_every=40))
    idle = trained(tmp_path / "idle", replace(SMALL, lr=0.0, steps=10))
    assert evaluate(learnt, some(), "cpu")[0].in_plane_ratio < 0.5
    assert evaluate(idle, some(), "cpu")[0].in_plane_ratio > 0.8


def test_the_run_folder_says_what_was_done(tmp_path: Path) -> None:
    best = trained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["settings"]["model"]["channels"] == 16
    log = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == [10, 20, 30, 40]
    assert min(entry["validation_A"] for entry in log) == best.scores["validation_A"]
    written = load_checkpoint(tmp_path / "best.safetensors")
    assert all(torch.equal(written.weights[name], value) for name, value in best.weights.items())
    assert written.provenance == best.provenance
    with pytest.raises(OptionError, match="other settings"):
        trained(tmp_path, replace(SMALL, lr=1e-3))


def test_a_run_can_begin_with_given_weights(tmp_path: Path) -> None:
    first = trained(tmp_path / "first", replace(SMALL, steps=10))
    idle = replace(SMALL, steps=10, lr=0.0, seed=7)
    again = train(some(), some(), idle, tmp_path / "again", first.provenance, first)
    kept = {name: value for name, value in first.weights.items() if name != "uncertainty.mlp.2.bias"}
    assert len(kept) > 50 and all(torch.equal(again.weights[name], value) for name, value in kept.items())
    wider = replace(SMALL, model=replace(SMALL.model, channels=24))
    with pytest.raises(ModelError, match="24"):
        train(some(), some(), wider, tmp_path / "wider", first.provenance, first)


def test_divergence_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="diverged"):
        trained(tmp_path, replace(SMALL, lr=1e12, warmup=0))


def test_training_needs_both_parts(tmp_path: Path) -> None:
    with pytest.raises(OptionError):
        train(some(), [], SMALL, tmp_path, provenance(some(), ""))


def test_provenance_says_what_was_seen() -> None:
    source = provenance(some(), "hash")
    assert source.teacher == "a formula"
    density, width = pytest.approx(2 / 48, abs=1e-4), pytest.approx(4 * 0.866, abs=0.01)
    assert source.hosts["WSe2"] == HostRange(pytest.approx(3.3), ("Se", "W"), (), 2, density, width)
    thrice = provenance([*some(), *some(), *some()], "").hosts["WSe2"]
    assert thrice.kinds == ("V_Se", "V_Se2"), "once seen is not learnt"
    stretched = replace(some()[0], cell=some()[0].cell * 1.01)
    with pytest.raises(OptionError, match="MoS2"):
        provenance([*some(), stretched], "hash")


def test_sizes_are_seen_and_trefoils_are_not_taken_for_density() -> None:
    point, line, trefoil = (
        replace(some()[0], label=label, marker=np.array(marker + [0] * (48 - len(marker))))
        for label, marker in (("V_S", [2]), ("SVL-5+DVL-4+SVL-3", [2] * 12), ("T2-484", [1, 2] * 10))
    )
    seen = provenance([point, line, trefoil], "").hosts["MoS2"]
    assert seen.sizes == {"DVL": 4, "SVL": 5, "T-484": 2}
    assert seen.density == pytest.approx(1 / 48, abs=1e-4)


def test_learning_rate_grows_then_falls() -> None:
    rates = [learning_rate(SMALL, step) for step in range(SMALL.steps + 1)]
    assert rates[0] == pytest.approx(SMALL.lr / 5)
    assert max(rates) == pytest.approx(rates[5]) == pytest.approx(SMALL.lr)
    assert rates[-1] == pytest.approx(SMALL.lr / 100)
    assert all(math.isfinite(rate) and rate > 0 for rate in rates)


def test_loss_ignores_vacancy_nodes_and_rigid_shifts() -> None:
    torch.manual_seed(0)
    net = DefiNet(SMALL.model)
    plain, drifted = example(sample("V_S"), SMALL.model), example(sample("V_S", drift=0.3), SMALL.model)
    wanted = plain.target.displacement

    def loss(graph, target):  # type: ignore[no-untyped-def]
        return position_loss(errors(graph, net(graph), target))

    first = loss(plain.graph, wanted)
    torch.testing.assert_close(loss(drifted.graph, drifted.target.displacement), first, rtol=0, atol=1e-6)
    gone = torch.tensor(sample("V_S").marker == VACANCY)
    wild = torch.where(gone[:, None], torch.full_like(wanted, 7.0), wanted)
    torch.testing.assert_close(loss(plain.graph, wild), first, rtol=0, atol=1e-6)
    assert (loss(plain.graph, wanted + torch.randn_like(wanted)) - first).abs() > 0.1


def test_the_most_likely_sigma_is_the_rms_error() -> None:
    """Where all atoms share one sigma, the loss is least at the rms of their errors, and the excess there is one."""
    error = 0.03 * torch.randn(4000, 3, generator=torch.Generator().manual_seed(1))
    scales = torch.linspace(0.5, 2.0, 61)
    gradients = []
    for scale in scales:
        sigma = torch.full((4000,), 0.03 * float(scale), requires_grad=True)
        sigma_loss(sigma, error).backward()
        gradients.append(float(sigma.grad.sum()))  # type: ignore[union-attr]
    turning = float(scales[np.searchsorted(np.array(gradients) > 0, True)])
    assert turning == pytest.approx(1.0, abs=0.05)
    assert float(excess(torch.full((4000,), 0.03), error).mean()) == pytest.approx(1.0, abs=0.05)


def test_unknown_energies_do_not_count() -> None:
    batch = batched([example(one, SMALL.model) for one in some()[:2]])
    wanted = torch.tensor([1.5, float("nan")])
    value = energy_loss(batch.graph, torch.tensor([1.0, 7.0]), wanted)
    share = float(batch.graph.occupied[batch.graph.batch == 0].sum() / batch.graph.occupied.sum())
    assert float(value) == pytest.approx(0.5 / 2.0 * share)
    moved = batch.target.displacement
    right = Prediction(moved, wanted.nan_to_num())
    assert float(total_loss(batch.graph, right, batch.target._replace(energy_drop=wanted))) < 1e-5
    assert float(total_loss(batch.graph, right._replace(energy_drop=torch.tensor([9.0, 9.0])), batch.target)) > 1e-3


def test_the_stated_sigma_is_that_of_the_held_out_atoms(tmp_path: Path) -> None:
    best = trained(tmp_path, replace(SMALL, steps=40))
    assert evaluate(best, some()[:2], "cpu")[0].excess == pytest.approx(1.0, abs=0.02)


def test_errors_are_those_computed_by_hand(tmp_path: Path) -> None:
    checkpoint = trained(tmp_path, replace(SMALL, steps=10))
    table = {row.group: row for row in evaluate(checkpoint, some(), "cpu")}
    assert set(table) == {"all", "MoS2", "WSe2", "SV", "DV", "VM"}
    assert (table["all"].structures, table["SV"].structures) == (5, 2)
    net = checkpoint.network()
    error, idle, atoms = 0.0, 0.0, 0
    for one in some():
        here, pair = one.marker != VACANCY, example(one, SMALL.model)
        with torch.no_grad():
            move = net(pair.graph).numpy()[here]
        target = (one.relaxed - one.positions)[here]
        difference = move - target - (move - target).mean(axis=0)
        error += np.hypot(difference[:, 0], difference[:, 1]).sum()
        idle += np.hypot(*(target - target.mean(axis=0))[:, :2].T).sum()
        atoms += int(here.sum())
    assert table["all"].in_plane_A == pytest.approx(error / atoms, rel=1e-4)
    assert table["all"].in_plane_ratio == pytest.approx(error / idle, rel=1e-4)
    assert scores([table["all"]])["all/in_plane_ratio"] == pytest.approx(error / idle, abs=1e-5)
    assert as_text([table["all"]]).count("\n") == 2


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("V_S", "SV"),
        ("V_S+V_S", "SV"),
        ("V_S2", "DV"),
        ("V_Mo", "VM"),
        ("V_MoS3", "VM"),
        ("W_Mo", "SUB"),
        ("Se2_S2", "SUB"),
        ("Mo_S", "ANTI"),
        ("S2_Mo", "ANTI"),
        ("SVL-4+V_S", "LINE"),
        ("T1-484", "TREFOIL"),
        ("V_S+W_Mo", "mixed"),
        ("pristine", "pristine"),
    ],
)
def test_families(label: str, expected: str) -> None:
    assert family("MoS2", label) == expected
