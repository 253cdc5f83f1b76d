"""What is made from the results on disk, and can always be made again: tables, index, statistics, figures, gallery."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from stemfit.batch.gallery import FIGURES, page
from stemfit.batch.plan import Contents, Request
from stemfit.batch.records import records
from stemfit.batch.statistics import Field, Line, field, lines
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
        _figures(asked.results, statistics, fields)
        pieces = page(asked, statistics)
        write_file(asked.results / "index.html", (piece.encode() for piece in pieces))


def _figures(root: Path, statistics: Sequence[Line], fields: Sequence[Field]) -> None:
    """Densities as journals print them; those of before go where there is nothing to show any more."""
    if not statistics:
        for name in FIGURES:
            (root / name).unlink(missing_ok=True)
        return
    from stemfit.figures import save
    from stemfit.figures.statistics import densities

    figure = densities(statistics, fields)
    with tempfile.TemporaryDirectory() as place:  # not in the results, where a kill would leave it
        for name in FIGURES:
            save(figure, Path(place) / name)
            write_file(root / name, [(Path(place) / name).read_bytes()])
