"""Say in words how a plan differs from the one that a table holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pipeline.fingerprint import changes_bytes, hash_config
from pipeline.plan import Plan
from transforms.config import Config
from transforms.lookup import ConfigError, TableError
from transforms.models.inputs import agree
from transforms.shard import Shards
from transforms.table.directory import Table
from transforms.table.plan_file import Claim, TablePlan, read_shards

_NAMED_DIFFERENCES = 5
_ABSENT = "nothing"
_OTHER_TABLES = "  it takes rows over from other tables: give the same --from"


def refusal(table: Table, plan: Plan, there: Claim) -> str:
    """Say what differs between two plans, with both values where they are short."""
    names = [
        name
        for name in {**plan.ingredients, **there.ingredients}
        if there.ingredients.get(name) != plan.ingredients.get(name)
    ]
    changed = [*_changed_values(plan, there), *_changed_files(table, plan)]
    if names == ["parts"]:
        changed += _changed_parts(table, plan)
    if len(changed) > _NAMED_DIFFERENCES:
        rest = len(changed) - _NAMED_DIFFERENCES
        changed = [*changed[:_NAMED_DIFFERENCES], f"  and {rest} differences more"]
    if "earlier" in names:
        changed.append(_OTHER_TABLES)
    return "\n".join(
        [
            f"table.path must hold a table of this plan, {table.uri!r} holds another"
            f" (different: {', '.join(names)})",
            *changed,
            "  fingerprint",
            f"    there: {there.fingerprint}",
            f"    here:  {plan.fingerprint}",
            "choose another table.path, or replace the table with --overwrite",
        ]
    )


def with_wiring(config: Config, there: TablePlan) -> Config:
    """Give a config the wiring of a table's plan, if it may have come of the config."""
    wired = there.config.model
    if not agree(config.model, wired):
        return config
    model = config.model.model_copy(update={"inputs": wired.inputs})
    return config.model_copy(update={"model": model})


def check_config(table: Table, config: Config, there: TablePlan) -> None:
    """See that a table was made by a config, whatever part of the rows it holds.

    Args:
      table: the table.
      config: with the wiring that `with_wiring` gives.
      there: plan of the table.

    Raises:
      ConfigError: it was made by another one.
    """
    here = hash_config(config, there.model_digest)
    names = [
        name
        for name, digest in here.items()
        if name != "limit" and there.ingredients.get(name) != digest
    ]
    if names:
        values = _differing_values(_config_values(config), _config_values(there.config))
        raise ConfigError(
            "\n".join(
                [
                    f"the config must be the one that {table.uri!r} was made by, it"
                    f" differs (in: {', '.join(names)})",
                    *values,
                    "give the config of the run, with the same --set",
                ]
            )
        )


def _config_values(config: Config) -> dict[str, str]:
    return _changing(config.model_dump(mode="json", exclude_none=True))


def _changed_values(plan: Plan, there: Claim) -> Iterator[str]:
    """Yield keys of the config, versions and digests that differ, with both values."""
    here = {
        **_config_values(plan.config),
        **{f"version of {n}": v for n, v in _flat(dict(plan.versions)).items()},
        "digest of the model": plan.model_digest,
    }
    before = {
        **_changing(dict(there.config)),
        **{f"version of {n}": v for n, v in _flat(dict(there.versions)).items()},
        "digest of the model": there.model_digest,
    }
    yield from _differing_values(here, before)


def _differing_values(here: dict[str, str], before: dict[str, str]) -> Iterator[str]:
    for name in [*before, *(name for name in here if name not in before)]:
        one, other = before.get(name, _ABSENT), here.get(name, _ABSENT)
        if one != other:
            yield f"  {name}\n    there: {one}\n    here:  {other}"


def _changing(config: dict[str, Any]) -> dict[str, str]:
    """Lay out the keys of a config that change bytes."""
    flat = _flat(config)
    return {name: value for name, value in flat.items() if changes_bytes(name)}


def _flat(values: Any, place: str = "") -> dict[str, str]:
    """Lay nested values out under their dotted names, as JSON."""
    if isinstance(values, dict | list) and values:
        items = values.items() if isinstance(values, dict) else enumerate(values)
        inner = place and f"{place}."
        return {k: v for n, one in items for k, v in _flat(one, f"{inner}{n}").items()}
    return {place: json.dumps(values, ensure_ascii=False)}


def _changed_files(table: Table, plan: Plan) -> list[str]:
    """Name the files of the source that are not those of the table."""
    try:
        there, here = read_shards(table).files(), plan.shards.files()
    except (FileNotFoundError, TableError):
        return []
    return [
        *(f"  new: {uri}" for uri in here if uri not in there),
        *(f"  gone: {uri}" for uri in there if uri not in here),
        *(
            f"  changed: {uri}\n    there: {there[uri]}\n    here:  {here[uri]}"
            for uri in here
            if there.get(uri, here[uri]) != here[uri]
        ),
    ]


def _changed_parts(table: Table, plan: Plan) -> list[str]:
    """Say how the rows are cut, and how to go on with parts of the size there."""
    try:
        there = read_shards(table)
    except (FileNotFoundError, TableError):
        return []
    lines = [f"  parts\n    there: {_parts(there)}\n    here:  {_parts(plan.shards)}"]
    if (rows := there.most_rows) is not None:
        lines.append(f"  table.rows_per_part = {rows} would go on with what is there")
    return lines


def _parts(shards: Shards) -> str:
    rows = shards.most_rows
    return f"{len(shards)}" + ("" if rows is None else f" of at most {rows} rows")
