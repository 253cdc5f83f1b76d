"""Input of Quantum ESPRESSO's pw.x; names and cutoffs of pseudopotentials are those of SSSP, to be adapted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.data import atomic_masses, atomic_numbers
from ase.units import Bohr, Ry

from stemfit.inputs.plan import FMAX_eV_A, Patch, WIDTH_eV, commented, mesh, moments, reasons

PSEUDOPOTENTIALS: dict[str, tuple[str, int, int]] = {
    "B": ("b_pbe_v1.4.uspp.F.UPF", 35, 280),
    "C": ("C.pbe-n-kjpaw_psl.1.0.0.UPF", 45, 360),
    "N": ("N.pbe-n-radius_5.UPF", 60, 480),
    "O": ("O.pbe-n-kjpaw_psl.0.1.UPF", 50, 400),
    "Si": ("Si.pbe-n-rrkjus_psl.1.0.0.UPF", 30, 240),
    "P": ("P.pbe-n-rrkjus_psl.1.0.0.UPF", 30, 240),
    "S": ("s_pbe_v1.4.uspp.F.UPF", 35, 280),
    "Ti": ("ti_pbe_v1.4.uspp.F.UPF", 35, 280),
    "V": ("v_pbe_v1.4.uspp.F.UPF", 35, 280),
    "Cr": ("cr_pbe_v1.5.uspp.F.UPF", 40, 320),
    "Ga": ("Ga.pbe-dn-kjpaw_psl.1.0.0.UPF", 70, 560),
    "As": ("As.pbe-n-rrkjus_psl.0.2.UPF", 35, 280),
    "Se": ("Se_pbe_v1.uspp.F.UPF", 30, 240),
    "Nb": ("Nb.pbe-spn-kjpaw_psl.0.3.0.UPF", 40, 320),
    "Mo": ("Mo_ONCV_PBE-1.0.oncvpsp.upf", 35, 140),
    "In": ("In.pbe-dn-rrkjus_psl.0.2.2.UPF", 50, 400),
    "Te": ("Te_pbe_v1.uspp.F.UPF", 30, 240),
    "Ta": ("Ta_pbe_v1.uspp.F.UPF", 45, 360),
    "W": ("W_pbe_v1.2.uspp.F.UPF", 30, 240),
    "Re": ("Re_pbe_v1.2.uspp.F.UPF", 30, 240),
}
"""File, and kinetic energies for waves and density (Ry), of SSSP PBE efficiency 1.1 (Prandini et al., npj Comput.
Mater. 4, 72 (2018)). Newer versions name some files otherwise."""

SAFE_Ry = (60, 480)
"""For elements that are not in the table: enough for every element that is, but gallium."""

TAIL_A = 10 * Bohr
"""Density of a layer beyond its outermost atoms, as the manual of pw.x estimates it; twice that thickness is what the
truncation of the Coulomb interaction needs (Sohier et al., Phys. Rev. B 96, 075448 (2017))."""


@dataclass(frozen=True)
class _Kind:
    """A name of `ATOMIC_SPECIES`: an element, or those of its atoms that start with a moment."""

    name: str
    element: str
    magnetic: bool


def text(patch: Patch) -> str:
    """Text of the input file."""
    atoms, values = patch.atoms, moments(patch)
    symbols = atoms.get_chemical_symbols()
    each = list(zip(symbols, (values > 0).tolist(), strict=True))
    named = {(s, magnetic): _Kind(f"{s}1" if magnetic else s, s, magnetic) for s, magnetic in sorted(set(each))}
    rows = [named[pair].name for pair in each]
    n, m, k = mesh(patch)
    cell = "".join("  ".join(f"{x:16.10f}" for x in row) + "\n" for row in np.asarray(atoms.cell))
    places = "".join(
        f"{name:<4} {x:16.10f} {y:16.10f} {z:16.10f}\n" for name, (x, y, z) in zip(rows, atoms.positions, strict=True)
    )
    kinds_text = "".join(
        f"{kind.name:<4} {atomic_masses[atomic_numbers[kind.element]]:9.4f}  {_file(kind.element)}\n"
        for kind in named.values()
    )
    return (
        f"! {patch.title}\n{commented([*reasons(patch), *_notes(patch)], '!')}"
        f"{_namelists(patch, list(named.values()))}"
        f"\nATOMIC_SPECIES\n{kinds_text}\nK_POINTS automatic\n{n} {m} {k} 0 0 0\n"
        f"\nCELL_PARAMETERS angstrom\n{cell}\nATOMIC_POSITIONS angstrom\n{places}"
    )


def _file(element: str) -> str:
    return PSEUDOPOTENTIALS[element][0] if element in PSEUDOPOTENTIALS else f"{element}.UPF"


def _cutoffs(patch: Patch) -> tuple[int, int]:
    elements = set(patch.atoms.get_chemical_symbols())
    known = [PSEUDOPOTENTIALS[e][1:] if e in PSEUDOPOTENTIALS else SAFE_Ry for e in elements]
    return max(waves for waves, _ in known), max(density for _, density in known)


def _truncated(patch: Patch) -> bool:
    """Whether the cell is high enough for a Coulomb interaction that is cut off between the layers."""
    z = patch.atoms.positions[:, 2]
    return bool(patch.atoms.cell[2, 2] >= 2 * (np.ptp(z) + TAIL_A))


def _notes(patch: Patch) -> list[str]:
    unknown = sorted({e for e in patch.atoms.get_chemical_symbols() if e not in PSEUDOPOTENTIALS})
    waves, density = _cutoffs(patch)
    said = (
        "Pseudopotentials: names and cutoffs of SSSP PBE efficiency 1.1 (Prandini et al., npj Comput. Mater. 4, 72 "
        f"(2018)), free to download; adapt them to the files that you have. The hardest element asks for {waves} Ry of "
        f"the waves and {density} Ry of the density."
    )
    if unknown:
        said += f" Of {', '.join(unknown)} no file is known here: choose one, with its cutoffs."
    units = (
        f"In the units of pw.x: degauss is {WIDTH_eV:g} eV, forc_conv_thr {FMAX_eV_A:g} eV/A, conv_thr 1e-10 Ry per "
        "atom, etot_conv_thr 1e-6 Ry per atom, so that the forces decide. nosym: a defect may break the symmetry of "
        "its start. starting_magnetization is a share of the valence electrons; pw.x finds the size by itself."
    )
    if _truncated(patch):
        cut = (
            "assume_isolated: the Coulomb interaction is cut off between the layers, which also takes the field of a "
            "dipole off (Sohier et al., Phys. Rev. B 96, 075448 (2017)). K_POINTS are automatic even for Gamma alone, "
            "because the cut-off was reported to fail with the shortcut for it."
        )
        return [said, units, cut]
    least = 2 * (np.ptp(patch.atoms.positions[:, 2]) + TAIL_A) - np.ptp(patch.atoms.positions[:, 2])
    return [said, units, f"assume_isolated = '2D' is left out: it needs {least:.1f} A of vacuum (--vacuum)."]


def _namelists(patch: Patch, kinds: list[_Kind]) -> str:
    waves, density = _cutoffs(patch)
    count = len(patch.atoms)
    system = [
        "ibrav = 0", f"nat = {count}", f"ntyp = {len(kinds)}", f"ecutwfc = {waves}", f"ecutrho = {density}",
        "occupations = 'smearing'", "smearing = 'gaussian'", f"degauss = {WIDTH_eV / Ry:.6f}", "tot_charge = 0",
        "nosym = .true.",
    ]  # fmt: skip
    if _truncated(patch):
        system.append("assume_isolated = '2D'")
    if any(kind.magnetic for kind in kinds):
        system.append("nspin = 2")
        system += [f"starting_magnetization({k}) = {0.3 if kind.magnetic else 0.0}" for k, kind in enumerate(kinds, 1)]
    control = [
        "calculation = 'relax'", f"prefix = '{patch.name}'", "outdir = './out'",
        "pseudo_dir = './pseudo'", f"forc_conv_thr = {FMAX_eV_A / (Ry / Bohr):.3e}",
        f"etot_conv_thr = {1e-6 * count:.3e}", "nstep = 200",
    ]  # fmt: skip
    electrons = [f"conv_thr = {1e-10 * count:.3e}", "mixing_beta = 0.3", "electron_maxstep = 120"]
    parts = {"CONTROL": control, "SYSTEM": system, "ELECTRONS": electrons, "IONS": ["ion_dynamics = 'bfgs'"]}
    return "".join(f"&{name}\n" + "".join(f"  {line}\n" for line in lines) + "/\n" for name, lines in parts.items())
