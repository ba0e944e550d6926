"""Lay out the columns of a table, and their Arrow schema."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import pyarrow as pa

from transforms.column_names import KEY, RESERVED, TIME, is_column_name, snake
from transforms.config import Config, TableSpec
from transforms.dtypes import DTYPES, KEY_DTYPES, Feature, null_name
from transforms.lookup import ConfigError, nearest
from transforms.messages import shape_text
from transforms.table.timestamps import constant_timestamp
from transforms.taps.compile import Output
from transforms.taps.language import Tap

METADATA_KEY = b"featuretap"
ROWS_KEY = b"featuretap.rows_key"
_OPEN_LENGTH = 128


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the table.

    Attributes:
      name: of the column.
      role: `key`, `timestamp`, `keep`, `feature`, or `shape`: of a feature, row by row.
      dtype: a numpy type name, `string`, `bytes` or `timestamp`.
      shape: of one row's value; None where rows differ. Rank 2 and more are flattened
        in C order.
      source: the feature that is passed through, or the address that is tapped; empty
        for a default key or a constant.
      reduce: reductions, left to right.
      unit: of a timestamp that is stored as a number: `s`, `ms` or `us`.
      nullable: whether rows may have no value; only of kept features.
      made_by: hash of all that makes the values of a computed column, 16 hex digits;
        columns of two tables with the same hash hold the same values for the same
        rows. Empty for others, which `TablePlan.rows_made_by` covers.
    """

    name: str
    role: Literal["key", "timestamp", "keep", "feature", "shape"]
    dtype: str
    shape: tuple[int | None, ...] = ()
    source: str = ""
    reduce: tuple[str, ...] = ()
    unit: str = ""
    nullable: bool = False
    made_by: str = ""

    @property
    def family(self) -> str:
        """The family of its dtype."""
        return DTYPES[self.dtype].family

    @property
    def width(self) -> int | None:
        """Values in a row; None if rows differ."""
        if None in self.shape:
            return None
        return math.prod(n for n in self.shape if n is not None)

    @property
    def bytes_per_row(self) -> int:
        """Uncompressed size; text is taken as 32 bytes, an open length as 128."""
        size = DTYPES[self.dtype].bytes
        return size * math.prod(_OPEN_LENGTH if n is None else n for n in self.shape)

    @property
    def is_number(self) -> bool:
        """Whether its values are numbers or flags."""
        return self.family in ("float", "integer", "flag")

    @property
    def is_computed(self) -> bool:
        """Whether the model makes it."""
        return self.role in ("feature", "shape")

    @property
    def is_vector(self) -> bool:
        """Whether a row holds a list."""
        return bool(self.shape)

    @property
    def arrow_type(self) -> pa.DataType:
        """The column's type; vectors are lists of `element`.

        Elements are nullable, though none is ever null: Feast does not recognize lists
        of required elements.
        """
        value = DTYPES[self.dtype].arrow
        return pa.list_(pa.field("element", value)) if self.shape else value

    def to_json(self) -> dict[str, Any]:
        """The column as a JSON document."""
        return {**asdict(self), "shape": list(self.shape), "reduce": list(self.reduce)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Column:
        """Undo `to_json`."""
        return cls(
            **{
                **document,
                "shape": tuple(document["shape"]),
                "reduce": tuple(document["reduce"]),
            }
        )


def make_columns(
    config: Config,
    default_key: str | None,
    features: Mapping[str, Feature],
    taps: Sequence[Tap],
    outputs: Sequence[Output],
) -> list[Column]:
    """Lay out the table: key, timestamp, kept features, activations.

    Args:
      config: the whole config.
      default_key: the source's own key feature, if it has one.
      features: what can be passed through, from the source and from preprocessing.
      taps: the chosen activations.
      outputs: their columns' shapes and types, in the same order; among them columns
        that hold the shapes of others.

    Raises:
      ConfigError: a name is unknown or used twice, or a feature cannot be a column.
    """
    columns = [_key_column(config.source.key or default_key, features)]
    if config.table.event_timestamp:
        columns.append(_timestamp_column(config.table, features))
    columns += [_kept_column(*kept, features) for kept in config.source.keep.items()]
    by_column = {tap.column: tap for tap in taps}
    columns += [
        _computed_column(output, by_column[output.shape_of or output.column])
        for output in outputs
    ]
    _check_unique(columns)
    _check_entity(config, columns)
    return columns


def _check_entity(config: Config, columns: Sequence[Column]) -> None:
    """Refuse an entity that cannot name rows apart together with a time."""
    entity = config.table.entity
    if entity and not config.table.event_timestamp:
        raise ConfigError(
            "table.entity must go with table.event_timestamp, which tells rows of one"
            " entity apart, got none"
        )
    kept = {column.name: column for column in columns if column.role == "keep"}
    for name in entity:
        column = kept.get(name)
        if column is None:
            raise ConfigError(
                f"table.entity must name columns of source.keep, got {name!r}"
                f"{nearest(name, kept)} (columns: {', '.join(sorted(kept)) or 'none'})"
            )
        if column.shape or column.dtype not in KEY_DTYPES:
            raise ConfigError(
                "table.entity must name scalars of text or whole numbers,"
                f" {name!r} is {column.dtype} {list(column.shape)}"
            )


def _kept_column(column: str, source: str, features: Mapping[str, Feature]) -> Column:
    feature = _feature(source, features, "source.keep")
    if column in RESERVED:
        raise ConfigError(
            f"source.keep must not use the names {', '.join(RESERVED)}, got"
            f" {column!r}; set source.key or table.event_timestamp, or give the column"
            f' another name, as in keep = {{ {column}_ = "{source}" }}'
        )
    if not is_column_name(column):
        raise ConfigError(
            f"source.keep must name columns in lower_snake, got {column!r};"
            f" {snake(column)!r} would do"
        )
    if None in feature.shape and len(feature.shape) > 1:
        raise ConfigError(
            f"source.keep must name features of one shape, or lists, {source!r} has"
            f" {shape_text(feature.shape)}"
        )
    return Column(
        name=column,
        role="keep",
        dtype=feature.dtype,
        shape=feature.shape,
        source=source,
        nullable=feature.nullable,
    )


def _computed_column(output: Output, tap: Tap) -> Column:
    return Column(
        name=output.column,
        role="shape" if output.shape_of else "feature",
        dtype=output.dtype,
        shape=output.shape,
        source=tap.address,
        reduce=tap.reduce,
    )


def _check_unique(columns: Sequence[Column]) -> None:
    seen: dict[str, Column] = {}
    for column in columns:
        other = seen.setdefault(column.name, column)
        if other is not column:
            raise ConfigError(
                f"column names must be unique, got {column.name!r} for a {other.role}"
                f" and a {column.role} column; give the tap another column, or keep the"
                " feature no longer"
            )


def arrow_schema(columns: Sequence[Column], metadata: Mapping[str, Any]) -> pa.Schema:
    """Make the schema of every part, with one JSON document under `featuretap`."""
    document = {**metadata, "columns": [column.to_json() for column in columns]}
    return pa.schema(
        [pa.field(c.name, c.arrow_type, nullable=c.nullable) for c in columns],
        metadata={METADATA_KEY: json.dumps(document, sort_keys=True).encode()},
    )


def of_rows(schema: pa.Schema, rows_key: str) -> pa.Schema:
    """Give the schema of one part, which also says what its rows are."""
    return schema.with_metadata({**schema.metadata, ROWS_KEY: rows_key.encode()})


def bytes_per_row(columns: Sequence[Column]) -> int:
    """Uncompressed bytes of a row; text is taken as 32 bytes."""
    return sum(column.bytes_per_row for column in columns)


def passed_features(columns: Sequence[Column]) -> list[str]:
    """Features that go to the table without going through the model.

    Beside those of nullable columns also the features that say where nulls are.
    """
    passed: dict[str, None] = {}
    for column in columns:
        if not column.is_computed and column.source:
            passed[column.source] = None
        if column.nullable:
            passed[null_name(column.source)] = None
    return list(passed)


def _key_column(key: str | None, features: Mapping[str, Feature]) -> Column:
    if key is None:
        return Column(KEY, "key", "string")
    feature = _feature(key, features, "source.key")
    if feature.dtype == "bytes":  # they must be text, as rows are encoded
        feature = replace(feature, dtype="string")
    if feature.dtype not in KEY_DTYPES or feature.shape:
        raise ConfigError(
            f"source.key must be a scalar of text or whole numbers, {key!r} is"
            f" {feature.dtype} {list(feature.shape)}"
        )
    return Column(KEY, "key", feature.dtype, (), key)


def _timestamp_column(table: TableSpec, features: Mapping[str, Feature]) -> Column:
    text, unit = table.event_timestamp or "", table.timestamp_unit
    if text not in features and constant_timestamp(text):
        if unit:
            raise ConfigError(
                "table.timestamp_unit must be left out for a constant"
                f" table.event_timestamp, got {unit!r}"
            )
        return Column(TIME, "timestamp", "timestamp")
    feature = _feature(text, features, "table.event_timestamp")
    is_number = feature.family in ("integer", "float")
    if feature.shape or not (is_number or feature.family in ("text", "time")):
        raise ConfigError(
            "table.event_timestamp must be an RFC 3339 time, or a feature of"
            " timestamps, RFC 3339 text or numbers since the epoch;"
            f" {text!r} is {feature.dtype} {list(feature.shape)}"
        )
    if is_number != (unit is not None):
        raise ConfigError(
            "table.timestamp_unit must be s, ms or us for an event_timestamp of numbers"
            f" (RFC 3339 text and timestamps need none), got {unit} for {text!r},"
            f" which is {feature.dtype}"
        )
    return Column(TIME, "timestamp", "timestamp", (), text, unit=unit or "")


def _feature(name: str, features: Mapping[str, Feature], option: str) -> Feature:
    if name not in features:
        raise ConfigError(
            f"{option} must name a feature of the source, got {name!r}"
            f"{nearest(name, features)} (features: {', '.join(sorted(features))})"
        )
    return features[name]
