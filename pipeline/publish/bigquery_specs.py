"""A finished table -> documents that BigQuery's REST API takes, made of its own types.

A load job copies the parts into a table of BigQuery's. An external table reads them
where they lie. Both name each part: a pattern would also match parts of other attempts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.publish.columns import Columns, refuse
from pipeline.publish.finished import FINGERPRINT, MODEL, OPTIONS, FinishedTable
from transforms.lookup import ConfigError
from transforms.table.columns import Column

LABELS = {
    FINGERPRINT: "featuretap_fingerprint",
    MODEL: "featuretap_model",
    OPTIONS: "featuretap_options",
}
"""Which label of a table holds which property; labels have at most 63 characters."""

_KINDS = {
    "string": "STRING",
    "bytes": "BYTES",
    "bool": "BOOLEAN",
    "timestamp": "TIMESTAMP",
    **dict.fromkeys(("int8", "int16", "int32", "int64"), "INTEGER"),
    **dict.fromkeys(("uint8", "uint16", "uint32"), "INTEGER"),
    **dict.fromkeys(("float32", "float64"), "FLOAT"),
}
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,299}")
_RESERVED = (
    *("_table_", "_file_", "_partition", "_row_timestamp", "__root__"),
    *("_colidentifier", "_change_sequence_number", "_change_type"),
    "_change_timestamp",
)
_MOST_URIS = 10_000
_LABEL = 63
_DESCRIPTION = 1024


def check_columns(columns: Columns) -> None:
    """See that BigQuery can hold the columns of a table.

    Raises:
      ConfigError: it has no type for one, or does not allow its name.
    """
    refuse(
        (column for column in columns.all if column.dtype not in _KINDS),
        "BigQuery has no unsigned 64-bit numbers, and reads no float16 from Parquet",
    )
    refuse(
        (column for column in columns.all if not _is_allowed(column.name)),
        "BigQuery takes names of a to z, digits and _ alone, at most 300, and keeps"
        f" those for itself that begin with {', '.join(_RESERVED)}",
    )


def schema(columns: Sequence[Column]) -> list[Any]:
    """Give the columns as BigQuery's fields: vectors are repeated, the key required."""
    from google.cloud.bigquery import SchemaField

    return [
        SchemaField(
            column.name,
            _KINDS[column.dtype],
            "REPEATED" if column.is_vector else _mode(column),
            description=_describe(column)[:_DESCRIPTION],
        )
        for column in columns
    ]


def labels_of(table: FinishedTable) -> dict[str, str]:
    """Give the labels that say which table it is, and of which model."""
    properties = table.properties
    return {label: properties[name][:_LABEL] for name, label in LABELS.items()}


def properties_of(labels: Mapping[str, str], table: FinishedTable) -> dict[str, str]:
    """Give the properties that labels stand for.

    Args:
      labels: of a table that is there.
      table: that is to be published; a label that is its own stands for the whole
        property, of which it has the first 63 characters.
    """
    own = labels_of(table)
    return {
        name: table.properties[name] if labels[label] == own[label] else labels[label]
        for name, label in LABELS.items()
        if label in labels
    }


def load_job(table: FinishedTable, name: Any, location: str | None) -> dict[str, Any]:
    """Give the body of `jobs.insert` that loads the parts in place of what is there.

    Args:
      table: the table.
      name: reference of the table in BigQuery.
      location: of the dataset, if it is to be named.
    """
    from google.cloud import bigquery

    config = bigquery.LoadJobConfig(
        source_format=bigquery.SourceFormat.PARQUET,
        write_disposition=bigquery.WriteDisposition.WRITE_TRUNCATE,
        schema=schema(table.columns.all),
        parquet_options=_parquet_options(),
        labels=labels_of(table),
    )
    document = config.to_api_repr()
    load = {
        **document["load"],
        "destinationTable": name.to_api_repr(),
        "sourceUris": source_uris(table),
    }
    job = {"projectId": name.project, **({"location": location} if location else {})}
    return {"jobReference": job, "configuration": {**document, "load": load}}


def table_resource(table: FinishedTable, name: Any, kind: str) -> dict[str, Any]:
    """Give the body of `tables.insert` or `tables.patch`: labels, and what they say.

    Args:
      table: the table.
      name: reference of the table in BigQuery.
      kind: `external` names the parts as well, which are then the table's rows.
    """
    from google.cloud import bigquery

    made = bigquery.Table(name)
    made.labels = labels_of(table)
    by = f"featuretap {table.plan.versions['featuretap']}"
    properties = [f"{key}: {value}" for key, value in table.properties.items()]
    made.description = "\n".join([f"{table.rows} rows, made by {by}", *properties])
    if kind == "external":
        external = bigquery.ExternalConfig(bigquery.ExternalSourceFormat.PARQUET)
        external.autodetect = True  # columns and types are those of the files
        external.parquet_options = _parquet_options()
        external.source_uris = source_uris(table)
        made.external_data_configuration = external
    document: dict[str, Any] = made.to_api_repr()
    return document


def source_uris(table: FinishedTable) -> list[str]:
    """Name the parts, each by its URI.

    Raises:
      ConfigError: they are more than one job, or one table, may name.
    """
    if len(table.parts) > _MOST_URIS:
        raise ConfigError(
            f"BigQuery takes at most {_MOST_URIS} files at once, the table has"
            f" {len(table.parts)} parts; make it of larger ones (table.rows_per_part)"
        )
    return [table.part_uri(part) for part in table.parts]


def _parquet_options() -> Any:
    """Have lists read as lists: without, BigQuery fills vectors with nothing."""
    from google.cloud.bigquery.format_options import ParquetOptions

    options = ParquetOptions()
    options.enable_list_inference = True
    return options


def _mode(column: Column) -> str:
    return "REQUIRED" if column.role == "key" else "NULLABLE"


def _describe(column: Column) -> str:
    """Say what a column holds, and where it comes from."""
    shape = f" {list(column.shape)}" if column.is_vector else ""
    made = f" of {' '.join([column.source, *column.reduce])}" if column.source else ""
    return f"{column.dtype}{shape}{made}"


def _is_allowed(name: str) -> bool:
    return bool(_NAME.fullmatch(name)) and not name.startswith(_RESERVED)
