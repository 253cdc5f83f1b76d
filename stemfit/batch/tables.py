"""Tables of a folder, written as the records come: CSV and Parquet of the images, SQLite of all."""

from __future__ import annotations

import csv
import io
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from stemfit.batch.records import CANDIDATE, DEFECT, IMAGE, Record
from stemfit.batch.statistics import Line
from stemfit.batch.store import write_file
from stemfit.errors import OutputError

BLOCK = 1000
"""Rows that are written to Parquet together."""

SQL = {str: "TEXT", int: "INTEGER", float: "REAL"}
TABLES = {"images": (IMAGE, "file"), "defects": (DEFECT, "file, id"), "candidates": (CANDIDATE, "file, id")}

VIEW = """CREATE VIEW counted_defects AS
    SELECT d.* FROM defects d JOIN images i USING (file) WHERE d.claimed AND i.equal_to IS NULL"""
"""What densities count: claims, of equal images those of the first."""

STATISTICS = (
    "host", "type", "label", "images", "images_host_uncertain", "images_blind", "area_nm2", "count", "count_blind",
    "expected", "per_nm2", "per_nm2_low", "per_nm2_high", "dispersion", "p_even",
)  # fmt: skip


@contextmanager
def written(root: Path) -> Iterator[Callable[[Record], None]]:
    """Give a function that takes records; when all are taken, the tables get their names.

    Raises
    ------
    OutputError
    """
    names = ("summary.csv", "summary.parquet", "index.sqlite")
    unfinished = [_temporary(root, name) for name in names]
    with errors(root), ExitStack() as stack:
        for path in unfinished:
            stack.callback(_remove, path)
        with _csv(unfinished[0]) as to_csv, _parquet(unfinished[1]) as to_parquet, _sqlite(unfinished[2]) as to_sqlite:

            def add(record: Record) -> None:
                for to in (to_csv, to_parquet, to_sqlite):
                    to(record)

            yield add
        for path, name in zip(unfinished, names, strict=True):
            with path.open("rb") as file:
                os.fsync(file.fileno())
            path.chmod(0o644)
            path.replace(root / name)


@contextmanager
def errors(root: Path) -> Iterator[None]:
    """What goes wrong where tables are written: a full disk, in most cases."""
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        remedy = "make room; the same command makes them again"
        raise OutputError(f"the tables cannot be written ({error})", remedy=remedy, subject=root) from error


def _remove(path: Path) -> None:
    for left in (path, path.with_name(f"{path.name}-journal")):
        with suppress(OSError):
            left.unlink(missing_ok=True)


def _temporary(root: Path, name: str) -> Path:
    handle, path = tempfile.mkstemp(prefix=f".tmp-{name}-", dir=root)
    os.close(handle)
    return Path(path)


@contextmanager
def _csv(path: Path) -> Iterator[Callable[[Record], None]]:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(IMAGE), lineterminator="\n")
        writer.writeheader()
        yield lambda record: writer.writerow(record.image)


@contextmanager
def _parquet(path: Path) -> Iterator[Callable[[Record], None]]:
    import pyarrow
    from pyarrow import parquet

    kinds = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in IMAGE.items()])
    waiting: list[Mapping[str, Any]] = []
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:

        def flush() -> None:
            writer.write_table(pyarrow.Table.from_pylist(waiting, schema))
            waiting.clear()

        def add(record: Record) -> None:
            waiting.append(record.image)
            if len(waiting) >= BLOCK:
                flush()

        yield add
        if waiting:
            flush()


@contextmanager
def _sqlite(path: Path) -> Iterator[Callable[[Record], None]]:
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA synchronous = OFF")  # it has no name yet: whoever looks finds the one before it
        for name, (columns, own) in TABLES.items():
            stated = ", ".join(f'"{column}" {SQL[kind]}' for column, kind in columns.items())
            refers = "" if name == "images" else ', FOREIGN KEY ("file") REFERENCES images ("file")'
            connection.execute(f'CREATE TABLE {name} ({stated}, PRIMARY KEY ({own}){refers})')

        def add(record: Record) -> None:
            for name, rows in (("images", [record.image]), ("defects", record.defects),
                               ("candidates", record.candidates)):  # fmt: skip
                columns = TABLES[name][0]
                places = ", ".join("?" * len(columns))
                connection.executemany(
                    f"INSERT INTO {name} VALUES ({places})", [[row[column] for column in columns] for row in rows]
                )

        yield add
        connection.execute(VIEW)
        connection.execute("CREATE INDEX defects_by_type ON defects (type, label)")
        connection.execute("CREATE INDEX candidates_by_defect ON candidates (file, defect)")
        connection.commit()
    finally:
        connection.close()


def statistics_csv(root: Path, lines: Sequence[Line]) -> None:
    """Write the densities of a folder."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(STATISTICS)
    writer.writerows((*line[:10], *line.density, *line[11:]) for line in lines)
    write_file(root / "statistics.csv", [text.getvalue().encode()])
