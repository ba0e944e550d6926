"""What a report says of one column in detail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.health.spectrum import Components, anisotropy, principal_components
from pipeline.report.figures import (
    norm_figure,
    points_source,
    scatter_figure,
    spectrum_figure,
    strip_figure,
)
from pipeline.report.neighbours import Neighbours, find_neighbours
from pipeline.report.sample import Rows, read_vectors, text_of
from pipeline.report.subject import Subject
from transforms.statistics.column import ColumnStatistics
from transforms.statistics.repeats import Frequent
from transforms.table.columns import Column
from transforms.table.gates import FEWEST_ROWS, RANK_ROWS
from transforms.values import finite_rows

if TYPE_CHECKING:
    from bokeh.models import ColumnDataSource
    from bokeh.plotting import figure

MOST = 12
"""Columns that one report shows in detail."""
_REPEATED = 10


@dataclass(frozen=True, slots=True)
class Spread:
    """How the sampled vectors of a column lie in space.

    Attributes:
      rows: that this is of, all finite.
      effective_rank: dimensions that they really use.
      to_90: principal components that together have nine tenths of the variance.
      anisotropy: mean cosine between different rows.
      neighbours: who is near whom.
    """

    rows: int
    effective_rank: float
    to_90: int
    anisotropy: float
    neighbours: Neighbours


@dataclass(frozen=True, slots=True)
class Details:
    """One column.

    Attributes:
      column: which.
      statistics: of all of its rows.
      repeated: vectors that come most often.
      spread: of the sample; None where there are too few vectors.
      figures: by kind: `norms`, `strip`, `spectrum`, `scatter`; not all columns have
        all of them.
    """

    column: Column
    statistics: ColumnStatistics
    repeated: Sequence[Frequent]
    spread: Spread | None
    figures: Mapping[str, figure]


def look_closely(
    subject: Subject, columns: Sequence[Column], rows: Rows, pictures: Mapping[int, str]
) -> list[Details]:
    """Find out what there is to show of columns.

    Args:
      subject: the table.
      columns: of it, which have statistics.
      rows: sampled.
      pictures: of some of them, by index.
    """
    found = {c.name: _of_all_rows(c, subject.statistics[c.name]) for c in columns}
    source = points_source(rows.keys[:RANK_ROWS], rows.label, pictures)
    for index, (column, vectors) in enumerate(read_vectors(subject, columns)):
        finite = np.flatnonzero(finite_rows(vectors))
        if (finite < RANK_ROWS).sum() >= FEWEST_ROWS:
            known, name = found[column.name], f"c{index}"
            found[column.name] = _of_sample(
                known, vectors[finite], finite, rows, pictures, source, name
            )
    return list(found.values())


def _of_all_rows(column: Column, statistics: ColumnStatistics) -> Details:
    figures: dict[str, Any] = {}
    if statistics.norms.moments.count:
        figures["norms"] = norm_figure(statistics.norms)
    moments = statistics.moments
    if moments is not None and moments.count and moments.width > 1:
        figures["strip"] = strip_figure(moments)
    repeated = [
        replace(one, key=text_of(one.key)) for one in statistics.repeats.most(_REPEATED)
    ]
    return Details(column, statistics, repeated, None, figures)


def _of_sample(
    known: Details,
    vectors: np.ndarray,
    index: np.ndarray,
    rows: Rows,
    pictures: Mapping[int, str],
    source: ColumnDataSource,
    name: str,
) -> Details:
    """Add what the sampled vectors tell, which are finite `[rows, width]`."""
    first = index < RANK_ROWS
    drawn = vectors[first]
    components = principal_components(drawn)
    classes = rows.label if rows.label and rows.label.numbers is None else None
    labels = classes.values if classes else None
    spread = Spread(
        rows=len(drawn),
        effective_rank=components.effective_rank,
        to_90=_to_90(components),
        anisotropy=anisotropy(drawn),
        neighbours=find_neighbours(vectors, index.tolist(), labels, pictures),
    )
    figures = {**known.figures}
    if spread.effective_rank:
        figures["spectrum"] = spectrum_figure(components)
        some = index[first].tolist()
        figures["scatter"] = scatter_figure(components, some, source, name)
    return replace(known, spread=spread, figures=figures)


def _to_90(components: Components) -> int:
    if not components.effective_rank:
        return 0
    return int(np.searchsorted(np.cumsum(components.shares), 0.9)) + 1
