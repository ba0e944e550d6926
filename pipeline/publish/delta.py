"""Delta Lake: a directory of its own, into which the parts are linked or copied."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.publish.columns import Columns
from pipeline.publish.finished import MODEL, FinishedTable
from pipeline.publish.placed import (
    is_free,
    is_placed,
    place_of,
    place_parts,
    placed_name,
)
from transforms.column_names import KEY
from transforms.lookup import need

_OURS = "featuretap."
_DESCRIPTION = "Written by featuretap publish --to delta, with the model of digest "


class Delta:
    """A Delta table, which gets one version more for each table that is published."""

    normalizes = False

    def __init__(
        self,
        table: str,
        *,
        path: str | None = None,
        storage_options: dict[str, str] | None = None,
    ) -> None:
        """Find the place.

        Args:
          table: URI of the table that is published.
          path: URI of the Delta table's directory; beside the table by default.
          storage_options: of deltalake, for stores.
        """
        need("deltalake", "delta")
        self._path = place_of(table, path, "delta")
        self._options = storage_options

    @property
    def location(self) -> str:
        """The directory."""
        return self._path

    def check(self, columns: Columns) -> None:
        """Refuse numbers that Delta has no types for."""
        columns.refuse_odd_numbers("Delta")

    def found(self, table: FinishedTable) -> Mapping[str, str] | None:
        """Read the properties of the last version that featuretap has made."""
        import deltalake

        if not deltalake.DeltaTable.is_deltatable(self._path, self._options):
            return None if is_free(self._path, is_placed) else {}
        there = self._open()
        for version in there.history():
            ours = {k: str(v) for k, v in version.items() if k.startswith(_OURS)}
            if ours:
                return ours
        return _described(there.metadata().description)  # the log has been cleaned

    def write(self, table: FinishedTable) -> None:
        """Add the parts that are new and remove those that are gone, in one version."""
        import deltalake
        from deltalake.transaction import create_table_with_add_actions

        place_parts(table, self._path)
        properties = deltalake.CommitProperties(
            custom_metadata=table.properties,
            app_transactions=[deltalake.Transaction("featuretap", 1)],
        )
        schema = deltalake.Schema.from_arrow(table.columns.schema)
        if not deltalake.DeltaTable.is_deltatable(self._path, self._options):
            create_table_with_add_actions(
                self._path,
                schema,
                self._added(table, set()),
                mode="error",
                description=_DESCRIPTION + table.plan.model_digest,
                storage_options=self._options,
                commit_properties=properties,
            )
            return
        there = self._open()
        if there.schema() != schema:  # then no part is the same
            mode, actions = "overwrite", self._added(table, set())
        else:
            found = {add["path"]: add for add in _adds(there)}
            mode, actions = "append", self._added(table, set(found))
            kept = {placed_name(part) for part in table.parts}
            gone = [add for name, add in found.items() if name not in kept]
            actions += [_removed(add) for add in gone]
        there.create_write_transaction(
            actions, mode, schema, commit_properties=properties
        )

    def remove_older(self, table: FinishedTable) -> None:
        """Leave old versions to `VACUUM`."""

    def keys(self, table: FinishedTable) -> Iterator[pa.Array]:
        """Yield the keys of the newest version."""
        dataset = self._open().to_pyarrow_dataset()
        for batch in dataset.to_batches(columns=[KEY], use_threads=False):
            yield batch.column(0)

    def look_up(self, table: FinishedTable, keys: pa.Array) -> pa.Table:
        """Read rows of the newest version."""
        dataset, chosen = self._open().to_pyarrow_dataset(), pc.field(KEY).isin(keys)
        names = table.columns.compared()
        return dataset.to_table(columns=names, filter=chosen, use_threads=False)

    def _open(self) -> Any:
        import deltalake

        return deltalake.DeltaTable(self._path, storage_options=self._options)

    def _added(self, table: FinishedTable, there: set[str]) -> list[Any]:
        """Give an action for each part that is not there."""
        from deltalake.transaction import AddAction

        now = int(time.time() * 1000)
        return [
            AddAction(
                path=placed_name(part),
                size=part.bytes,
                partition_values={},
                modification_time=now,
                data_change=True,
                stats=json.dumps({"numRecords": part.rows}),
            )
            for part in table.parts
            if placed_name(part) not in there
        ]


def _described(text: str | None) -> dict[str, str]:
    """Read the model in a table's description, which stays when its log is cleaned."""
    before, _, digest = (text or "").partition(_DESCRIPTION)
    return {MODEL: digest} if digest and not before else {}


def _adds(there: Any) -> list[dict[str, Any]]:
    return list(pa.table(there.get_add_actions()).to_pylist())


def _removed(add: Mapping[str, Any]) -> Any:
    from deltalake.transaction import RemoveAction

    return RemoveAction(
        path=add["path"],
        data_change=True,
        deletion_timestamp=int(time.time() * 1000),
        size=add["size_bytes"],
    )
