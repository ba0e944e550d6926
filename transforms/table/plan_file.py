"""Read and write the plan that is stored with a table."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from transforms.config import Config
from transforms.dtypes import Feature
from transforms.shard import Shard
from transforms.table.columns import Column, arrow_schema
from transforms.table.directory import Table

_VERSIONED = ("featuretap", "tensorflow", "keras", "numpy", "pyarrow")


def versions() -> dict[str, str]:
    """Versions of the packages that decide the bytes of a table."""
    return {name: importlib.metadata.version(name) for name in _VERSIONED}


@dataclass(frozen=True, slots=True)
class Planned:
    """What every worker, and whoever checks the table, must know.

    Attributes:
      claim: drawn when the directory became this table's; another one after
        `--overwrite`.
      config: what was asked for.
      fingerprint: of the plan.
      model_digest: of the model.
      shards: how many there are.
      columns: of the table.
      features: what is read of each example.
      metadata: what every part says of itself, beside its columns.
    """

    claim: str
    config: Config
    fingerprint: str
    model_digest: str
    shards: int
    columns: tuple[Column, ...]
    features: Mapping[str, Feature]
    metadata: Mapping[str, Any]

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of every part."""
        return arrow_schema(self.columns, self.metadata)


def read_planned(table: Table, *, written: bool = False) -> Planned:
    """Read the plan of a table, without its shards.

    Args:
      table: whose plan.
      written: it is known to be there; wait for a store that shows it late.

    Raises:
      FileNotFoundError: there is none.
    """
    plan = table.read_json("config.json", written=written)
    layout = table.read_json("schema.json", written=written)
    return Planned(
        claim=plan["claim"],
        config=Config.model_validate(plan["config"]),
        fingerprint=plan["fingerprint"],
        model_digest=plan["model_digest"],
        shards=layout["shards"],
        columns=tuple(Column.from_json(document) for document in layout["columns"]),
        features={
            name: Feature(feature["dtype"], tuple(feature["shape"]))
            for name, feature in layout["features"].items()
        },
        metadata=layout["metadata"],
    )


def pending_shards(
    table_uri: str, listing: int = 0, listings: int = 1
) -> Iterator[Shard]:
    """Yield the planned shards that are not committed, in order.

    Args:
      table_uri: of the table.
      listing: which share of them, from 0.
      listings: how many shares there are.
    """
    table = Table(table_uri)
    committed = set(table.committed())
    shards = table.shards(written=True)
    for shard in shards if listings == 1 else shards[listing::listings]:
        if shard.index not in committed:
            yield shard
