"""The key of a result: what the file holds, what was asked, and which code answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import definet
import stemfit
from stemfit.micrograph.files import sha256

OUTSIDE = ("batch", "commands")
"""Parts of stemfit that no result depends on."""

WHERE = ("device",)
"""Settings that say where it is computed: what comes out is the same, but for the rounding of a GPU. A folder may be
shared by machines with and without one."""

FILES = ("host", "mask", "checkpoint")
"""Settings that may name a file: what counts is what it holds."""


@cache
def code_version() -> str:
    """Version of everything that makes a result: the release, and a hash of sources, tables, pages and weights."""
    digest = hashlib.sha256()
    for package in (stemfit, definet):
        root = Path(str(package.__file__)).parent
        for path in sorted(_sources(root)):
            digest.update(f"{root.name}/{path.relative_to(root).as_posix()}".encode() + b"\0" + path.read_bytes())
    return f"{stemfit.__version__}+{digest.hexdigest()[:16]}"


def _sources(root: Path) -> Iterable[Path]:
    for path in root.rglob("*"):
        parts = path.relative_to(root).parts
        if path.is_file() and "__pycache__" not in parts and parts[0] not in OUTSIDE:
            yield path


def settings_hash(settings: Mapping[str, Any]) -> str:
    """Hash of what was asked, with what files hold in the place of their names."""
    return _hash({name: _content(name, value) for name, value in settings.items() if name not in WHERE})


def _content(name: str, value: Any) -> Any:
    if name in FILES and value is not None and Path(value).is_file():
        return {"sha256": sha256(Path(value))}
    return str(value) if isinstance(value, Path) else value


def key(content: str, settings: str, code: str) -> str:
    """Key of a result, from the hashes of the file and of the settings and the version of the code."""
    return _hash([content, settings, code])


def _hash(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
