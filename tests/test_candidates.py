"""Candidates lie where their defect is: every patch put on the image must meet the crystal round it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from handmade import HOST, index, lattice, sites
from numpy.typing import NDArray

from stemfit.candidates import Candidate, local_frame, propose
from stemfit.defects import Defect
from stemfit.hosts import projected
from stemfit.lattice import Lattice, SiteMap
from stemfit.simulate.image import ProjectedColumns, project

FloatArray = NDArray[np.float64]
Site = tuple[int, int, str]

RATES = {"pristine": 0.98, "V_Se": 0.01, "V_Se2": 0.003, "V_Mo": 1e-3, "W_Mo": 5e-4, "S_Se": 5e-4, "S2_Se2": 5e-4}


def defect(
    site_map: SiteMap, kind: str, label: str, site: Site, others: Sequence[tuple[str, float]] = (("pristine", 0.05),)
) -> Defect:
    xy = site_map.xy_px[index(site_map, site)]
    return Defect(1, kind, label, 0.9, xy, (site,), xy[None], tuple(others), 20.0)


def proposals(polarity: int, kind: str, label: str, site: Site, **more: object) -> tuple[SiteMap, list[Candidate]]:
    crystal = lattice(polarity)
    site_map = sites(crystal)
    return site_map, list(propose(defect(site_map, kind, label, site, **more), HOST, crystal, site_map, RATES))  # type: ignore[arg-type]


def columns(candidate: Candidate, *, all_nodes: bool = False) -> ProjectedColumns:
    structure = candidate.structure
    use = np.ones(len(structure.marker), dtype=bool) if all_nodes else structure.occupied
    numbers = np.array([s.specie.Z for s in structure.structure])[use]
    return project(numbers, structure.structure.cart_coords[use], candidate.matrix, candidate.offset_px)


def disagreement(seen: ProjectedColumns, site_map: SiteMap, centre: FloatArray, reach_px: float) -> float:
    """Largest distance from a predicted column within reach to a site of its own sublattice."""
    names = np.array(["M" if t == "Mo" else "X" for t in seen.types])
    near = np.flatnonzero(np.linalg.norm(seen.xy_px - centre, axis=1) < reach_px)
    assert len(near) > 20
    return max(
        float(np.linalg.norm(site_map.xy_px[site_map.sublattice == names[k]] - seen.xy_px[k], axis=1).min())
        for k in near
    )


@pytest.mark.parametrize("polarity", [1, -1])
@pytest.mark.parametrize(("kind", "label", "site"), [("SV", "V_Se", (6, 3, "X")), ("VM", "V_Mo", (5, 3, "M"))])
def test_the_perfect_patch_lies_on_the_sites_of_the_image(polarity: int, kind: str, label: str, site: Site) -> None:
    site_map, made = proposals(polarity, kind, label, site)
    perfect = made[0]
    assert perfect.label == "pristine"
    seen, centre = columns(perfect), site_map.xy_px[index(site_map, site)]
    reach = 2.8 * lattice().a_px_iso
    # The lattice is bent by 1.5 px over the image, by 0.3 px over this patch: linear, so the frame follows it.
    assert disagreement(seen, site_map, centre, reach) < 0.05
    # Broken twins: the patch in the other polarity puts Se into hollows; a mirrored one misses the crystal.
    a = np.linalg.inv(perfect.matrix)
    for wrong in (-np.eye(2), np.diag([1.0, -1.0])):
        matrix = perfect.matrix @ wrong
        moved = seen.xy_px - perfect.offset_px
        turned = ProjectedColumns(
            (moved @ a.T - perfect.center_A) @ matrix.T + centre, seen.types, seen.column_of_atom
        )
        assert disagreement(turned, site_map, centre, reach) > 3.0


@pytest.mark.parametrize("polarity", [1, -1])
@pytest.mark.parametrize(
    ("kind", "label", "site", "changed"),
    [("SV", "V_Se", (6, 3, "X"), "Se"), ("DV", "V_Se2", (6, 3, "X"), ""), ("VM", "V_Mo", (5, 3, "M"), ""),
     ("SUB", "W_Mo", (5, 3, "M"), "W"), ("SUB", "S_Se", (6, 3, "X"), "SSe")],
)  # fmt: skip
def test_the_change_is_on_the_site_and_nowhere_else(
    polarity: int, kind: str, label: str, site: Site, changed: str
) -> None:
    site_map, made = proposals(polarity, kind, label, site)
    centre = site_map.xy_px[index(site_map, site)]
    own = [c for c in made if c.label == label]
    assert own
    for candidate in own:
        seen = columns(candidate)
        odd = [k for k, t in enumerate(seen.types) if t not in ("Mo", "Se2")]
        at_site = np.linalg.norm(seen.xy_px - centre, axis=1) < 0.5
        assert [seen.types[k] for k in odd] == ([changed] if changed else [])
        assert [seen.types[k] for k in np.flatnonzero(at_site)] == ([changed] if changed else [])
        whole = columns(candidate, all_nodes=True)
        assert np.linalg.norm(whole.xy_px - centre, axis=1).min() < 0.1
        assert np.allclose(candidate.matrix @ candidate.center_A + candidate.offset_px, centre, atol=1e-6)


def test_one_of_two_stacked_atoms_is_proposed_in_both_layers() -> None:
    for label, kind in (("V_Se", "SV"), ("S_Se", "SUB")):
        _, made = proposals(1, kind, label, (6, 3, "X"))
        own = [c for c in made if c.label == label]
        assert len(own) == 2
        heights = [c.structure.structure.cart_coords[list(c.structure.sites), 2][0] for c in own]
        middle = float(np.mean(own[0].structure.structure.cart_coords[:, 2]))
        assert (heights[0] - middle) * (heights[1] - middle) < 0
        one, other = (columns(c) for c in own)
        assert sorted(one.types) == sorted(other.types)
        assert np.allclose(np.sort(one.xy_px, axis=0), np.sort(other.xy_px, axis=0), atol=1e-6)  # same from above
        both = sum(np.exp(c.log_prior) for c in own)
        assert both == pytest.approx(RATES[label])  # the label's prior is shared, not doubled
    _, made = proposals(1, "DV", "V_Se2", (6, 3, "X"))
    assert sum(c.label == "V_Se2" for c in made) == 1


def test_likely_alternatives_get_structures_and_unlikely_ones_do_not() -> None:
    others = (("V_Se2", 0.05), ("pristine", 0.03), ("S2_Se2", 0.01), ("UNKNOWN", 0.01), ("Te_Se", 1e-7))
    _, made = proposals(1, "SV", "V_Se", (6, 3, "X"), others=others)
    assert {c.label for c in made} == {"pristine", "V_Se", "V_Se2", "S2_Se2"}
    assert [c.id for c in made] == [f"1-{k}" for k in range(1, len(made) + 1)]
    assert all(c.defect == 1 for c in made)


def test_what_has_no_name_gets_no_structure() -> None:
    crystal = lattice()
    site_map = sites(crystal)
    assert propose(defect(site_map, "UNKNOWN", "UNKNOWN", (6, 3, "X")), HOST, crystal, site_map, RATES) == ()


def test_no_more_than_asked() -> None:
    crystal = lattice()
    site_map = sites(crystal)
    others = (("V_Se2", 0.05), ("pristine", 0.03), ("S2_Se2", 0.01))
    one = defect(site_map, "SV", "V_Se", (6, 3, "X"), others)
    assert len(propose(one, HOST, crystal, site_map, RATES, most=2)) == 2


def test_what_is_taken_for_an_antisite_may_be_a_foreign_atom() -> None:
    others = (("W_Mo", 0.05), ("vanadium_Mo", 0.03), ("V_Mo", 0.02))
    _, made = proposals(1, "ANTI", "Se_Mo", (5, 3, "M"), others=others)
    kinds = {c.label: c.type for c in made}
    assert kinds == {"pristine": "", "Se_Mo": "ANTI", "W_Mo": "SUB", "vanadium_Mo": "SUB", "V_Mo": "VM"}


def test_the_local_frame_follows_the_bent_scan() -> None:
    crystal = lattice()
    site_map = sites(crystal)
    one = defect(site_map, "SV", "V_Se", (6, 3, "X"))
    matrix, centre = local_frame(one, crystal, site_map, HOST.a_A)
    assert np.allclose(centre, one.center_px)
    # 1.5 px to the right over the height of the image: x gains 1.5 / 199 of y.
    shear = np.array([[1.0, 1.5 / 199], [0.0, 1.0]])
    ideal = np.column_stack([crystal.a_px, crystal.b_px]) @ np.linalg.inv(
        HOST.a_A * np.array([[1.0, 0.5], [0.0, np.sqrt(0.75)]])
    )
    assert np.allclose(matrix, shear @ ideal, atol=1e-3)
    assert not np.allclose(matrix, ideal, atol=1e-3)


@pytest.mark.parametrize("sublattice", ["A", "B"])
@pytest.mark.parametrize("polarity", [1, -1])
def test_flat_hosts_lose_the_atom_of_the_right_sublattice(sublattice: str, polarity: int) -> None:
    crystal = lattice(polarity)
    there = sites(crystal)
    names = np.where(there.sublattice == "M", "A", "B")
    site_map = SiteMap(there.ij, names, there.xy_px, there.column, there.analysed)
    host = projected("hBN")
    label = "V_B" if sublattice == "A" else "V_N"
    site = (5, 3, sublattice)
    made = propose(defect(site_map, "SV", label, site), host, crystal, site_map, {label: 0.01, "pristine": 0.9})
    centre = site_map.xy_px[index(site_map, site)]
    perfect = columns(made[0])
    for element, name in (("B", "A"), ("N", "B")):
        near = perfect.xy_px[(np.array(perfect.types) == element) & (np.hypot(*(perfect.xy_px - centre).T) < 45)]
        own = site_map.xy_px[names == name]
        assert len(near) > 10
        assert np.linalg.norm(own[:, None] - near[None], axis=2).min(0).max() < 0.1
    empty = next(c for c in made if c.label == label)
    assert np.linalg.norm(columns(empty).xy_px - centre, axis=1).min() > 5.0


def test_local_frame_needs_no_crowd() -> None:
    """Beside an edge too few sites are near for a fit of their own: the affine cell serves."""
    crystal: Lattice = lattice()
    everything = sites(crystal)
    one = defect(everything, "SV", "V_Se", (6, 3, "X"))
    few = np.argsort(np.linalg.norm(everything.xy_px - one.center_px, axis=1))[:8]
    thin = SiteMap(*(getattr(everything, f)[few] for f in ("ij", "sublattice", "xy_px", "column", "analysed")))
    matrix, _ = local_frame(one, crystal, thin, HOST.a_A)
    full, _ = local_frame(one, crystal, everything, HOST.a_A)
    assert np.allclose(matrix, full, rtol=0, atol=0.02 * np.abs(full).max())
