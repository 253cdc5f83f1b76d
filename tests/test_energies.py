"""Relaxation energies as a prior: Boltzmann among structures of one name, nothing across names, off unless asked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.constants import physical_constants

from definet.structures import build, pristine
from stemfit.candidates import Candidate
from stemfit.relax import Relaxed
from stemfit.score import with_energies

K_EV = physical_constants["Boltzmann constant in eV/K"][0]
CRYSTAL = pristine("MoS2", 4, 4)


def candidate(number: int, label: str, log_prior: float, defect: int = 1) -> Candidate:
    structure = build(CRYSTAL, label)
    return Candidate(
        f"{defect}-{number}", defect, "SV", label, structure, structure.center_A, np.eye(2), np.zeros(2), log_prior, 4
    )


def at(candidates: list[Candidate], drops: list[float | None], temperature_K: float | None) -> list[float]:
    relaxed = [
        Relaxed(c.structure.nodes_A, None, "definet", None, "", drop)
        for c, drop in zip(candidates, drops, strict=True)
    ]
    return [c.log_prior for c in with_energies(candidates, relaxed, temperature_K)]


TWO = [candidate(1, "V_S", -3.0), candidate(2, "V_S", -2.0), candidate(3, "V_S2", -4.0)]


def test_odds_within_a_name_are_boltzmann_and_the_name_keeps_its_share() -> None:
    after = at(TWO, [0.30, 0.25, 2.0], 600.0)
    assert after[0] - after[1] == pytest.approx(-1.0 + 0.05 / (K_EV * 600.0))
    assert np.logaddexp(*after[:2]) == pytest.approx(np.logaddexp(-3.0, -2.0))
    assert after[2] == pytest.approx(-4.0)  # two electronvolts more do not make another name likelier


def test_nothing_changes_without_a_temperature_or_where_an_energy_is_missing() -> None:
    assert at(TWO, [0.30, 0.25, 2.0], None) == [-3.0, -2.0, -4.0]
    assert at(TWO, [0.30, None, 2.0], 600.0) == pytest.approx([-3.0, -2.0, -4.0])


def test_other_defects_and_other_atoms_are_other_groups() -> None:
    far = replace(TWO[1], id="2-1", defect=2)
    assert at([TWO[0], far], [0.1, 0.9], 300.0) == pytest.approx([-3.0, -2.0])
    other_atoms = replace(candidate(2, "V_S2", -2.0), label="V_S")
    assert at([TWO[0], other_atoms], [0.1, 0.9], 300.0) == pytest.approx([-3.0, -2.0])
