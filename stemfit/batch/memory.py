"""Memory: how much a process holds, and how much this one and its workers may have."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

CONTROLLED = {"": ("sys/fs/cgroup", "memory.max"), "memory": ("sys/fs/cgroup/memory", "memory.limit_in_bytes")}
"""Where limits of control groups stand, by the name of the controller: version 2 has none."""


def memory_of(pid: int | None) -> int:
    """Bytes that a process holds; 0 where the system does not tell."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def share_of_memory(workers: int, root: Path = Path("/"), environment: Mapping[str, str] | None = None) -> int:
    """Bytes for each of so many workers, if a tenth is left to all others.

    Parameters
    ----------
    workers : int
    root : path, optional
        Of the system's files.
    environment : mapping, optional
        Of this process where it is not given: Slurm says there what it has granted.
    """
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    slurm = _granted(os.environ if environment is None else environment)
    return int(0.9 * min([total, *_limits(root), *slurm]) / workers)


def _limits(root: Path) -> Iterator[int]:
    """Of the control groups of this process, and of all groups that those are in: the least holds."""
    places = list(CONTROLLED.values())  # a container sees its own group at the top
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, names, group = line.split(":", 2)
            for name in names.split(","):
                if name in CONTROLLED:
                    top, limit = CONTROLLED[name]
                    own = Path(group.lstrip("/"))
                    places += [(f"{top}/{above}", limit) for above in (own, *own.parents)]
    for folder, limit in places:
        with suppress(OSError, ValueError):  # "max" is no limit
            yield int((root / folder / limit).read_text())


def _granted(environment: Mapping[str, str]) -> Iterator[int]:
    """What Slurm has granted on this machine, MiB in its variables; 0 says all of it."""
    for name, times in (("SLURM_MEM_PER_NODE", None), ("SLURM_MEM_PER_CPU", "SLURM_CPUS_ON_NODE")):
        with suppress(KeyError, ValueError):
            granted = int(environment[name]) * (1 if times is None else int(environment[times]))
            if granted > 0:
                yield granted * 2**20
