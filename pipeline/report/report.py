"""`report`: a table -> one page of HTML that shows how good it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline.report.details import MOST, Details, look_closely
from pipeline.report.drift import compare
from pipeline.report.figures import STRIPS, legend
from pipeline.report.neighbours import NEAREST
from pipeline.report.origin import config_of, how_to_load, origin_of
from pipeline.report.page import render
from pipeline.report.pictures import read_pictures
from pipeline.report.sample import Label, Rows, read_rows, text_of
from pipeline.report.subject import Subject, open_subject
from pipeline.report.verdict import judged, sentence
from pipeline.report.work import read_record
from pipeline.show import size_text
from transforms import storage
from transforms.lookup import need
from transforms.messages import shape_text, shown
from transforms.table.names import REPORT

_PACKAGES = ("bokeh", "jinja2", "PIL")


@dataclass(frozen=True, slots=True)
class Report:
    """A page that has been written.

    Attributes:
      table: URI of the table that it is of.
      report: where it is: a path on the local disk, or a URI.
      bytes: its size.
      columns: that it shows in detail.
      left_out: columns that would have been too many.
    """

    table: str
    report: str
    bytes: int
    columns: tuple[str, ...]
    left_out: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON document."""
        return asdict(self)


def make_report(
    table: str,
    *,
    to: str | None = None,
    columns: Sequence[str] = (),
    label: str | None = None,
    against: str | None = None,
) -> Report:
    """Write a page that shows what a table is like.

    Statistics of all rows and a sample are read, not the table itself.

    Args:
      table: its URI; it is finished, or fails its gates.
      to: URI of the page; in the table, as `_featuretap/report.html`, by default.
      columns: that are shown in detail; all of numbers, at most `MOST`, by default.
      label: kept column by which rows are coloured; the first of few values by default.
      against: URI of a finished table, to say how far the columns lie from its own.

    Raises:
      FileNotFoundError: there is no table.
      ConfigError: it is not finished, has no such column, or a package is missing.
      TableError: it is damaged.
    """
    for package in _PACKAGES:
        need(package, "report", "a report")
    subject = open_subject(table)
    able = subject.described(columns)
    shown_columns, left_out = able[:MOST], able[MOST:]
    moved = compare(able, subject.statistics, against) if against else []
    rows = read_rows(subject, label)
    pictures = read_pictures(subject, rows.hashes)
    details = look_closely(subject, shown_columns, rows, pictures)
    known = {
        **_about(subject),
        **_of_sample(rows, pictures),
        "details": details,
        "left_out": [column.name for column in left_out],
        "moved": moved,
        "against": against and shown(against),
        "load": how_to_load(subject, able),
    }
    data = render(_figures(details), known)
    uri = to or subject.table.internal(REPORT)
    storage.replace(uri, data)
    local = storage.local_path(uri)
    names = [[column.name for column in some] for some in (shown_columns, left_out)]
    return Report(
        table=subject.table.uri,
        report=str(local.absolute()) if local else uri,
        bytes=len(data),
        columns=tuple(names[0]),
        left_out=tuple(names[1]),
    )


def _about(subject: Subject) -> dict[str, Any]:
    """Give what the template shows of the whole table."""
    record = read_record(subject)
    gates = judged(subject.verdicts)
    return {
        "subject": subject,
        "name": shown(subject.table.uri.rstrip("/").rpartition("/")[2], 200),
        "record": record,
        "gates": gates,
        "verdict": sentence(subject, record),
        "origin": origin_of(subject),
        "config": config_of(subject.plan),
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "size_text": size_text,
        "shape_text": shape_text,
        "shown": lambda text: shown(str(text), 300),
        "text_of": text_of,
        "strips": STRIPS,
        "nearest": NEAREST,
    }


def _of_sample(rows: Rows, pictures: dict[int, str]) -> dict[str, Any]:
    """Give what the template shows of sampled rows."""
    label = rows.label
    return {
        "rows": rows,
        "pictures": pictures,
        "legend": legend(label) if label else {},
        "ends": _ends(label),
    }


def _ends(label: Label | None) -> tuple[str, str] | None:
    """Give the least and the greatest number that a label colours, if it does so."""
    if label is None or label.numbers is None:
        return None
    import numpy as np

    finite = label.numbers[np.isfinite(label.numbers)]
    return (f"{finite.min():g}", f"{finite.max():g}") if len(finite) else None


def _figures(details: Sequence[Details]) -> dict[str, Any]:
    """Name the figures of all columns, as the template does."""
    return {
        f"{index}_{kind}": figure
        for index, one in enumerate(details)
        for kind, figure in one.figures.items()
    }
