"""The network `definet`: errors, forces that are left, force calls saved, time, growth with size, DFT, size of weights.

Everything beside what it is compared with: leaving every atom where it was, and the teacher's own relaxation. Sections:
`network_errors.py`, `network_forces.py`, `network_time.py`.

Run: ``python benchmarks/network.py --data DIR ... [--checkpoint FILE] [--only errors,steps,time,scaling,dft,size]``
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import network_errors
import network_forces
import network_time
from machine import headline

from definet.checkpoint import Checkpoint, load_checkpoint, shipped
from definet.dataset import load, split
from definet.predict import resolve_device
from definet.samples import Sample

SECTIONS = ("errors", "forces", "steps", "time", "scaling", "dft", "size")
"""`forces` is `steps` without the relaxations by the teacher: cheap."""
DEFAULT = ("errors", "steps", "time", "scaling", "dft", "size")
SIZES = (75, 192, 768, 3072)
LARGE = (768, 3072, 12288, 50000)


def size(path: Path, checkpoint: Checkpoint) -> Iterator[str]:
    """What the weights add to the package."""
    data = path.read_bytes()
    parameters = sum(value.numel() for value in checkpoint.weights.values())
    code = sum(file.stat().st_size for file in Path(__file__).parents[1].glob("definet/**/*.py"))
    yield (
        f"**Size**: {parameters} parameters, {len(data) / 1e6:.2f} MB, {len(zlib.compress(data)) / 1e6:.2f} MB in a "
        f"wheel; the source of `definet` has {code / 1e6:.2f} MB"
    )


def sections(asked: argparse.Namespace, wanted: Sequence[str], say: Callable[[str], None]) -> Iterator[str]:
    """Markdown of each section, as it is done."""
    checkpoint = load_checkpoint(asked.checkpoint)
    parts: dict[str, list[Sample]] = {}
    if {"errors", "forces", "steps"} & set(wanted):
        parts = split([sample for folder in asked.data for sample in load(folder)])
    device, potential, weights = asked.device, asked.teacher, asked.checkpoint
    if "errors" in wanted:
        yield from network_errors.section(checkpoint, parts, device, say)
    if {"forces", "steps"} & set(wanted):
        fmax = asked.steps_to_fmax if "steps" in wanted else None
        yield from network_forces.section(checkpoint, parts["test"], potential, asked.structures, fmax, device, say)
    if "time" in wanted:
        teacher = None if asked.no_teacher else potential
        yield from network_time.section(weights, asked.sizes, asked.threads, teacher, asked.patience, say)
    if "scaling" in wanted:
        yield from network_time.scaling(weights, asked.large, max(asked.threads), asked.patience, say)
    if "dft" in wanted and asked.dft is not None:
        yield from network_forces.dft(checkpoint, asked.dft, potential, device, say)
    if "size" in wanted:
        yield from size(weights, checkpoint)


def parser() -> argparse.ArgumentParser:
    """Options."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--data", type=Path, nargs="+", default=[], help="folders of samples (errors, forces, steps)")
    asked.add_argument("--checkpoint", type=Path, default=shipped(), help="weights; default those of the package")
    asked.add_argument("--only", default=",".join(DEFAULT), help=f"of {', '.join(SECTIONS)}; dft needs --dft")
    asked.add_argument("--device", default="auto", help="of errors, forces, steps and dft")
    asked.add_argument("--teacher", default="chgnet", help="as in definet.teacher.calculator")
    asked.add_argument("--structures", type=int, default=12, help="for forces and steps")
    asked.add_argument("--steps-to-fmax", type=float, default=0.02, metavar="FMAX", help="eV/A")
    asked.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="atoms, for time")
    asked.add_argument("--large", type=int, nargs="+", default=LARGE, help="atoms, for scaling")
    asked.add_argument("--threads", type=int, nargs="+", default=(1, 2), help="for time; scaling uses the most")
    asked.add_argument("--patience", type=float, default=3.0, help="seconds for the repeats of one timing")
    asked.add_argument("--no-teacher", action="store_true", help="no relaxations in time")
    asked.add_argument("--dft", type=Path, help="folder of structures relaxed by DFT")
    return asked


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser()
    asked = options.parse_args(arguments)
    wanted = asked.only.split(",")
    if unknown := set(wanted) - set(SECTIONS):
        options.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    if {"errors", "forces", "steps"} & set(wanted) and not asked.data:
        options.error("errors, forces and steps need --data DIR")
    checkpoint = load_checkpoint(asked.checkpoint)
    print(headline(), f"device {resolve_device(asked.device)}", sep="; ")
    print(
        f"weights {asked.checkpoint.name} ({checkpoint.sha256[:12]}), taught by {checkpoint.provenance.teacher}, "
        f"{checkpoint.config}"
    )
    for block in sections(asked, wanted, lambda line: print(line, file=sys.stderr, flush=True)):
        print("", block, sep="\n", flush=True)


if __name__ == "__main__":
    main()
