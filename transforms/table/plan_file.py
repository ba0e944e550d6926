"""Write the plan into a table's directory, and read it back.

Only this file knows the keys of `config.json` and `schema.json`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from transforms import storage
from transforms.config import Config
from transforms.dtypes import Feature
from transforms.lookup import TableError
from transforms.messages import first_line
from transforms.shard import SHARD_SCHEMA, Shard, Shards, rows_key
from transforms.table.columns import Column, arrow_schema, bytes_per_row
from transforms.table.directory import (
    BEGIN_AGAIN,
    FORMAT_VERSION,
    WRITE_AGAIN,
    Table,
    check_says,
    to_json,
    to_parquet,
)
from transforms.table.names import INTERNAL
from transforms.taps.language import Tap

_VERSIONED = ("featuretap", "tensorflow", "keras", "numpy", "pyarrow")
_CLAIM: dict[str, type] = {
    **dict.fromkeys(("claim", "fingerprint", "model_digest"), str),
    **dict.fromkeys(("ingredients", "versions", "config"), dict),
}
_LAYOUT = {
    **{"shards": int, "columns": list, "taps": list, "features": dict},
    **{"rows_made_by": str, "earlier": list, "left_out": list},
}
_SHARDS = f"{INTERNAL}/plan.parquet"
_CLEARING = "clearing"


def versions() -> dict[str, str]:
    """Give the versions of the packages that decide the bytes of a table."""
    return {name: importlib.metadata.version(name) for name in _VERSIONED}


@dataclass(frozen=True, slots=True)
class Earlier:
    """A finished table that a plan takes rows over from.

    Attributes:
      uri: of its directory.
      fingerprint: of its plan.
      claim: random id of the table, so that another one there is noticed.
    """

    uri: str
    fingerprint: str
    claim: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TablePlan:
    """What every worker, and whoever checks the table, must know of a plan.

    Attributes:
      config: what was asked for.
      fingerprint: hash of all that changes the bytes of the table, 64 hex digits.
      ingredients: what the fingerprint is made of, `{name: hex digest}`.
      model_digest: hash of all that decides what the model computes, 64 hex digits.
      versions: of the packages that decide the bytes, by name.
      shard_count: how many shards, and so parts, there are.
      rows: planned rows; None if a source tells only when it is read.
      columns: of the table, the key first.
      taps: the chosen activations, in the order of their columns.
      features: what is read of each example.
      rows_made_by: hash of what makes rows of stored ones, but for files and model; 16
        hex digits.
      earlier: tables that rows are taken over from.
      left_out: hashes of files of the source (`transforms.shard.hash_file`) whose rows
        were all forgotten; as long as they are as they were, they stay out.
      claim: random id of the table that the plan was read from; empty before it has
        been written to one.
    """

    config: Config
    fingerprint: str
    ingredients: Mapping[str, str]
    model_digest: str
    versions: Mapping[str, str]
    shard_count: int
    rows: int | None
    columns: tuple[Column, ...]
    taps: tuple[Tap, ...]
    features: Mapping[str, Feature]
    rows_made_by: str
    earlier: tuple[Earlier, ...] = ()
    left_out: tuple[str, ...] = ()
    claim: str = ""

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of every part, with what a part says of itself as metadata."""
        about = {"format_version": FORMAT_VERSION, "model_digest": self.model_digest}
        return arrow_schema(self.columns, about)

    @property
    def seal(self) -> str:
        """Hash of what workers are made from, 64 hex digits.

        A worker runs what its plan names. It takes the plan from the table's directory
        only if the seal is the one that its launcher has told it.
        """
        document = config_document(self.config)
        del document["errors"]  # names nothing, and may change from run to run
        del document["table"]["path"]  # of which there are many spellings
        text = json.dumps([document, _layout_document(self)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def rows_key(self, shard: Shard) -> str:
        """Hash what the rows of a shard are: 16 hex digits."""
        return rows_key(self.rows_made_by, shard.pieces)

    @property
    def column_keys(self) -> dict[str, str]:
        """Hashes of what makes the values of the computed columns, by column."""
        return {c.name: c.made_by for c in self.columns if c.is_computed}

    @property
    def bytes_per_row(self) -> int:
        """Uncompressed bytes of a row; text is taken as 32 bytes."""
        return bytes_per_row(self.columns)


@dataclass(frozen=True, slots=True)
class Claim:
    """Whose table a directory is: what `config.json` says.

    Attributes:
      id: random, drawn when the directory became a table's; another one after
        `--overwrite`.
      fingerprint: of the plan.
      ingredients: what the fingerprint is made of.
      model_digest: of the model.
      versions: of the packages that decide the bytes.
      config: what was asked for, as a document.
      clearing: whether files of an earlier table may lie there still.
    """

    id: str
    fingerprint: str
    ingredients: Mapping[str, str]
    model_digest: str
    versions: Mapping[str, str]
    config: Mapping[str, Any]
    clearing: bool = False


def claim_table(table: Table, plan: TablePlan, *, replace: bool = False) -> str | None:
    """Make a directory this plan's, unless it is a plan's already.

    Args:
      table: the directory.
      plan: whose it is to be.
      replace: take it from the plan that it is of. Workers of that one commit nothing
        from now on, so that what they have made can be cleared; until `write_plan` the
        claim says that this is to be done.

    Returns:
      Random id of the claim, if this call made it so; of several at once exactly one
      does. If they replace, the last of them counts.
    """
    claim = uuid.uuid4().hex
    document = {
        "format_version": FORMAT_VERSION,
        "claim": claim,
        "fingerprint": plan.fingerprint,
        "ingredients": dict(plan.ingredients),
        "model_digest": plan.model_digest,
        "versions": dict(plan.versions),
        "config": config_document(plan.config),
    }
    uri = table.internal("config.json")
    if replace:
        storage.replace(uri, to_json({**document, _CLEARING: True}))
        return claim
    return claim if storage.create(uri, to_json(document)) else None


def write_plan(table: Table, plan: TablePlan, shards: Shards, claim: Claim) -> None:
    """Put the plan where workers and later runs find it, in a claimed table.

    What lies there and is the same is left alone. What the claim says of settings that
    change no byte, such as `[errors]`, is brought up to date.

    Args:
      table: where to.
      plan: what to write.
      shards: of the plan.
      claim: of the table, which has the plan's fingerprint.

    Raises:
      RuntimeError: the table has become another one since.
    """
    claimed = table.read_config(written=True)
    if claimed.get("claim") != claim.id:
        raise RuntimeError(
            f"the table in {table.uri!r} has been replaced while this run began; run"
            " the same command again"
        )
    config = {**claimed, "config": config_document(plan.config)}
    config.pop(_CLEARING, None)
    documents = {
        table.internal("config.json"): to_json(config),
        table.internal("schema.json"): to_json(_layout_document(plan)),
        table.path(_SHARDS): to_parquet(shards.table),
    }
    for uri, data in documents.items():
        if _content(uri) != data:
            storage.replace(uri, data)


def read_claim(table: Table, *, written: bool = False) -> Claim:
    """Read whose table a directory is.

    Args:
      table: the directory.
      written: it is known to be there; wait for a store that shows it late.

    Raises:
      FileNotFoundError: it is no table.
      ConfigError: the table is of another format.
      TableError: what says so is damaged.
    """
    document = table.read_config(written=written)
    check_says(document, _CLAIM, table.internal("config.json"), BEGIN_AGAIN)
    return Claim(
        id=document["claim"],
        fingerprint=document["fingerprint"],
        ingredients=document["ingredients"],
        model_digest=document["model_digest"],
        versions=document["versions"],
        config=document["config"],
        clearing=document.get(_CLEARING, False),
    )


def read_plan(table: Table, *, written: bool = False) -> TablePlan:
    """Read the plan of a table, without its shards; otherwise as `read_claim`."""
    claim = read_claim(table, written=written)
    uri, schema_uri = table.internal("config.json"), table.internal("schema.json")
    layout = table.read_json("schema.json", written=written)
    check_says(layout, _LAYOUT, schema_uri, WRITE_AGAIN)
    with _understood(schema_uri, WRITE_AGAIN):
        columns = tuple(map(Column.from_json, layout["columns"]))
        taps = tuple(
            Tap(**{**tap, "reduce": tuple(tap["reduce"])}) for tap in layout["taps"]
        )
        features = {
            name: Feature(**{**feature, "shape": tuple(feature["shape"])})
            for name, feature in layout["features"].items()
        }
        earlier = tuple(Earlier(**one) for one in layout["earlier"])
    with _understood(uri, BEGIN_AGAIN):
        config = Config.model_validate(claim.config)
    return TablePlan(
        config=config,
        fingerprint=claim.fingerprint,
        ingredients=claim.ingredients,
        model_digest=claim.model_digest,
        versions=claim.versions,
        shard_count=layout["shards"],
        rows=layout.get("rows"),
        columns=columns,
        taps=taps,
        features=features,
        rows_made_by=layout["rows_made_by"],
        earlier=earlier,
        left_out=tuple(layout["left_out"]),
        claim=claim.id,
    )


@contextmanager
def _understood(uri: str, remedy: str) -> Iterator[None]:
    """Name the file in which something is not as it must be."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TableError(
            f"{uri} must be as featuretap wrote it, it is not:"
            f" {type(error).__name__}: {first_line(error)}; {remedy}"
        ) from error


def read_shards(table: Table, *, written: bool = False) -> Shards:
    """Read the planned shards of a table, in order.

    Raises:
      FileNotFoundError: they are not there.
      TableError: their file is damaged.
    """
    filled = ("shard", "pieces")
    return Shards(
        table.read_parquet(
            _SHARDS, SHARD_SCHEMA, WRITE_AGAIN, filled=filled, written=written
        )
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
    table.read_config(written=True)  # of this format
    committed = set(table.committed())
    shards = read_shards(table, written=True)
    for shard in shards if listings == 1 else shards[listing::listings]:
        if shard.index not in committed:
            yield shard


def config_document(config: Config) -> dict[str, Any]:
    """Give what workers and later commands must know of a config.

    How the table is judged and where it goes is only the launcher's concern.
    """
    return config.model_dump(
        mode="json", exclude_none=True, exclude={"gates", "publish"}
    )


def _layout_document(plan: TablePlan) -> dict[str, Any]:
    return {
        "shards": plan.shard_count,
        "rows": plan.rows,
        "columns": [column.to_json() for column in plan.columns],
        "taps": [asdict(tap) for tap in plan.taps],
        "features": {name: asdict(feature) for name, feature in plan.features.items()},
        "rows_made_by": plan.rows_made_by,
        "earlier": [asdict(one) for one in plan.earlier],
        "left_out": list(plan.left_out),
    }


def _content(uri: str) -> bytes | None:
    try:
        return storage.read(uri)
    except FileNotFoundError:
        return None
