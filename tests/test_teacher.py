"""Relaxation against a potential whose minima are known, and CHGNet against symmetry and DFT."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.neighborlist import neighbor_list
from springs import A_A, HEIGHT_A, Springs, STIFFNESS_eV_A2, rest_length

from definet.crystals import host
from definet.descent import force_constants, host_stiffness
from definet.exceptions import TeacherError
from definet.structures import build, elements_of, line, pristine, substitution, trefoil, vacancy
from definet.teacher import at_rest, calculator, equilibrium_lattice, fidelity, relax


def linear_response(crystal):
    """Displacements of all atoms to first order in the misfit of the springs: H u = f, the rigid shift left out."""
    here = crystal.occupied
    atoms = Atoms(
        np.array(crystal.structure.atomic_numbers)[here],
        crystal.structure.cart_coords[here],
        cell=crystal.structure.lattice.matrix,
        pbc=True,
    )
    i, j, d, vector = neighbor_list("ijdD", atoms, 3.6)
    unit = vector / d[:, None]
    stretch = d - rest_length(atoms.numbers[i], atoms.numbers[j], vector[:, 2])
    hessian, force = np.zeros((len(atoms), 3, len(atoms), 3)), np.zeros((len(atoms), 3))
    for p, q, e, s in zip(i, j, unit, stretch, strict=True):
        hessian[p, :, p] += STIFFNESS_eV_A2 * np.outer(e, e)
        hessian[p, :, q] -= STIFFNESS_eV_A2 * np.outer(e, e)
        force[p] += STIFFNESS_eV_A2 * s * e
    flat = hessian.reshape(force.size, force.size)
    return (np.linalg.pinv(flat, rcond=1e-8) @ force.ravel()).reshape(-1, 3)


def unstrained(n):
    """Layer of MoS2 in which no spring is strained: heights relaxed once."""
    return pristine("MoS2", n, a_A=A_A)


@pytest.mark.parametrize("label", ["W_Mo", "Se_S", "Se2_S2"])
def test_small_misfits_relax_as_linear_response_says(label):
    crystal = substitution(unstrained(5), label)
    minimum = relax(crystal, Springs(), fmax=1e-4)
    moved = minimum.positions_A - crystal.structure.cart_coords
    expected = linear_response(crystal)
    assert minimum.converged and minimum.fmax_eV_A <= 1e-4
    assert np.abs(moved - expected).max() < 0.05 * np.abs(expected).max()
    twin = moved * [1, 1, -1]  # upside down must not pass
    assert np.abs(twin - expected).max() > 0.5 * np.abs(expected).max()


def test_heights_come_to_rest_where_the_springs_do():
    minimum = relax(unstrained(3), Springs(), fmax=1e-4)
    assert np.ptp(minimum.positions_A[:, 2]) == pytest.approx(HEIGHT_A, abs=1e-4)
    assert minimum.energy_eV == pytest.approx(0.0, abs=1e-6) and minimum.energy_eV < minimum.initial_energy_eV
    assert minimum.initial_fmax_eV_A > minimum.fmax_eV_A


def test_vacancy_nodes_stay_and_the_layer_does_not_float():
    crystal = line(substitution(unstrained(6), "W_Mo", (0, 0)), "SVL-3", (3, 3))
    minimum = relax(crystal, Springs())
    moved = minimum.positions_A - crystal.structure.cart_coords
    assert moved[~crystal.occupied] == pytest.approx(0.0)
    assert moved[crystal.occupied].mean(axis=0) == pytest.approx(0.0, abs=1e-12)
    assert np.abs(moved[crystal.occupied]).max() > 0.005


def test_the_stiffness_of_the_host_leads_to_the_same_minimum_in_fewer_steps():
    """Against the general preconditioner of ASE, on the same forces."""
    crystal = line(substitution(unstrained(7), "Se2_S2", (0, 0)), "SVL-3", (3, 3))
    known = relax(crystal, Springs(), fmax=1e-3)
    general = relax(replace(crystal, host=""), Springs(), fmax=1e-3)
    assert known.converged and general.converged
    assert np.abs(known.positions_A - general.positions_A).max() < 0.005
    assert known.steps < general.steps


def test_force_constants_are_those_of_the_springs():
    """The M-X springs bind neighbours only, and a rigid shift costs nothing."""
    constants = force_constants(host("MoS2"), A_A, Springs())
    assert constants.sum(axis=(1, 2, 3)) == pytest.approx(0.0, abs=1e-3)
    stiffness = host_stiffness(vacancy(unstrained(6), "V_S"), Springs())
    assert stiffness.shape == (3 * 107, 3 * 107) and stiffness == pytest.approx(stiffness.T)
    assert np.linalg.eigvalsh(stiffness).min() > -0.05
    size = np.linalg.norm(constants, axis=(4, 5))
    middle = size.shape[1] // 2
    assert size[0, middle, middle, 1] > 1.0 and size[0, middle + 2, middle, 0] < 1e-3


def test_atoms_beyond_the_sites_of_the_host_move_too():
    crystal = trefoil(unstrained(7), "T1")
    assert len(crystal.structure) > 147 and host_stiffness(crystal, Springs()).shape[0] == 3 * crystal.occupied.sum()
    assert relax(crystal, Springs()).converged


def test_a_layer_built_on_the_hosts_rest_does_not_move():
    crystal = pristine(at_rest("MoS2", A_A, Springs()), 6, a_A=A_A)
    assert np.ptp(crystal.structure.cart_coords[:, 2]) == pytest.approx(HEIGHT_A, abs=1e-3)
    assert relax(crystal, Springs()).steps == 0


def test_a_minimum_is_not_moved():
    rested = relax(unstrained(3), Springs(), fmax=1e-5)
    crystal = unstrained(3)
    for k, z in enumerate(rested.positions_A[:, 2]):
        crystal.structure.translate_sites([k], [0, 0, z - crystal.structure.cart_coords[k, 2]], frac_coords=False)
    again = relax(crystal, Springs())
    assert again.steps == 0 and again.converged
    assert again.positions_A == pytest.approx(rested.positions_A, abs=1e-6)


def test_running_out_of_steps_is_said():
    minimum = relax(substitution(unstrained(4), "Se2_S2"), Springs(), fmax=1e-6, max_steps=1)
    assert not minimum.converged and minimum.fmax_eV_A > 1e-6


def test_the_lattice_constant_of_a_potential_is_found():
    assert equilibrium_lattice("MoS2", Springs()) == pytest.approx(A_A, abs=2e-4)


def test_no_equilibrium_is_said():
    with pytest.raises(TeacherError, match="no equilibrium of graphene within 4 %"):
        equilibrium_lattice("graphene", Springs())  # all bonds are too short for these springs


def test_potentials_are_found_by_name():
    assert isinstance(calculator("springs:Springs"), Springs)
    assert fidelity("springs:Springs") == "springs:Springs"


@pytest.mark.parametrize("name", ["magic", "no_such_module:make", "springs:nothing"])
def test_unknown_potentials_are_refused(name):
    with pytest.raises(TeacherError, match=name.split(":")[-1] if name == "magic" else "cannot load") as caught:
        calculator(name)
    assert caught.value.exit_code == 6


@pytest.mark.parametrize(
    ("name", "words"),
    [("os:getcwd", "no ASE calculator, but a str"), ("os:sep", "cannot be called"), ("os:open", "without arguments")],
)
def test_what_gives_no_calculator_is_refused(name, words):
    with pytest.raises(TeacherError, match=words) as caught:
        calculator(name)
    assert caught.value.exit_code == 6 and name in str(caught.value)


def test_forces_that_are_not_finite_are_refused():
    with pytest.raises(TeacherError, match="not finite"):
        relax(unstrained(2), calculator("springs:broken"))


@pytest.fixture(scope="module")
def chgnet():
    pytest.importorskip("chgnet")
    return calculator("chgnet")


@pytest.mark.filterwarnings("ignore::DeprecationWarning:chgnet", "ignore::DeprecationWarning:pymatgen")
def test_chgnet_draws_the_sulphurs_to_a_vacancy_as_dft_does(chgnet):
    """PBE moves the six sulphurs beside a sulphur vacancy by 0.08 A toward it (4x4); CHGNet comes within a third."""
    crystal = vacancy(pristine("MoS2", 4, a_A=3.194), "V_S", (2, 2))
    minimum = relax(crystal, chgnet)
    assert minimum.converged and minimum.energy_eV < minimum.initial_energy_eV - 0.05
    node = crystal.sites[0]
    lattice, fractional = crystal.structure.lattice, crystal.structure.frac_coords
    distance = lattice.get_all_distances(fractional[node], fractional)[0]
    ring = [k for k in np.argsort(distance) if elements_of(crystal.structure)[k] == "S" and 3.15 < distance[k] < 3.3]
    relaxed = lattice.get_fractional_coords(minimum.positions_A)
    after = lattice.get_all_distances(relaxed[node], relaxed)[0]
    assert len(ring) == 6
    assert (distance[ring] - after[ring]) == pytest.approx(0.08, abs=0.04)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:chgnet", "ignore::DeprecationWarning:pymatgen")
def test_chgnet_relaxes_top_and_bottom_alike(chgnet):
    crystal = pristine("WSe2", 3, a_A=3.3205)
    up, down = (relax(build(crystal, "V_Se", (1, 1), layer), chgnet) for layer in ("top", "bottom"))
    height_A = crystal.structure.lattice.c
    order = np.arange(27).reshape(9, 3)[:, [0, 2, 1]].ravel()  # bottom and top X of each cell change places
    mirrored = up.positions_A[order] * [1, 1, -1] + [0, 0, height_A]
    assert np.abs(mirrored - down.positions_A).max() < 0.01
    assert np.abs(up.positions_A - down.positions_A).max() > 0.05, "the mirror is what makes them equal"
    assert up.energy_eV == pytest.approx(down.energy_eV, abs=2e-3)


def test_potentials_by_name_say_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sevenn.calculator", None)
    with pytest.raises(TeacherError, match="SevenNet") as caught:
        calculator("sevennet-0")
    assert "pip install sevenn" in caught.value.remedy
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.13.0")
    assert fidelity("sevennet-0") == "sevennet-0-0.13.0"
    with pytest.raises(TeacherError, match="unknown potential") as caught:
        calculator("sevennet")
    assert "chgnet, sevennet-0, or module:factory" in caught.value.remedy


def test_sevennet_moves_metals_toward_a_sulphur_vacancy():
    """Seven times as far as CHGNet does, in the same cell; both less than DFT's 0.046 A."""
    pytest.importorskip("sevenn")
    crystal = vacancy(pristine("MoS2", 3), "V_S")
    minimum = relax(crystal, calculator("sevennet-0"))
    moved = minimum.positions_A - crystal.structure.cart_coords
    node = crystal.sites[0]
    lattice, places = crystal.structure.lattice, crystal.structure.frac_coords
    metals = [k for k in np.argsort(lattice.get_all_distances(places[node], places)[0]) if k % 3 == 0][:3]
    offset = places[node] - places[metals]
    toward = ((offset - np.round(offset)) @ lattice.matrix)[:, :2]
    along = (moved[metals][:, :2] * toward).sum(axis=1) / np.linalg.norm(toward, axis=1)
    assert minimum.converged and along == pytest.approx(0.037, abs=0.003)
