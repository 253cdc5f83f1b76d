"""How often a site holds what, before the image is asked: orders of magnitude."""

from __future__ import annotations

from stemfit.imaging import CHALCOGENS

PRIOR_RATES = {"SV": 1e-2, "DV": 3e-3, "VM": 1e-3, "SUB": 5e-4, "ANTI": 2e-4, "ADATOM": 1e-3, "UNKNOWN": 1e-4}
"""Share of sites that a type takes before the image is asked (per label for SUB and ANTI): orders of magnitude from
Hong et al., Nat. Commun. 2015; adatoms are no more frequent than vacancies. The image's own densities replace them as
far as it holds evidence."""

ISOVALENT, ISOVALENT_RATE = ("Mo", "W"), 2e-3
"""Metals of the same group are exchanged more often than others: their precursors contaminate each other."""

GUESTS = {"O": 2e-3, "S": 5e-4, "Se": 5e-4, "Te": 2.5e-5}
"""Share of chalcogen columns with one exchanged atom, by guest. Oxygen, found where vacancies had been expected (Barja
et al., Nat. Commun. 10, 3382 (2019)), is between them and other guests: the beam makes vacancies, oxygen comes before.
Tellurium is ten to fifty times rarer than selenium in the crust, hence in ores and what is made of them."""

IN_BORON_NITRIDE = ("C_B", "C_N")
"""Foreign atoms that boron nitride holds as often as hosts hold isovalent ones: carbon, seen atom by atom (Krivanek et
al., Nature 464, 571 (2010)), which also fills its vacancies under the beam."""

BOTH_EXCHANGED = 0.03
"""Share of the columns with an exchanged atom whose other one is exchanged as well: half way, by orders of magnitude,
between independent events (1e-3) and certainty."""


def prior_rate(label: str, kind: str, column: str) -> float:
    """Share of sites of a label; a column with both atoms exchanged (E2_X2) takes two events."""
    guest, _, own = label.partition("_")
    if kind == "SUB" and guest.rstrip("2") in GUESTS and own.rstrip("2") in CHALCOGENS:
        return GUESTS[guest.rstrip("2")] * (BOTH_EXCHANGED if column.endswith("2") else 1.0)
    isovalent = kind == "SUB" and column in ISOVALENT and own in ISOVALENT
    return ISOVALENT_RATE if isovalent or label in IN_BORON_NITRIDE else PRIOR_RATES.get(kind, 0.0)


def shared_with_pairs(labels: tuple[str, ...], rates: dict[str, float]) -> dict[str, float]:
    """Rates of columns with both atoms exchanged (E2_X2) that follow from those with one (E_X), where that is more."""
    both = {}
    for label in labels:
        guest, _, own = label.partition("_")
        one = f"{guest.rstrip('2')}_{own.rstrip('2')}"
        if guest.endswith("2") and own.endswith("2") and one in rates:
            both[label] = max(rates[label], BOTH_EXCHANGED * rates[one])
    return both
