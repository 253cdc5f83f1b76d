"""Store, load and split relaxed defect structures.

A set is a folder of compressed shards and a `set.json` that says how it was made (`definet.making`). A shard is written
under a temporary name and renamed, so one that exists is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from definet import published
from definet.exceptions import InputFileError, OptionError, OutputError
from definet.outliers import RULES
from definet.samples import Sample

SCHEMA = "definet.dataset/1"


def lattice_constants(folder: Path) -> dict[str, float]:
    """Lattice constant a of every host of a set, Angstrom: the teacher's own."""
    path = folder / "set.json"
    if not path.exists():
        raise InputFileError(f"{folder} holds no set of samples")
    return dict(json.loads(path.read_text())["lattice_A"])


_PER_NODE = ("numbers", "positions", "relaxed", "marker")
_PER_SAMPLE = tuple(field.name for field in fields(Sample) if field.name not in _PER_NODE)


def write_shard(path: Path, kept: Sequence[Sample], drawn: int, left_out: Sequence[str] | None = None) -> None:
    """Store nodes of all samples one after the other, with their counts, and out of how many draws they are.

    Samples judged by today's rules come with "group reason" of what these left out.

    Raises
    ------
    OutputError
    """
    arrays: dict[str, Any] = {"drawn": np.array(drawn), "count": np.array([len(s.numbers) for s in kept], np.int64)}
    if left_out is not None:
        arrays |= {"rules": np.array(RULES), "left_out": np.array(left_out, np.str_)}
    for name in _PER_NODE if kept else ():
        arrays[name] = np.concatenate([getattr(s, name) for s in kept])
    for name in _PER_SAMPLE if kept else ():
        arrays[name] = np.array([getattr(s, name) for s in kept])
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        np.savez_compressed(temporary, **arrays)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error


def drawn_in(path: Path) -> int:
    """How many draws a shard comes from, the outliers that were left out included."""
    with np.load(path) as shard:
        return int(shard["drawn"])


def judged(path: Path) -> tuple[int, list[str]]:
    """Rules that a shard was judged by, 0 if it does not say, and "group reason" of what was left out since it does."""
    with np.load(path) as shard:
        return (int(shard["rules"]), shard["left_out"].tolist()) if "rules" in shard else (0, [])


def read_shard(path: Path) -> list[Sample]:
    """Samples of one shard.

    Raises
    ------
    InputFileError
    """
    try:
        with path.open("rb") as stream, np.load(stream) as shard:
            arrays = dict(shard)
        ends = np.cumsum(arrays["count"])
        nodes = {name: np.split(arrays[name], ends[:-1]) for name in _PER_NODE if len(ends)}
        rows: list[dict[str, Any]] = [
            {name: nodes[name][k] for name in _PER_NODE}
            | {name: _plain(arrays[name][k]) for name in _PER_SAMPLE if name in arrays}
            for k in range(len(ends))
        ]
        return [Sample(**row) for row in rows]
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise InputFileError(f"{path} is no readable shard: {error}") from error


def _plain(value: Any) -> Any:
    """A Python scalar, a tuple of two, or the array itself."""
    if np.ndim(value) == 0:
        return value.item()
    return tuple(int(part) for part in value) if np.shape(value) == (2,) else value


def load(folder: Path) -> list[Sample]:
    """Read all samples of a folder: one that `make` made, in the order of drawing, or one in the published layout.

    Raises
    ------
    InputFileError
        If there are none, or a file is damaged.
    """
    if published.folders(Path(folder)):
        return published.load(Path(folder))
    paths = sorted(Path(folder).glob("shard-*.npz"))
    if not paths:
        raise InputFileError(f"{folder} holds no samples", "Make some: stemfit dataset make --out DIR ...")
    return [found for path in paths for found in read_shard(path)]


def data_sha256(folder: Path) -> str:
    """Hash of all shards, or of all published files, of a folder, in their order."""
    if published.folders(Path(folder)):
        return published.data_sha256(Path(folder))
    digest = hashlib.sha256()
    for path in sorted(Path(folder).glob("shard-*.npz")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def split(
    samples: Sequence[Sample], valid: float = 0.1, test: float = 0.1, seed: int = 0
) -> dict[str, list[Sample]]:
    """Part samples by configuration, never by row.

    A published split is kept. What goes beyond the training range (`beyond`) is set aside whole. Of the rest a
    configuration's part follows from a hash of its key alone: it stays where it is when the set grows.

    Parameters
    ----------
    samples : sequence of Sample
    valid, test : float
        Expected shares of configurations.
    seed : int

    Returns
    -------
    dict
        "train", "valid", "test" and "extrapolation".

    Raises
    ------
    OptionError
        If the shares leave nothing to train on.
    """
    if valid < 0 or test < 0 or valid + test >= 1:
        raise OptionError(f"shares of {valid} and {test} leave nothing to train on")
    parts: dict[str, list[Sample]] = {"train": [], "valid": [], "test": [], "extrapolation": []}
    for found in samples:
        place = int(hashlib.sha256(f"{seed}/{found.group}".encode()).hexdigest()[:12], 16) / 16**12
        inside = "test" if place < test else "valid" if place < test + valid else "train"
        parts[found.part or ("extrapolation" if beyond(found.label) else inside)].append(found)
    return parts


LONGEST_LINE = {"SVL": 8, "DVL": 14, "CVL": 14}
"""Missing atoms of the longest lines that are learnt from; longer ones only judge."""
LARGEST_TREFOIL = 3
APART = ((r"T\d", r"V_[A-Z][a-z]?2"), (r"[SDC]VL-\d", r"Te_"), (r"V_(Mo|W)", r"O_"))
"""Kinds that are learnt apart, each with others, and never together."""


def beyond(label: str) -> bool:
    """Whether a defect is larger than those that are learnt from, or pairs kinds that are learnt apart."""
    parts = label.split("+")
    lines = [(part[:3], int(part[4:])) for part in parts if re.fullmatch(r"[SDC]VL-\d+", part)]
    trefoils = [int(match[1]) for part in parts if (match := re.match(r"T(\d+)(-|$)", part))]
    paired = any(all(any(re.match(kind, part) for part in parts) for kind in pair) for pair in APART)
    return (
        any(missing > LONGEST_LINE[kind] for kind, missing in lines)
        or any(size > LARGEST_TREFOIL for size in trefoils)
        or paired
    )
