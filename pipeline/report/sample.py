"""The sampled rows of a table: keys, a label, and vectors some columns at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.report.subject import Subject
from transforms.lookup import ConfigError, nearest
from transforms.messages import shown
from transforms.statistics.sample import HASH, WIDEST
from transforms.table.columns import Column
from transforms.table.statistics import read_sample, together
from transforms.values import matrix

CLASSES = 20
"""Different values of a label that have a colour each."""
_LONGEST = 80  # characters of a key or a label
_BYTES_AT_A_TIME = 128 << 20


@dataclass(frozen=True, slots=True)
class Label:
    """A kept column that rows are told apart by.

    Attributes:
      name: of the column.
      values: of each row, as text.
      numbers: of each row, float64, where there are too many different ones for a
        colour each; NaN where a row has none.
    """

    name: str
    values: Sequence[str]
    numbers: np.ndarray | None = None

    @property
    def classes(self) -> list[str]:
        """The values that have a colour of their own, in order."""
        if self.numbers is not None:
            return []
        common = Counter(self.values).most_common(CLASSES)
        return sorted(value for value, _ in common)


@dataclass(frozen=True, slots=True)
class Rows:
    """Who the sampled rows are.

    Attributes:
      hashes: of their keys, uint64, in order.
      keys: as text.
      label: by which they are coloured, if any.
    """

    hashes: np.ndarray
    keys: Sequence[str]
    label: Label | None


def read_rows(subject: Subject, label: str | None) -> Rows:
    """Read the keys of the sampled rows, and a label.

    Args:
      subject: the table.
      label: a kept column. If None, the first that has from 2 to `CLASSES` different
        values.

    Raises:
      ConfigError: there is no such kept column, or it holds no single values.
    """
    able = {c.name: c for c in subject.plan.columns if _can_be_label(c)}
    if label is not None and label not in able:
        raise ConfigError(
            "--label must name a kept column of single values, got"
            f" {label!r}{nearest(label, able)} (columns: {', '.join(able) or 'none'})"
        )
    wanted = [label] if label else list(able)
    found = read_sample(subject.table, subject.plan, subject.sample, wanted)
    keys = [text_of(key) for key in found.column(1).to_pylist()]
    labels = (_label(name, found[name]) for name in wanted)
    chosen = next((one for one in labels if label or _tells_apart(one)), None)
    return Rows(found[HASH].to_numpy(), keys, chosen)


def text_of(value: object) -> str:
    """Give a key or a label as text that is fit to be shown; nothing for a null."""
    return "" if value is None else shown(str(value), _LONGEST)


def read_vectors(
    subject: Subject, columns: Sequence[Column]
) -> Iterator[tuple[Column, np.ndarray]]:
    """Yield the sampled vectors of columns that have any, some columns in memory.

    Args:
      subject: the table.
      columns: of it.

    Yields:
      A column with its values `[rows, width]`, in the order of `read_rows`.
    """
    able = {c.name: c for c in columns if c.width and 2 <= c.width <= WIDEST}
    sizes = {name: column.bytes_per_row for name, column in able.items()}
    for names in together(sizes, _BYTES_AT_A_TIME):
        found = read_sample(subject.table, subject.plan, subject.sample, names)
        for name in names:
            yield able[name], matrix(found[name], able[name].width or 0)


def _can_be_label(column: Column) -> bool:
    return column.role == "keep" and not column.shape and column.dtype != "bytes"


def _label(name: str, values: pa.ChunkedArray) -> Label:
    plain = values.to_pylist()
    texts = [text_of(value) for value in plain]
    number = pa.types.is_floating(values.type) or pa.types.is_integer(values.type)
    if number and len({*texts}) > CLASSES:
        numbers = np.array([np.nan if v is None else v for v in plain], np.float64)
        return Label(name, texts, numbers)
    return Label(name, texts)


def _tells_apart(label: Label) -> bool:
    return 2 <= len({*label.values}) <= CLASSES
