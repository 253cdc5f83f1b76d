"""What a program that computes electrons wants to be told of a candidate: GPAW, VASP, Quantum ESPRESSO."""

from stemfit.inputs import espresso, gpaw, hessian, vasp
from stemfit.inputs.plan import Patch

__all__ = ["Patch", "espresso", "gpaw", "hessian", "vasp"]
