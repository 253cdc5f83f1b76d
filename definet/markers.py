"""From a structure in a file to the nodes that the network takes: markers as they stand there, or from a host."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from definet.crystals import HOSTS, host
from definet.exceptions import OptionError, StructureError
from definet.host_fit import HostFit, fit_host
from definet.layer import VACUUM_A, check_layer, upright
from definet.motif_labels import label
from definet.structure_file import StructureFile
from definet.structures import CHANGED, PRISTINE, VACANCY, DefectStructure, elements_of

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

UNEVEN = 0.01
"""Strain beside a mere change of scale above which the user is told: hosts differ by less between functionals."""


NO_HOST = "the host is not known: taken as it is, not at the lattice constant that the weights know; give --host"


@dataclass(frozen=True, eq=False)
class Nodes:
    """A structure ready to be relaxed.

    Attributes
    ----------
    crystal : DefectStructure
        Upright (c along z). The nodes of the file in its order; derived vacancy nodes follow.
    turn : (3, 3) array
        Rotation from the file's frame to the upright one, for rows of Cartesian vectors.
    host_source : str
        "given", "guessed" from elements and lattice, or "unknown".
    marker_source : str
        "file" or "host".
    warnings : tuple of str
    fit : HostFit or None
        The ideal host under the atoms (vacancy nodes left out), in the upright frame.
    """

    crystal: DefectStructure
    turn: FloatArray
    host_source: Literal["given", "guessed", "unknown"]
    marker_source: Literal["file", "host"]
    warnings: tuple[str, ...] = ()
    fit: HostFit | None = None


def nodes_of(
    given: StructureFile,
    host_name: str | None = None,
    *,
    from_host: bool = False,
    known: Iterable[str] = (),
    vacuum_A: float = VACUUM_A,
) -> Nodes:
    """Take the markers of the file, or derive them.

    Parameters
    ----------
    given : StructureFile
    host_name : str, optional
        Needed where markers must be derived; with markers in the file it must fit, and scales the lattice.
    from_host : bool
        Derive markers even if the file has some; its vacancy nodes are dropped first.
    known : iterable of str
        Hosts that may be guessed where none is named and the file has markers.
    vacuum_A : float
        Least empty height that whatever relaxes the structure needs.

    Raises
    ------
    UnknownHostError
    OptionError
        If markers must be derived and no host is named.
    StructureError
        If the structure is no layer with vacuum, has coinciding nodes, or does not fit the host.
    """
    if host_name is not None:
        host(host_name)
    check_layer(given.structure, vacuum_A)
    found = _found(given, host_name, from_host, known)
    return replace(found, warnings=(*given.warnings, *found.warnings))


def _found(given: StructureFile, host_name: str | None, from_host: bool, known: Iterable[str]) -> Nodes:
    structure, turn = upright(given.structure)
    if given.marker is not None and not from_host:
        return _as_marked(structure, given.marker, turn, host_name, known)
    if given.marker is not None:
        structure = _atoms_of(structure, given.marker)
    if host_name is None:
        guessed = _guess(structure, known)
        hint = f"give --host {guessed.host.name}" if guessed else f"name the crystal, one of {', '.join(HOSTS)}"
        why = "--marker-from-host without --host" if from_host else "no marker column, no --host to derive markers from"
        raise OptionError(why, f"{hint[0].upper()}{hint[1:]}.")
    fit = fit_host(structure, host(host_name))
    return Nodes(_derived(structure, fit), turn, "given", "host", _unlike(fit), fit)


def _atoms_of(structure: Structure, marker: IntArray) -> Structure:
    if (marker == VACANCY).all():
        raise StructureError("every node is a vacancy (marker 2)", "Mark atoms 0 or 1.")
    atoms = structure.copy()
    atoms.remove_sites(np.flatnonzero(marker == VACANCY).tolist())
    return atoms


def _as_marked(
    structure: Structure, marker: IntArray, turn: FloatArray, host_name: str | None, known: Iterable[str]
) -> Nodes:
    """Markers of the file; the host only says at which lattice constant they are."""
    atoms, sites = _atoms_of(structure, marker), tuple(np.flatnonzero(marker != PRISTINE).tolist())
    fit = _guess(atoms, known) if host_name is None else fit_host(atoms, host(host_name))
    if fit is None:
        return Nodes(DefectStructure(structure, marker, "unknown", sites), turn, "unknown", "file", (NO_HOST,))
    name = label(fit, elements_of(atoms))
    crystal = DefectStructure(structure, marker, name, sites, fit.host.name, a_A=fit.a_A)
    warnings = (*_unlike(fit), *_contradictions(crystal, fit))
    return Nodes(crystal, turn, "given" if host_name else "guessed", "file", warnings, fit)


def _guess(atoms: Structure, known: Iterable[str]) -> HostFit | None:
    """The host that leaves fewest atoms and sites out of place, of those whose elements are all there."""
    here, fits = set(elements_of(atoms)), []
    for name in known:
        if name in HOSTS and set(HOSTS[name].elements.values()) <= here:
            try:
                fits.append(fit_host(atoms, HOSTS[name]))
            except StructureError:
                continue
    return min(fits, key=lambda fit: int((_atom_markers(atoms, fit) != PRISTINE).sum()), default=None)


def _atom_markers(atoms: Structure, fit: HostFit) -> IntArray:
    """(N,) 0 where an atom stands on a site of its element, else 1."""
    belongs, elements = fit.element, elements_of(atoms)
    own = [site >= 0 and belongs[site] == element for site, element in zip(fit.site, elements, strict=True)]
    return np.where(own, PRISTINE, CHANGED).astype(np.int64)


def _derived(atoms: Structure, fit: HostFit) -> DefectStructure:
    """The atoms, and a vacancy node on every empty site."""
    empty, belongs = np.flatnonzero(fit.occupant < 0), fit.element
    structure = type(atoms)(
        atoms.lattice,
        elements_of(atoms) + [belongs[site] for site in empty],
        np.vstack([atoms.cart_coords, fit.site_A[empty]]),
        coords_are_cartesian=True,
    )
    marker = np.concatenate([_atom_markers(atoms, fit), np.full(len(empty), VACANCY, np.int64)])
    sites = tuple(np.flatnonzero(marker != PRISTINE).tolist())
    return DefectStructure(structure, marker, label(fit, elements_of(atoms)), sites, fit.host.name, a_A=fit.a_A)


def _unlike(fit: HostFit) -> tuple[str, ...]:
    """What of the cell as a whole is unlike any that was learnt."""
    if fit.strain <= UNEVEN:
        return _edges(fit)
    what = f"the cell is strained unevenly, by +-{fit.strain:.1%} against {fit.host.name}: no such cell was learnt"
    return (what, *_edges(fit))


def _edges(fit: HostFit) -> tuple[str, ...]:
    if fit.hollow == 0:
        return ()
    return (f"the layer does not fill the cell ({fit.hollow} cells amid emptiness): edges and holes were not learnt",)


def _contradictions(crystal: DefectStructure, fit: HostFit) -> tuple[str, ...]:
    """Where markers of the file are not those that the host implies."""
    atoms = np.flatnonzero(crystal.occupied)
    differ = atoms[crystal.marker[atoms] != _atom_markers(crystal.atoms, fit)]
    empty, listed = int((fit.occupant < 0).sum()), int((~crystal.occupied).sum())
    said = []
    if len(differ):
        first = int(differ[0]) + 1
        said.append(f"{len(differ)} atoms (first: node {first}) are marked otherwise than {fit.host.name} implies")
    if empty != listed:
        said.append(f"{listed} vacancy nodes are listed, {fit.host.name} has {empty} empty sites here")
    return tuple(f"{what}; --marker-from-host derives them" for what in said)
