"""Apply today's rules to a set that exists: what they leave out is taken from its shards, and counted there.

A shard that was judged says so, hence a check that was stopped goes on where it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from definet.chance import judge
from definet.crystals import Crystal
from definet.dataset import drawn_in, judged, read_shard, write_shard
from definet.exceptions import InputFileError, OptionError
from definet.making import Made, carried_out, known_set, own, workers
from definet.outliers import RULES
from definet.teacher import named


class Shard(NamedTuple):
    """A shard to be judged, what relaxed it, and its hosts as they are in that potential."""

    path: Path
    potential: str
    crystals: Mapping[str, Crystal]


class Checked(NamedTuple):
    """Samples of a set: how many are left, and draws left out by (host, reason).

    The reason "earlier" stands for those that went before shards said why.
    """

    kept: int
    left_out: Counter[tuple[str, str]]


def check(folder: Path, report: Callable[[str], None] = lambda line: None, *, jobs: int = 1) -> Checked:
    """Judge all samples of a folder by today's rules, and take out of its shards what fails them.

    Parameters
    ----------
    folder : Path
        A set that `definet.making.make` made.
    report : callable
        Told one line per sample that fails or that is relaxed a second time.
    jobs : int
        Processes that work side by side.

    Raises
    ------
    InputFileError, OptionError, OutputError, TeacherError
    """
    if jobs < 1:
        raise OptionError(f"cannot work in {jobs} processes", "Ask for one or more.")
    known = known_set(folder)
    paths = sorted(folder.glob("shard-*.npz"))
    if known is None or not paths:
        raise InputFileError(f"{folder} holds no samples", "Make some: stemfit dataset make --out DIR ...")
    potential = named(str(known.facts["source"]))
    tasks = (Shard(path, potential, known.crystals) for path in paths if judged(path)[0] < RULES)
    with workers(jobs, None) as (executor, slots):
        for task, made in carried_out(judge_shard, tasks, executor, slots):
            write_shard(task.path, made.samples, drawn_in(task.path), made.left_out)
            for line in made.lines:
                report(line)
    return counted(paths)


def judge_shard(task: Shard) -> Made:
    """Judge the samples of a shard that earlier rules kept: a function of the shard alone."""
    made = Made([], [], judged(task.path)[1])
    for found in read_shard(task.path):
        judgement = judge(found, own(task.potential), task.crystals.get(found.host))
        if str(judgement):
            made.lines.append(f"{task.path.stem} {found.group} {judgement}")
        made.keep(found, judgement.reason)
    return made


def counted(paths: Sequence[Path]) -> Checked:
    """Samples in these shards, and what was left out of them."""
    left_out = Counter(_host_and_reason(paths))
    kept = sum(len(read_shard(path)) for path in paths)
    earlier = sum(map(drawn_in, paths)) - kept - left_out.total()
    return Checked(kept, left_out + Counter({("", "earlier"): earlier}))


def _host_and_reason(paths: Sequence[Path]) -> Iterator[tuple[str, str]]:
    for path in paths:
        for line in judged(path)[1]:
            group, _, reason = line.rpartition(" ")
            yield group.split("/")[0], reason
