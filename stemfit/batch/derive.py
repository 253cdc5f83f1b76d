"""What is made from the results on disk, and can always be made again: tables, index, statistics, gallery."""

from __future__ import annotations

from stemfit.batch.gallery import page
from stemfit.batch.plan import Contents, Request
from stemfit.batch.records import records
from stemfit.batch.statistics import field, lines
from stemfit.batch.store import write_file
from stemfit.batch.tables import errors, statistics_csv, written


def derive(asked: Request, held: Contents) -> None:
    """Make the tables of a folder, each under a temporary name that is then changed.

    Raises
    ------
    OutputError
    """
    fields = []
    with written(asked.results) as add:
        for record in records(asked, held):
            add(record)
            counted = field(record.image, record.defects)
            if counted is not None:
                fields.append(counted)
    statistics = lines(fields)
    with errors(asked.results):
        statistics_csv(asked.results, statistics)
        pieces = page(asked.results, asked.folder, asked.results / "index.sqlite", statistics, fields)
        write_file(asked.results / "index.html", (piece.encode() for piece in pieces))
