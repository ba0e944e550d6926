"""Hugging Face datasets: a directory with a card, which `load_dataset` reads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from pipeline.publish.columns import Columns
from pipeline.publish.finished import FinishedTable, batches_of, rows_of
from pipeline.publish.placed import (
    is_free,
    is_placed,
    place_of,
    place_parts,
    placed_name,
    remove_others,
)
from pipeline.publish.target import read_object
from transforms import storage
from transforms.column_names import KEY
from transforms.table.columns import Column

_CARD = "README.md"
_DATA = "data"
_BEGIN, _END = "<!-- featuretap ", " -->"


class HuggingFace:
    """A directory that is a dataset: a card (README.md), and the parts below `data`."""

    normalizes = False

    def __init__(
        self, table: str, *, path: str | None = None, license: str | None = None
    ) -> None:
        """Find the place.

        Args:
          table: URI of the table that is published.
          path: URI of the directory; beside the table by default.
          license: that the card names.
        """
        self._path = place_of(table, path, "huggingface")
        self._license = license

    @property
    def location(self) -> str:
        """The directory."""
        return self._path

    def check(self, columns: Columns) -> None:
        """Take any columns."""

    def found(self, table: FinishedTable) -> Mapping[str, str] | None:
        """Read the properties that the card holds."""
        try:
            card = storage.read(storage.join(self._path, _CARD))
        except FileNotFoundError:
            inside = storage.join(self._path, _DATA)
            free = is_free(self._path, lambda _: False, [_DATA])
            return None if free and is_free(inside, is_placed) else {}
        text = card.partition(_BEGIN.encode())[2].partition(_END.encode())[0]
        return read_object(text)

    def write(self, table: FinishedTable) -> None:
        """Put the parts there, then the card that names them."""
        place_parts(table, storage.join(self._path, _DATA))
        storage.replace(storage.join(self._path, _CARD), self._card(table).encode())

    def remove_older(self, table: FinishedTable) -> None:
        """Remove parts that the card does not name."""
        kept = {placed_name(part) for part in table.parts}
        remove_others(storage.join(self._path, _DATA), kept)

    def keys(self, table: FinishedTable) -> Iterator[pa.Array]:
        """Yield the keys of all files that the card names."""
        for rows in self._rows([KEY]):
            yield from rows[KEY].chunks

    def look_up(self, table: FinishedTable, keys: pa.Array) -> pa.Table:
        """Read rows of the files that the card names."""
        return rows_of(self._rows(table.columns.compared()), keys)

    def _rows(self, columns: list[str]) -> Iterator[pa.Table]:
        card = storage.read(storage.join(self._path, _CARD)).decode()
        for line in card.splitlines():
            name = line.strip().removeprefix("- ")
            if name.startswith(f"{_DATA}/"):
                yield from batches_of(storage.join(self._path, name), columns)

    def _card(self, table: FinishedTable) -> str:
        """Write the card: YAML for programs, text for people."""
        head: list[str] = []
        if self._license:
            head.append(f"license: {json.dumps(self._license)}")
        head += ["configs:", "- config_name: default", "  data_files:"]
        head += ["  - split: train", "    path:"]
        head += [f"    - {_DATA}/{placed_name(part)}" for part in table.parts]
        head += ["dataset_info:", "  features:"]
        for column in table.columns.all:
            head += [f"  - name: {json.dumps(column.name)}", f"    {_kind(column)}"]
            if column.is_vector and column.width:
                head.append(f"    length: {column.width}")
        properties = json.dumps(table.properties)
        by = f"featuretap {table.plan.versions['featuretap']}"
        return "\n".join(
            [
                *("---", *head, "---", "", f"{_BEGIN}{properties}{_END}", ""),
                "# Features",
                "",
                f"{table.rows} rows, made by {by} with the model of digest"
                f" `{table.plan.model_digest}`.",
                "",
                "| column | type | shape | from |",
                "|---|---|---|---|",
                *(_row(column) for column in table.columns.all),
                "",
            ]
        )


def _row(column: Column) -> str:
    made = " ".join([f"`{column.source}`", *column.reduce]) if column.source else ""
    return f"| {column.name} | {column.dtype} | {list(column.shape)} | {made} |"


def _kind(column: Column) -> str:
    """Name a column's type as datasets does."""
    names: dict[str, Any] = {"timestamp": "timestamp[us, tz=UTC]", "bytes": "binary"}
    kind = names.get(column.dtype, column.dtype)
    return f"{'list' if column.is_vector else 'dtype'}: {kind}"
