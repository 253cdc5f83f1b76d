"""Samples: what is drawn, stored, left out and kept apart."""

import os
import sys
from collections import Counter
from dataclasses import fields, replace
from itertools import islice

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.fd import calculate_numerical_forces
from springs import Buckled

import definet.making as making
import definet.processes as processes
from definet.crystals import HOSTS as HOSTS_OF_THE_TABLE
from definet.crystals import host
from definet.dataset import beyond, data_sha256, lattice_constants, load, split
from definet.exceptions import InputFileError, OptionError, OutputError, StructureError, TeacherError, UnknownHostError
from definet.families import families
from definet.making import make, weights
from definet.outliers import broken_symmetry_A, outlier
from definet.samples import Sample
from definet.scenes import configuration, scenes
from definet.structures import line, pristine, trefoil, vacancy

HOSTS = {"MoS2": 2.0}
LATTICE_A = {"MoS2": 3.19, "WSe2": 3.32, "hBN": 2.51, "graphene": 2.47}


@pytest.fixture(scope="module")
def drawn():
    return list(islice(scenes(3, LATTICE_A), 120))


def test_scenes_follow_from_the_seed():
    first, again, other = (list(islice(scenes(seed, LATTICE_A), 5)) for seed in (1, 1, 2))
    for here, there in zip(first, again, strict=True):
        assert (here.number, here.group) == (there.number, there.group)
        assert here.crystal.structure.cart_coords == pytest.approx(there.crystal.structure.cart_coords)
    assert [scene.group for scene in first] != [scene.group for scene in other]


def test_hosts_and_kinds_are_interleaved(drawn):
    """The first third already holds every host and kind, in the shares of the whole."""
    hosts = Counter(scene.crystal.host for scene in drawn[:40])
    assert set(hosts) == set(LATTICE_A) and min(hosts.values()) >= 4
    labels = " ".join(scene.crystal.label for scene in drawn)
    for kind in ("SVL-", "DVL-", "CVL-", "T1", "T2", "V_S", "V_Se2", "V_Mo", "W_Mo", "V_BN", "SW", "N_C"):
        assert kind in labels


def test_scenes_differ_and_carry_the_potentials_lattice_constant(drawn):
    keys = [(scene.group, tuple(sorted(scene.crystal.shape))) for scene in drawn]
    assert len(set(keys)) == len(keys)
    for scene in drawn:
        a_A = scene.crystal.structure.lattice.a / scene.crystal.shape[0]
        assert a_A == pytest.approx(LATTICE_A[scene.crystal.host])
        distance = scene.crystal.atoms.distance_matrix
        assert distance[np.triu_indices_from(distance, 1)].min() > 1.0


def test_weights_say_how_often_a_host_is_drawn():
    hosts = Counter(s.crystal.host for s in islice(scenes(0, LATTICE_A, {"hBN": 0.0, "graphene": 0.0}), 20))
    assert set(hosts) == {"MoS2", "WSe2"}
    with pytest.raises(OptionError):
        next(scenes(0, {}))
    with pytest.raises(UnknownHostError):
        next(scenes(0, {"unobtainium": 3.0}))


@pytest.mark.parametrize("name", sorted(HOSTS_OF_THE_TABLE))
def test_every_family_of_every_host_can_be_built(name):
    """Chance puts some defects on top of others; most draws must fit, and none may be empty."""
    rng = np.random.default_rng(5)
    for kind in families(name):
        built = []
        for _ in range(12):
            try:
                built.append(kind.draw(rng, pristine(name, *kind.shapes[rng.integers(len(kind.shapes))])))
            except StructureError:
                continue
        assert len(built) >= 2
        assert all(crystal.sites and (crystal.marker > 0).sum() == len(crystal.sites) for crystal in built)
        assert all(host(name).name == crystal.host for crystal in built)


@pytest.mark.parametrize(
    ("label", "set_aside"),
    [
        ("SVL-8", False),
        ("SVL-9+V_S", True),
        ("DVL-14", False),
        ("DVL-15", True),
        ("T3-484", False),
        ("T4", True),
        ("T1+V_S2", True),
        ("T1+V_S", False),
        ("V_Mo+O_S", True),
        ("V_Mo+Se_S", False),
        ("SVL-3+Te_Se", True),
    ],
)
def test_larger_defects_and_new_pairs_are_set_aside(label, set_aside):
    assert beyond(label) == set_aside


def test_a_minimum_that_chance_has_chosen_is_left_out(made):
    """Three equivalent metals around a vacancy that move alike, and one of them elsewhere."""
    crystal = vacancy(pristine("MoS2", 6), "V_S")
    base = load(made[0])[0]
    positions = crystal.structure.cart_coords
    moved = positions.copy()
    fields_ = {"numbers": np.array(crystal.structure.atomic_numbers), "cell": crystal.structure.lattice.matrix}
    whole = replace(base, positions=positions, relaxed=moved, marker=crystal.marker, label="V_S", **fields_)
    assert outlier(whole) is None and broken_symmetry_A(whole) < 1e-9
    node = crystal.sites[0]
    distance = crystal.structure.lattice.get_all_distances(
        crystal.structure.frac_coords[node], crystal.structure.frac_coords
    )[0]
    metals = [k for k in np.argsort(distance) if fields_["numbers"][k] == 42][:3]
    toward = positions[node] - positions[metals]
    alike = positions.copy()
    alike[metals] += 0.3 * toward
    assert outlier(replace(whole, relaxed=alike)) is None
    alike[metals[0]] -= 0.3 * toward[0]
    assert outlier(replace(whole, relaxed=alike)) == "broken"


@pytest.mark.parametrize("at", [(0, 0), (5, 3), (7, 7)])
@pytest.mark.parametrize("direction", range(6))
def test_configurations_do_not_depend_on_place_orientation_or_side(at, direction):
    def lines(**options):
        return configuration(line(pristine("MoS2", 8), "DVL-5", **options))

    assert lines(at=at, direction=direction) == lines() == lines(layer="bottom")
    assert lines(at=at, opposite=True) == lines(opposite=True, direction=direction, layer="bottom")
    assert lines() != lines(opposite=True)
    assert lines() != lines(shift=-1, opposite=True)


def test_configurations_tell_apart_what_differs():
    crystal = pristine("MoS2", 8)

    def pair(first, second, base=crystal):
        return configuration(vacancy(vacancy(base, "V_S", first), "V_S", second))

    assert pair((0, 0), (1, 0)) == pair((3, 3), (3, 4)) == pair((7, 2), (0, 2))
    assert pair((0, 0), (1, 0)) != pair((0, 0), (2, 0))
    assert pair((0, 0), (1, 0)) == pair((0, 0), (1, 0), pristine("MoS2", 7, 9))
    assert pair((0, 0), (1, 0)) != configuration(line(pristine("WS2", 8), "SVL-2"))
    assert configuration(trefoil(crystal, "T1")) != configuration(trefoil(crystal, "T1-484"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set") / "springs"
    lines = []
    stored = make(folder, HOSTS, 5, 7, "springs:Springs", lines.append)
    return folder, stored, lines


def test_what_is_made_can_be_loaded(made):
    folder, stored, lines = made
    samples = load(folder)
    assert len(samples) == stored >= 4 and len(lines) == 5
    for sample in samples:
        atoms = sample.marker != 2
        assert sample.relaxed[~atoms] == pytest.approx(sample.positions[~atoms])
        assert sample.displacement[atoms].mean(axis=0) == pytest.approx(0, abs=1e-9)
        assert sample.energy_eV <= sample.initial_energy_eV
        assert sample.cell[0, 0] / sample.shape[0] == pytest.approx(lattice_constants(folder)[sample.host])
        assert sample.source == "springs:Springs" and sample.group.startswith(f"{sample.host}/")
        assert isinstance(sample.converged, bool) and isinstance(sample.energy_eV, float)
    # MoS2 at 3.20 is where these springs rest; W in place of Mo makes each of its springs 0.02 longer.
    assert lattice_constants(folder)["MoS2"] == pytest.approx(3.20, abs=1e-3)


def test_making_goes_on_where_it_stopped_and_gives_the_same_set(made, tmp_path, monkeypatch):
    folder = tmp_path / "set"
    monkeypatch.setattr(making, "SHARD", 2)
    relaxed = []
    make(folder, HOSTS, 3, 7, "springs:Springs", relaxed.append)
    (folder / "shard-00000.npz").rename(tmp_path / "kept.npz")
    (tmp_path / "kept.npz").rename(folder / "shard-00000.npz")
    first = (folder / "shard-00000.npz").read_bytes()
    assert len(relaxed) == 3
    make(folder, HOSTS, 5, 7, "springs:Springs", relaxed.append)
    assert len(relaxed) == 3 + 3, "the whole shard stays, the one that was cut short and the new one are made"
    assert (folder / "shard-00000.npz").read_bytes() == first
    for here, there in zip(load(folder), load(made[0]), strict=True):
        for field in fields(Sample):
            assert np.all(getattr(here, field.name) == getattr(there, field.name)), field.name
    make(folder, HOSTS, 5, 7, "springs:Springs", relaxed.append)
    assert len(relaxed) == 6, "nothing is made twice"
    assert not list(folder.glob(".tmp*"))


def test_several_processes_and_a_cluster_make_the_same_set(tmp_path, monkeypatch):
    """The files, byte for byte: two spawned processes, one thread of a Dask worker, and this process."""
    from distributed import LocalCluster

    monkeypatch.setattr(making, "SHARD", 1)
    for name in processes.THREADS:
        monkeypatch.setenv(name, "3")
    lines = {}
    with LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster:
        for name, where in {"one": {}, "two": {"jobs": 2}, "dask": {"dask": cluster.scheduler_address}}.items():
            lines[name] = []
            assert make(tmp_path / name, HOSTS, 3, 7, "springs:Springs", lines[name].append, **where) == 3
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert sorted(lines["one"]) == sorted(lines["two"]) == sorted(lines["dask"]) and len(lines["one"]) == 3
    for path in sorted((tmp_path / "one").glob("*")):
        assert (tmp_path / "two" / path.name).read_bytes() == path.read_bytes(), path.name
        assert (tmp_path / "dask" / path.name).read_bytes() == path.read_bytes(), path.name
    first = load(tmp_path / "two")[0]
    assert first.origin.startswith("scene 0 of seed 7, stemfit ")


def test_what_cannot_work_is_said(tmp_path, monkeypatch):
    with pytest.raises(OptionError, match="0 processes"):
        make(tmp_path / "a", HOSTS, 1, 7, "springs:Springs", jobs=0)
    with pytest.raises(OptionError, match="no Dask scheduler"):
        make(tmp_path / "a", HOSTS, 1, 7, "springs:Springs", dask="nonsense://nowhere:1")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(OptionError, match="distributed"):
        make(tmp_path / "a", HOSTS, 1, 7, "springs:Springs", dask="tcp://127.0.0.1:8786")
    with pytest.raises(TeacherError, match="unknown potential"):
        make(tmp_path / "a", HOSTS, 9, 7, "nonsense", jobs=2)
    assert not (tmp_path / "a").exists()


def test_hosts_are_weighted_in_words():
    assert weights(["MoS2=3", "WSe2"]) == weights(["MoS2=3,WSe2"]) == {"MoS2": 3.0, "WSe2": 1.0}
    for wrong in ("MoS2=0", "MoS2=-1", "MoS2=nan", "MoS2=many"):
        with pytest.raises(OptionError, match="positive"):
            weights([wrong])


def test_shards_without_the_newer_fields_are_read(made, tmp_path):
    """Of the fields with a default, a shard may lack any; of the others, none."""
    with np.load(made[0] / "shard-00000.npz") as shard:
        arrays = dict(shard)
    old = {name: value for name, value in arrays.items() if name not in ("part", "origin")}
    np.savez_compressed(tmp_path / "shard-00000.npz", **old)
    assert [sample.origin for sample in load(tmp_path)] == [""] * len(load(made[0]))
    np.savez_compressed(tmp_path / "shard-00000.npz", **{k: v for k, v in old.items() if k != "label"})
    with pytest.raises(InputFileError, match="label"):
        load(tmp_path)


def test_the_hash_of_a_set_follows_its_content(made, tmp_path):
    before = data_sha256(made[0])
    assert before == data_sha256(made[0]) and len(before) == 64
    (tmp_path / "shard-00000.npz").write_bytes(b"other")
    assert data_sha256(tmp_path) != before


def sample(made, **changes):
    return replace(load(made[0])[0], **changes)


def test_outliers_are_named(made):
    one = sample(made, label="V_S")
    atom = int(np.flatnonzero(one.marker != 2)[0])
    one = replace(one, marker=np.where(np.arange(len(one.marker)) == atom, 1, one.marker))  # bonds may change here

    def moved(by, label="V_S"):
        relaxed = one.relaxed.copy()
        relaxed[atom] += by
        return outlier(replace(one, relaxed=relaxed, label=label))

    assert outlier(one) is None
    assert moved([2.0, 0, 0]) == "moved"
    assert moved([2.0, 0, 0], "SVL-4+V_S") is None, "lines and trefoils reconstruct"
    assert moved([2.0, 0, 0], "T1-484") is None
    assert moved([0, 0, 9.0], "T2") == "moved"
    relaxed = one.relaxed.copy()
    relaxed[atom, 2] += 5.5
    assert outlier(replace(one, positions=relaxed, relaxed=relaxed)) == "torn"


def test_splits_keep_configurations_together(made):
    base = load(made[0])
    samples = [replace(base[k % len(base)], group=f"MoS2/V_S/{k // 3}") for k in range(600)]
    parts = split(samples, valid=0.2, test=0.1)
    groups = {name: {s.group for s in part} for name, part in parts.items()}
    assert set(parts) == {"train", "valid", "test", "extrapolation"} and not parts.pop("extrapolation")
    assert sum(map(len, groups.values())) == 200, "no configuration is in two parts"
    assert sum(map(len, parts.values())) == 600
    # 200 configurations: binomial, so within four standard deviations.
    assert len(groups["test"]) == pytest.approx(20, abs=4 * np.sqrt(200 * 0.1 * 0.9))
    assert len(groups["valid"]) == pytest.approx(40, abs=4 * np.sqrt(200 * 0.2 * 0.8))


def test_splits_stay_when_the_set_grows(made):
    base = load(made[0])[0]
    samples = [replace(base, group=str(k)) for k in range(100)]
    few, many = split(samples[:50]), split(samples[::-1])
    for name in few:
        assert {s.group for s in few[name]} <= {s.group for s in many[name]}
    assert {s.group for s in split(samples, seed=1)["test"]} != {s.group for s in many["test"]}
    with pytest.raises(OptionError, match="leave nothing"):
        split(samples, 0.5, 0.5)


def test_other_settings_and_other_folders_are_refused(made, tmp_path):
    with pytest.raises(OutputError, match="other settings"):
        make(made[0], HOSTS, 5, 8, "springs:Springs")
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="no set of samples"):
        make(tmp_path, HOSTS, 5, 7, "springs:Springs")
    with pytest.raises(OptionError, match="0 samples"):
        make(tmp_path / "new", HOSTS, 0, 7, "springs:Springs")
    assert not (tmp_path / "new").exists()


def test_missing_and_damaged_sets_are_refused(made, tmp_path):
    for read in (load, lattice_constants):
        with pytest.raises(InputFileError) as caught:
            read(tmp_path / "nothing")
        assert caught.value.exit_code == 3
    whole = (made[0] / "shard-00000.npz").read_bytes()
    (tmp_path / "shard-00000.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputFileError, match="shard-00000"):
        load(tmp_path)


def test_a_host_that_the_potential_does_not_hold_is_refused(tmp_path):
    """Its unit cell is at rest; waves along it are not."""
    with pytest.raises(TeacherError, match="pristine MoS2 is not stable in springs:Buckled: its softest wave has -"):
        make(tmp_path / "set", {"MoS2": 1.0}, 1, 1, potential="springs:Buckled")
    assert not (tmp_path / "set").exists()


def test_forces_of_the_buckled_potential_are_its_slope():
    structure = pristine("MoS2", 3, a_A=3.2).structure
    shaken = structure.cart_coords + 0.05 * np.random.default_rng(0).standard_normal((27, 3))
    atoms = Atoms(np.array(structure.atomic_numbers), shaken, cell=structure.lattice.matrix, pbc=True)
    atoms.calc = Buckled()
    expected = calculate_numerical_forces(atoms, 1e-4)
    assert np.abs(atoms.get_forces() - expected).max() < 1e-4
