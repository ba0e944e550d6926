"""The columns of a table that is published, or that is going to be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from transforms.column_names import KEY
from transforms.lookup import ConfigError, nearest
from transforms.messages import shape_text
from transforms.table.columns import Column, arrow_schema


@dataclass(frozen=True, slots=True)
class Columns:
    """What a target can be asked about before there is a table.

    Attributes:
      all: as planned, the key first.
      entity: names of those that, with a time, tell rows apart; empty if none were
        named.
    """

    all: tuple[Column, ...]
    entity: tuple[str, ...] = ()

    @property
    def key(self) -> Column:
        """The column that tells rows apart."""
        return self.all[0]

    @property
    def schema(self) -> pa.Schema:
        """Of the parts, without metadata; all fields but the key may be null.

        A field that must not be null could never be added to a table that is there.
        """
        key, *others = arrow_schema(self.all, {}).remove_metadata()
        return pa.schema([key, *(field.with_nullable(True) for field in others)])

    def vectors(self) -> list[Column]:
        """Give the columns that hold vectors of floats, all of one length."""
        return [
            column
            for column in self.all
            if column.role == "feature" and column.width and column.family == "float"
            if column.is_vector
        ]

    def labels(self) -> list[str]:
        """Name what says of a row what it is: the key, and scalars but bytes."""
        return [c.name for c in self.all if not c.is_vector and c.dtype != "bytes"]

    def compared(self) -> list[str]:
        """Name the columns that are read back of some rows: the key, and vectors."""
        return [KEY, *(column.name for column in self.vectors())]

    def vector(self, name: str | None, what: str) -> Column:
        """Choose a column of vectors.

        Args:
          name: of the column; None for the only one.
          what: the option that names it, for messages.

        Raises:
          ConfigError: there is no such column, or it is not clear which is meant.
        """
        by_name = {column.name: column for column in self.vectors()}
        if name is None and len(by_name) == 1:
            return next(iter(by_name.values()))
        if name in by_name:
            return by_name[name]
        given = f"got {name!r}{nearest(name, by_name)}" if name else "got none"
        raise ConfigError(
            f"{what} must name a column of vectors, {given} (columns:"
            f" {', '.join(sorted(by_name)) or 'none'})"
        )

    def refuse_odd_numbers(self, store: str) -> None:
        """Refuse numbers that tables of the big engines have no types for.

        Args:
          store: that has none, for the message.

        Raises:
          ConfigError: a column holds unsigned numbers or half floats, alone or in
            lists.
        """
        odd = [c for c in self.all if c.dtype[0] == "u" or c.dtype == "float16"]
        refuse(odd, f"{store} has no unsigned numbers and no float16")


def refuse(columns: Iterable[Column], why: str) -> None:
    """Refuse columns that a store cannot take.

    Args:
      columns: none if all is well.
      why: says what the store takes, or has not.

    Raises:
      ConfigError: there are any.
    """
    named = [f"{c.name} ({c.dtype} {shape_text(c.shape)})" for c in columns]
    if named:
        raise ConfigError(
            f"{why}, got {', '.join(named)}; keep or tap other columns, or cast them"
            " or name them otherwise"
        )
