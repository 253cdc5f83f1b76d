"""What there is to do: of all images those whose result is not on disk, each content once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from stemfit.batch import store
from stemfit.batch.inputs import ALL, Found, Input, Shard, Unreadable
from stemfit.batch.keys import code_version, key, settings_hash
from stemfit.batch.store import Failure
from stemfit.batch.work import Job

UNREADABLE = 3
"""Exit code of a file that cannot be read."""


@dataclass(frozen=True)
class Request:
    """What is asked of a batch.

    Attributes
    ----------
    folder, results : path
        Absolute.
    settings : mapping
        Keyword arguments of `stemfit.analyze`; paths absolute.
    patterns : tuple of str
        As in `stemfit.batch.inputs.find`.
    share : Shard
    retry_failed : bool
        Try again all that failed before.
    """

    folder: Path
    results: Path
    settings: Mapping[str, Any]
    patterns: tuple[str, ...] = ()
    share: Shard = ALL
    retry_failed: bool = False
    settings_sha256: str = field(default="")
    code: str = field(default="")

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings_sha256", settings_hash(self.settings))
        object.__setattr__(self, "code", code_version())

    def key(self, content: str) -> str:
        """Key of the result of what has this hash."""
        return key(content, self.settings_sha256, self.code)


class Contents(NamedTuple):
    """The images of a folder with what they hold.

    Attributes
    ----------
    sha256 : mapping of Input to str
        In the order of the names.
    unreadable : tuple of Unreadable
    """

    sha256: Mapping[Input, str]
    unreadable: tuple[Unreadable, ...]


def contents(found: Found, hashed: Sequence[tuple[Input, str | Unreadable]]) -> Contents:
    """Put together what was found and what is in it."""
    held = {one: what for one, what in hashed if isinstance(what, str)}
    lost = [what for _, what in hashed if isinstance(what, Unreadable)]
    return Contents(held, tuple(sorted([*found.unreadable, *lost])))


class Plan(NamedTuple):
    """What a run has to do.

    Attributes
    ----------
    inputs : int
        Images of this share.
    jobs : tuple of Job
    finished : int
        Images whose result is there.
    failures : tuple of Failure
        Those that are known, and not tried again; and files that cannot be read, whose key is None.
    equal : int
        Images to be done that are equal to others to be done or finished.
    gone : int
        Results of images that are in the folder no more: moved, renamed or removed.
    """

    inputs: int
    jobs: tuple[Job, ...]
    finished: int
    failures: tuple[Failure, ...]
    equal: int
    gone: int = 0


def planned(asked: Request, held: Contents, work: Path, again: bool = True) -> Plan:
    """Compare what is in the folder with what is on disk.

    Parameters
    ----------
    asked : Request
    held : Contents
    work : path
        For what is not finished.
    again : bool
        Try again what failed before, all of it if that is asked for, else where the cause may have passed.
    """
    groups: dict[tuple[str, str], list[Input]] = {}
    known: dict[tuple[str, str], str] = {}
    finished, failures, own = 0, [], 0
    for one, sha256 in held.sha256.items():
        if not asked.share.holds(sha256):
            continue
        own += 1
        same = (sha256, one.path.suffix.lower())  # a reader may go by the name
        state = state_of(asked, one.name, asked.key(sha256))
        if state is True:
            finished += 1
            known.setdefault(same, one.name)
        elif state is None or (again and (asked.retry_failed or state.passing)):
            groups.setdefault(same, []).append(one)
        else:
            failures.append(state)
    gone = 0
    for name in _others(asked, held):
        gone += not os.path.lexists(asked.folder / name)
        there = store.finished(asked.results, name)
        if there is not None and there.key == asked.key(there.sha256):
            known.setdefault((there.sha256, Path(name).suffix.lower()), name)
    lost = [unread(one) for one in held.unreadable if asked.share.holds(_of_name(one.name))]
    jobs = tuple(
        Job(tuple(inputs), same[0], asked.settings, asked.settings_sha256, asked.code, asked.key(same[0]),
            known.get(same), asked.results, work)
        for same, inputs in groups.items()
    )  # fmt: skip
    equal = sum(len(job.inputs) - (job.known is None) for job in jobs)
    return Plan(own + len(lost), jobs, finished, (*failures, *lost), equal, gone)


def _others(asked: Request, held: Contents) -> list[str]:
    """Images that have results and are not asked for: what was moved or renamed need not be computed again."""
    names = {one.name for one in held.sha256} | {one.name for one in held.unreadable}
    return sorted(name for name in store.standing(asked.results) if name not in names)


def state_of(asked: Request, name: str, its_key: str) -> Literal[True] | Failure | None:
    """True if the result is there, how it failed if it did, None if neither is known."""
    there = store.finished(asked.results, name)
    if there is not None and there.key == its_key:
        return True
    failed = store.failure(asked.results, name)
    return failed if failed is not None and failed.key == its_key else None


def complete(asked: Request, held: Contents) -> bool:
    """Whether something is known of every image of the folder."""
    return all(state_of(asked, one.name, asked.key(sha256)) is not None for one, sha256 in held.sha256.items())


def unread(one: Unreadable) -> Failure:
    """Outcome of what could not be looked at."""
    return Failure(one.name, None, UNREADABLE, one.reason)


def _of_name(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()
