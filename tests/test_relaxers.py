"""Relaxers of an analysis by name: the network with any weights, its teacher, or none."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from springs import A_A, Springs

from definet.checkpoint import load_checkpoint, save_checkpoint, shipped
from definet.predict import relax
from definet.structures import DefectStructure, build, pristine
from definet.teacher import relax as teach
from stemfit import relax as relaxing
from stemfit.candidates import Candidate
from stemfit.errors import ModelError, UsageError


def candidate(structure: DefectStructure, number: int = 1) -> Candidate:
    return Candidate(
        f"1-{number}", 1, "", structure.label, structure, structure.center_A, np.eye(2), np.zeros(2), 0.0
    )


def moved(found: relaxing.Relaxed, structure: DefectStructure) -> np.ndarray:
    return np.asarray(found.positions_A - structure.structure.cart_coords)


@pytest.fixture
def springs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(relaxing, "teacher", Springs)
    monkeypatch.setattr(relaxing, "teacher_lattice", lambda *_: {"MoS2": A_A}.get)
    relaxing._loaded.cache_clear()
    yield
    relaxing._loaded.cache_clear()


def test_the_teacher_relaxes_at_its_own_lattice_constant(springs: None) -> None:
    """Candidates come at the measured constant, 1.3 % below; strained by that much they would go elsewhere."""
    built, at_home = (build(pristine("MoS2", 5, a_A=a_A), "Se2_S2") for a_A in (3.160, A_A))
    perfect = pristine("MoS2", 5)
    one, again, none = relaxing.relaxer("teacher")([candidate(built), candidate(built, 2), candidate(perfect, 3)])
    wanted = teach(at_home, Springs()).positions_A - at_home.structure.cart_coords
    np.testing.assert_allclose(moved(one, built), wanted, atol=1e-6)
    strained = teach(built, Springs()).positions_A - built.structure.cart_coords
    assert np.abs(strained - wanted).max() > 0.005
    assert one.relaxer.startswith("teacher:") and one.checkpoint_sha256 is None and one.caution == ""
    np.testing.assert_array_equal(again.positions_A, one.positions_A)
    assert not moved(none, perfect).any()


def test_a_structure_that_the_network_tears_apart_stays_as_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """An atom that moves to another site did not relax: nothing like it was learnt, and the picture would be wrong."""
    from dataclasses import replace

    from definet import predict

    built, line = build(pristine("MoS2", 6), "V_S2"), build(pristine("MoS2", 6), "SVL-4")

    def thrown(structures: list[DefectStructure], *_: object) -> list[predict.Relaxed]:
        said = usual(structures, load_checkpoint(shipped()), "cpu")
        far = [s.structure.cart_coords + np.eye(len(s.nodes_A), 3) * 2.0 for s in structures]
        return [replace(r, positions_A=xyz) for r, xyz in zip(said, far, strict=True)]

    relaxing._loaded.cache_clear()
    usual = predict.relax
    monkeypatch.setattr(predict, "relax", thrown)
    kept, moves = relaxing.relaxer("definet", "cpu")([candidate(built), candidate(line, 2)])
    relaxing._loaded.cache_clear()  # or others would get what was thrown
    assert kept.relaxer == "keep" and "stays as built" in kept.caution and kept.checkpoint_sha256 is None
    assert not moved(kept, built).any()
    assert moves.relaxer == "definet" and np.abs(moved(moves, line)).max() == pytest.approx(2.0)


def test_other_weights(tmp_path: Path) -> None:
    from dataclasses import replace

    built, mine = build(pristine("MoS2", 5), "V_S2"), load_checkpoint(shipped())
    half = replace(mine, weights={name: 0.5 * value for name, value in mine.weights.items()})
    save_checkpoint(tmp_path / "m.safetensors", half)
    [found] = relaxing.relaxer("definet", "cpu", tmp_path / "m.safetensors")([candidate(built)])
    [wanted], [usual] = relax([built], half, "cpu"), relax([built], mine, "cpu")
    np.testing.assert_array_equal(found.positions_A, wanted.positions_A)
    assert np.abs(usual.positions_A - wanted.positions_A).max() > 1e-3
    assert found.checkpoint_sha256 == load_checkpoint(tmp_path / "m.safetensors").sha256 != mine.sha256


@pytest.mark.parametrize("name", ["keep", "teacher"])
def test_weights_go_with_the_network_only(name: str) -> None:
    with pytest.raises(UsageError, match="--checkpoint"):
        relaxing.relaxer(name, "cpu", Path("m.safetensors"))
    with pytest.raises(UsageError, match="magic"):
        relaxing.relaxer("magic")


def test_a_teacher_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("chgnet", "chgnet.model", "chgnet.model.model"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModelError, match="CHGNet") as caught:
        relaxing.relaxer("teacher")
    assert caught.value.exit_code == 6 and "pip install" in caught.value.remedy
