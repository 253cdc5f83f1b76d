"""What a defect does to the atoms of a layer."""

from collections import Counter

from definet.structures import elements_of, pristine


def change(crystal):
    """Atoms gained and lost against the pristine layer, by element."""
    before = Counter(elements_of(pristine(crystal.host, *crystal.shape).structure))
    after = Counter(elements_of(crystal.atoms))
    return {e: after[e] - before[e] for e in before | after if after[e] != before[e]}
