"""What is made from the results on disk, and can always be made again: tables, index, statistics, gallery."""

from __future__ import annotations

from stemfit.batch.plan import Contents, Request
from stemfit.batch.records import records
from stemfit.batch.statistics import field, lines
from stemfit.batch.tables import statistics_csv, written


def derive(asked: Request, held: Contents) -> None:
    """Make the tables of a folder, each under a temporary name that is then changed.

    Raises
    ------
    OutputError
    """
    images, fields = [], []
    with written(asked.results) as add:
        for record in records(asked, held):
            add(record)
            images.append(record.image)
            counted = field(record.image, record.defects)
            if counted is not None:
                fields.append(counted)
    statistics = lines(fields)
    statistics_csv(asked.results, statistics)
