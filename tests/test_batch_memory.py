"""How much memory workers may have: the least of what machine, control groups and Slurm say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stemfit.batch.memory import memory_of, share_of_memory

MIB = 2**20
HERE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def system(root: Path, group: str, **limits: str) -> Path:
    """Files as the kernel shows them; "_" in a name stands for "/"."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(group)
    for name, limit in limits.items():
        path = root / "sys/fs/cgroup" / name.replace("_", "/")
        path.mkdir(parents=True, exist_ok=True)
        (path / ("memory.limit_in_bytes" if name.startswith("memory") else "memory.max")).write_text(f"{limit}\n")
    return root


def test_alone_it_is_nine_tenths_of_the_machine(tmp_path: Path) -> None:
    assert share_of_memory(2, tmp_path, {}) == int(0.45 * HERE)
    assert memory_of(os.getpid()) > 10 * MIB and memory_of(None) == 0


@pytest.mark.parametrize(
    ("group", "limits", "least"),
    [
        ("0::/slurm/job/step\n", {"slurm_job_step": "max", "slurm_job": str(512 * MIB), "slurm": str(900 * MIB)}, 512),
        ("0::/slurm/job\n", {"slurm_job": str(700 * MIB), "slurm": str(300 * MIB)}, 300),
        ("0::/a\n", {"a": "max", "other": str(MIB)}, None),
        ("0::/\n", {".": str(100 * MIB)}, 100),  # a container's own
        ("5:cpu:/x\n9:memory:/job/1\n", {"memory_job_1": str(64 * MIB), "memory": str(2**62)}, 64),
        ("9:memory:/not/shown\n", {"memory": str(80 * MIB)}, 80),  # a container sees its own as the top
    ],
)  # fmt: skip
def test_control_groups(group: str, limits: dict[str, str], least: int | None, tmp_path: Path) -> None:
    expected = HERE if least is None else least * MIB
    assert share_of_memory(1, system(tmp_path, group, **limits), {}) == int(0.9 * expected)


@pytest.mark.parametrize(
    ("environment", "MiB"),
    [
        ({"SLURM_MEM_PER_NODE": "96"}, 96), ({"SLURM_MEM_PER_CPU": "20", "SLURM_CPUS_ON_NODE": "4"}, 80),
        ({"SLURM_MEM_PER_NODE": "0"}, None), ({"SLURM_MEM_PER_CPU": "20"}, None), ({"SLURM_MEM_PER_NODE": "x"}, None),
    ],
)  # fmt: skip
def test_slurm(environment: dict[str, str], MiB: int | None, tmp_path: Path) -> None:
    expected = HERE if MiB is None else MiB * MIB
    assert share_of_memory(1, tmp_path, environment) == int(0.9 * expected)
