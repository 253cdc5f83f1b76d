"""Which defects are calculated, in which cells, in which order. Needs nothing but Python."""

from __future__ import annotations

from typing import NamedTuple


class Defect(NamedTuple):
    """One defect: file, host, n x m cells, and what is built at which cell (None: the middle), which side."""

    name: str
    host: str
    shape: tuple[int, int]
    parts: tuple[tuple[str, tuple[int, int] | None, str], ...]


def _one(host: str, label: str, shape: tuple[int, int] = (3, 3), suffix: str = "") -> Defect:
    return Defect(f"{host}-{label}{suffix}", host, shape, ((label, None, "top"),))


def _pair(host: str, label: str, n: int, apart: tuple[int, int], opposite: bool) -> Defect:
    """Two vacancies, `apart` cells from each other, in the same layer or on opposite sides."""
    where = "far-" if apart == FAR else ""
    first, second = (1, 1), (1 + apart[0], 1 + apart[1])
    parts = ((label, first, "top"), (label, second, "bottom" if opposite else "top"))
    return Defect(f"{host}-2{label}-{where}{'opposite' if opposite else 'same'}", host, (n, n), parts)


NEAR, FAR = (1, 0), (2, 1)
FLAT = (4, 4)

DEFECTS: tuple[Defect, ...] = (
    # Those of the four that potentials were compared on first.
    _one("MoS2", "V_S"),
    _one("WSe2", "V_Se2"),
    _one("MoS2", "V_S2"),
    _one("WSe2", "V_Se"),
    _one("MoS2", "V_Mo"),
    _pair("MoS2", "V_S", 3, NEAR, opposite=False),
    _one("WSe2", "V_W"),
    _pair("WSe2", "V_Se", 3, NEAR, opposite=True),
    _one("WS2", "V_S2"),
    _one("MoSe2", "V_Se"),
    _one("hBN", "V_BN", FLAT),
    _one("graphene", "N_C", FLAT),
    _pair("MoS2", "V_S", 3, NEAR, opposite=True),
    _one("MoS2", "W_Mo"),
    _one("WSe2", "S_Se"),
    _one("WS2", "V_W"),
    _one("MoSe2", "V_Se2"),
    _one("MoSe2", "V_Mo"),
    _one("WS2", "V_S"),
    _one("hBN", "C_B", FLAT),
    _one("graphene", "5-8-5", (5, 5)),
    _pair("WSe2", "V_Se", 3, NEAR, opposite=False),
    _one("MoS2", "Se_S"),
    _one("WSe2", "Mo_W"),
    _one("MoS2", "V_MoS3"),
    _one("hBN", "V_N", FLAT),
    _one("hBN", "C_N", FLAT),
    _one("graphene", "SW", FLAT),
    _one("MoS2", "SVL-3", (5, 3)),
    _one("WSe2", "SVL-3", (5, 3)),
    _one("MoS2", "Mo_S"),
)
"""In the order in which they are begun: the kinds of defects and hosts alternate."""

LARGE: tuple[Defect, ...] = (
    _pair("MoS2", "V_S", 4, FAR, opposite=False),
    _pair("WSe2", "V_Se", 4, FAR, opposite=True),
    _one("MoS2", "V_S", (4, 4), "-4x4"),
)
"""A frame of these costs as much as five others: they come after all of the others."""

HOSTS = ("MoS2", "WSe2", "WS2", "MoSe2", "hBN", "graphene")
PRISTINE = tuple(Defect(f"{host}-pristine-3x3", host, (3, 3), ()) for host in HOSTS)
"""Layers that are strained and rattled."""


class Work(NamedTuple):
    """Most frames of a trajectory of each defect, for one to learn from and for one that is set aside."""

    trajectory: str
    train: int
    test: int


WHOLE = 15
"""Frames after which a relaxation is given up."""

ROUNDS: tuple[tuple[Work, ...], ...] = (
    (Work("potential", 3, WHOLE),),
    (Work("ideal", 1, 1), Work("potential", 6, WHOLE)),
    (Work("rattled-0.05-1", 1, 0), Work("ideal", 2, 1)),
    (Work("rattled-0.08-1", 1, 1), Work("rattled-0.03-1", 1, 0)),
    (Work("potential", WHOLE, WHOLE), Work("ideal", 4, 1)),
    (Work("rattled-0.05-2", 1, 1), Work("rattled-0.08-2", 1, 0), Work("rattled-0.05-3", 1, 0)),
)
"""What is wanted of every defect, in this order."""

STRAINS = (-0.02, -0.01, 0.0, 0.01, 0.02)
