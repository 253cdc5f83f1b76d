"""Who works on a folder of results: one run, or several shards of one; what dead ones left behind is cleared away."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from stemfit.batch.inputs import ALL, RESULT, Shard
from stemfit.batch.store import DERIVED, OWN, UNFINISHED, write_file
from stemfit.batch.whole import restore
from stemfit.errors import OutputError

SINGLE = re.compile(rf"\.tmp-.+{re.escape(RESULT)}-[a-z0-9_]{{8}}")
"""What a single analysis that has died leaves beside its result."""

TABLE = re.compile(rf"\.tmp-({'|'.join(map(re.escape, DERIVED))})-[a-z0-9_]{{8}}(-journal)?")
"""A table of a batch that has no name yet."""

RUN = re.compile(rf"{re.escape(UNFINISHED)}.+-\d+-[0-9a-f]{{8}}")
"""What a run has not finished: its holder's name follows."""

BEAT_S = 20.0
"""Seconds between signs of life."""

SILENT_S = 30 * BEAT_S
"""A run on another machine that has given no sign for so long has died. File servers may be late by a minute."""


@dataclass(frozen=True)
class Holder:
    """A run: its name, machine and process (with the time at which it began, for numbers are given again)."""

    name: str
    host: str
    pid: int
    began: str
    shard: str


@contextmanager
def held(root: Path, share: Shard) -> Iterator[Path]:
    """Work on a folder of results alone, or beside the other shards; gives a folder for what is not finished.

    Raises
    ------
    OutputError
        Another run works there.
    """
    mine = Holder(f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}", socket.gethostname(), os.getpid(),
                  _began(os.getpid()), str(share))  # fmt: skip
    path = root / OWN / "locks" / f"{mine.name}.json"
    ended = threading.Event()
    work = root / f"{UNFINISHED}{mine.name}"
    try:
        with turn(root / OWN):  # of two that begin together one is first; without locks both may give way
            write_file(path, [json.dumps(asdict(mine)).encode()])  # at once: others read it
            others = _living(path)
            for other in others:
                if _clash(share, other):
                    what = f"another run (process {other.pid} on {other.host}) writes there"
                    remedy = f"wait for it, or remove {root / OWN / 'locks' / other.name}.json if it has died"
                    raise OutputError(what, remedy=remedy, subject=root)
            _clear(root, alone=not others and share == ALL)  # while nobody else is writing a lock
        threading.Thread(target=_beat, args=(path, ended), daemon=True).start()
        work.mkdir()
        yield work
    finally:
        ended.set()
        restore(work, root)
        shutil.rmtree(work, ignore_errors=True)
        path.unlink(missing_ok=True)


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """One after the other, by a lock on a folder: in beginning, and for what several shards may do at the end.

    Where the file system has no locks all go at once.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _clash(mine: Shard, other: Holder) -> bool:
    """Shards of the same division go together, as long as they are different ones."""
    number, of = (int(part) for part in other.shard.split("/"))
    return mine.of == 1 or of != mine.of or number == mine.number


def _living(own: Path) -> list[Holder]:
    """Other runs; locks of dead ones are removed."""
    now, found = own.stat().st_mtime, []
    for path in sorted(own.parent.glob("*.json")):
        if path == own:
            continue
        try:
            other, silent_s = Holder(**json.loads(path.read_text())), now - path.stat().st_mtime
        except (OSError, ValueError, TypeError):
            other, silent_s = None, SILENT_S  # damaged, or gone by now
        if other is None or _dead(other, silent_s):
            path.unlink(missing_ok=True)
        else:
            found.append(other)
    return found


def _dead(other: Holder, silent_s: float) -> bool:
    if other.host != socket.gethostname():
        return silent_s > SILENT_S
    began = _began(other.pid)
    return began == "" or began != other.began


def _began(pid: int) -> str:
    """When a process of this machine began, "" if there is none; "running" where the system does not tell."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if stat[0] == "Z" else f"{_boot()} {stat[19]}"
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return ""
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except OSError:
        pass
    return "running"


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _beat(path: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT_S):
        with contextlib.suppress(OSError):
            os.utime(path)


def _clear(root: Path, alone: bool) -> None:
    """Remove what runs have left unfinished that have died; alone, also what single analyses have.

    Who lives has a lock, and had it before anything else. What only begins like a temporary name of ours stays.
    """
    for path in [path for path in root.glob(f"{UNFINISHED}*") if RUN.fullmatch(path.name)]:
        if not (root / OWN / "locks" / f"{path.name.removeprefix(UNFINISHED)}.json").exists():
            restore(path, root)
            shutil.rmtree(path, ignore_errors=True)
    if not alone:
        return
    for path in root.glob(".tmp-*"):
        if TABLE.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)
    for path in (root / OWN).rglob(".tmp-*"):
        path.unlink(missing_ok=True)
    for folder, below, _ in os.walk(root):
        for name in filter(SINGLE.fullmatch, below):
            shutil.rmtree(Path(folder, name), ignore_errors=True)
        below[:] = [name for name in below if not name.endswith(RESULT) and not name.startswith(".")]
