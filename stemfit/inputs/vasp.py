"""Input of VASP: POSCAR, INCAR, KPOINTS, and which potentials to put together; these are licensed and not here."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from stemfit.inputs.plan import FMAX_eV_A, Patch, WAVES_eV, WIDTH_eV, commented, faces_differ, mesh, moments, reasons

POTENTIALS = {
    "B": "B", "C": "C", "N": "N", "O": "O", "Si": "Si", "P": "P", "S": "S", "Ti": "Ti_sv", "V": "V_sv", "Cr": "Cr_pv",
    "Ga": "Ga_d", "As": "As", "Se": "Se", "Nb": "Nb_sv", "Mo": "Mo_sv", "In": "In_d", "Te": "Te", "Ta": "Ta_pv",
    "W": "W_sv", "Re": "Re",
}  # fmt: skip
"""PAW data sets of potpaw_PBE.54 that the VASP manual recommends for standard calculations."""

STEPS = 200


def files(patch: Patch, poscar: str) -> dict[str, str]:
    """Name and text of every file of the folder.

    Parameters
    ----------
    patch : Patch
    poscar : str
        With elements in the order of the atoms.
    """
    return {"POSCAR": poscar, "INCAR": _incar(patch), "KPOINTS": _kpoints(patch), "POTCAR.txt": _potentials(patch)}


def species(patch: Patch) -> list[str]:
    """Elements in the order of the POSCAR."""
    return [name for name, _ in groupby(patch.atoms.get_chemical_symbols())]


def _incar(patch: Patch) -> str:
    tags = [
        ("PREC", "Accurate", "no wrap-around errors in forces"),
        ("GGA", "PE", "PBE"),
        ("ENCUT", f"{WAVES_eV:g}", "eV, see below"),
        ("EDIFF", "1E-6", "eV; forces settle later than energies"),
        ("NELM", "120", "steps of one cycle, at most"),
        ("ISMEAR", "0", "Gaussian: safe with and without a gap"),
        ("SIGMA", f"{WIDTH_eV:g}", "eV"),
        ("IBRION", "2", "conjugate gradients"),
        ("ISIF", "2", "atoms move, the cell does not"),
        ("NSW", str(STEPS), "ionic steps, at most"),
        ("EDIFFG", f"-{FMAX_eV_A:g}", "eV/A, largest force at the end"),
        ("ISYM", "0", "a defect may break the symmetry of its start"),
        ("LREAL", "Auto", "projectors in real space: these cells are large"),
        ("LASPH", ".TRUE.", "aspherical terms of the d electrons"),
    ]  # fmt: skip
    if faces_differ(patch):
        tags += [
            ("LDIPOL", ".TRUE.", "takes the field of the layer's dipole off"),
            ("IDIPOL", "3", "along the vacuum"),
            ("DIPOL", "0.5 0.5 0.5", "the layer is in the middle of the cell"),
        ]
    values = moments(patch)
    if values.any():
        tags += [("ISPIN", "2", "spin-polarised"), ("MAGMOM", _runs(values.tolist()), "in the order of the POSCAR")]
    else:
        tags += [("ISPIN", "1", "no spin")]
    lines = [f"{name} = {value} ! {why}\n" for name, value, why in tags]
    return f"# {patch.title}\n{''.join(lines)}{commented(reasons(patch), '#')}"


def _runs(values: Sequence[float]) -> str:
    """Equal neighbours as VASP abbreviates them: 40*0 3*1."""
    return " ".join(f"{len(list(group))}*{value:g}" for value, group in groupby(values))


def _kpoints(patch: Patch) -> str:
    n, m, k = mesh(patch)
    return f"{n} x {m} x {k} about Gamma; why: see INCAR\n0\nGamma\n{n} {m} {k}\n0 0 0\n"


def _potentials(patch: Patch) -> str:
    names = [POTENTIALS.get(element, f"{element}?") for element in species(patch)]
    unknown = [element for element in species(patch) if element not in POTENTIALS]
    said = [
        "POTCAR is licensed with VASP and cannot come along. Put it together from potpaw_PBE.54, in this order, which "
        "is that of the POSCAR; these are the data sets that the VASP manual recommends.",
        "  ".join(names),
        f"cat {' '.join(f'$POTPAW/{name}/POTCAR' for name in names)} > POTCAR",
    ]
    if unknown:
        said.append(f"For {', '.join(unknown)} (marked ?) no data set is known here: choose one.")
    return f"{patch.title}\n\n" + "\n".join(said) + "\n"
