"""What a store must be able to do, for a finished table to be published there."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa

from pipeline.publish.columns import Columns
from pipeline.publish.finished import FINGERPRINT, MODEL, OPTIONS, FinishedTable
from transforms import storage
from transforms.lookup import ConfigError, bind, nearest, resolve

TARGETS = {
    "atlas": "Atlas",
    "bigquery": "BigQuery",
    "delta": "Delta",
    "faiss": "Faiss",
    "feast": "Feast",
    "huggingface": "HuggingFace",
    "iceberg": "Iceberg",
    "lance": "Lance",
    "pgvector": "PgVector",
    "projector": "Projector",
    "qdrant": "Qdrant",
}
"""Built-in targets: the class in the module of the same name in this package."""


@runtime_checkable
class Target(Protocol):
    """One place in a store. Made of a table's URI, and of options by name."""

    @property
    def location(self) -> str:
        """Say where the table goes, without credentials."""
        ...

    @property
    def normalizes(self) -> bool:
        """Whether vectors come to lie there with length 1."""
        ...

    def check(self, columns: Columns) -> None:
        """See that a table of these columns can be published so.

        A run asks before anything is computed, so nothing is known but the plan.

        Args:
          columns: of the table.

        Raises:
          ConfigError: it cannot.
        """
        ...

    def found(self, table: FinishedTable) -> Mapping[str, str] | None:
        """Give the properties of what is there; None if there is nothing.

        Args:
          table: that is to be published.
        """
        ...

    def write(self, table: FinishedTable) -> None:
        """Put the table there in place of what is there: all of it at once, or nothing.

        Args:
          table: the table.
        """
        ...

    def remove_older(self, table: FinishedTable) -> None:
        """Remove what tables before have left, and only that.

        It is called when readers see the table, also where it was there already: a call
        may have been cut off before.

        Args:
          table: that is there.
        """
        ...

    def keys(self, table: FinishedTable) -> Iterator[pa.Array]:
        """Yield the keys that are there now."""
        ...

    def look_up(self, table: FinishedTable, keys: pa.Array) -> pa.Table:
        """Read some rows back.

        Args:
          table: that was published.
          keys: of the rows.

        Returns:
          The key and the published columns of vectors, in any order.
        """
        ...


def make_target(table: str, name: str, options: Mapping[str, Any]) -> Target:
    """Make a target of its options.

    Args:
      table: URI of the table that is to be published, or will be; targets that lie
        beside it begin with it.
      name: a built-in, or `package.module:callable`, which takes the table's URI and
        options by name.
      options: by name.

    Raises:
      ConfigError: there is no such target, or it has other options.
    """
    if name not in TARGETS and ":" not in name:
        raise ConfigError(
            f"--to must name a target, got {name!r}{nearest(name, TARGETS)} (built in:"
            f" {', '.join(TARGETS)}; or package.module:callable)"
        )
    if name in TARGETS:
        module = importlib.import_module(f"pipeline.publish.{name}")
        found = getattr(module, TARGETS[name])
    else:
        found = resolve(name, {}, "--to")
    kind = partial(found, storage.absolute(table))
    made = kind(**bind(kind, options, f"target {name}"))
    if not isinstance(made, Target):
        raise ConfigError(
            f"target {name!r} must keep the promises of pipeline.publish.target.Target,"
            f" {type(made).__name__} does not"
        )
    return made


def refuse_others(target: Target, table: FinishedTable) -> bool:
    """Refuse to replace what is not of the same model, or not featuretap's.

    Returns:
      Whether this very table is there already, published with these options.

    Raises:
      ConfigError: something else is there.
    """
    found = target.found(table)
    if found is None:
        return False
    if MODEL not in found:
        raise ConfigError(
            f"{target.location} must be empty or of featuretap's making, it holds"
            " something else; choose another place"
        )
    if found[MODEL] != table.plan.model_digest:
        raise ConfigError(
            f"{target.location} must hold vectors of one model, it holds those of"
            " another; choose another place\n"
            f"  there: {found[MODEL]}\n  here:  {table.plan.model_digest}"
        )
    same = (FINGERPRINT, OPTIONS)
    return all(found.get(name) == table.properties[name] for name in same)


def read_object(text: bytes | str) -> dict[str, Any]:
    """Read a JSON object; empty for anything else, which featuretap has not written."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
