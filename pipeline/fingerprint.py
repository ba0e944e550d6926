"""Hash all that changes the bytes of a table, and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from transforms.config import Config
from transforms.dtypes import Feature
from transforms.gate_limits import GatesSpec
from transforms.lookup import source_digest
from transforms.shard import Shards
from transforms.sources.source import File
from transforms.table.columns import Column
from transforms.table.directory import FORMAT_VERSION
from transforms.table.plan_file import Earlier, versions

_GATES = tuple(f"gates.{name}" for name in GatesSpec.model_fields)

INGREDIENTS: dict[str, str | None] = {
    "source": "source",  # the reader's own options
    "source.reader": "source",
    "source.key": "source",
    "source.keep": "source",
    "source.preprocess": "preprocess",
    "model.path": None,  # what is stored there counts, by the model's digest
    "model.weights": None,  # likewise
    "model.build": "model",
    "model.signature": "model",
    "model.tags": "model",
    "model.imports": "model",
    "model.inputs": "model",
    "model.batch_rows": "batch_rows",
    "model.precision": "precision",
    "model.jit": "jit",
    "model.trusted": None,  # only says what may be loaded
    "taps": "taps",
    "table.path": None,  # only says where
    "table.rows_per_part": "parts",
    "table.event_timestamp": "event_timestamp",
    "table.timestamp_unit": "event_timestamp",
    "table.entity": "entity",
    "errors.max_fraction": None,  # decides whether a table is finished
    "errors.non_finite": "non_finite",
    "errors.crash": None,  # decides what becomes of rows that kill
    "errors.attempts": None,  # likewise
    **dict.fromkeys(_GATES, None),  # only judge what is there
    "publish": None,  # only says where the finished table goes
    "limit": "limit",
}
"""For each key of the config the ingredient of the fingerprint that it is part of.

None: it changes no byte. A new key of the config must be entered here.
"""


_OF_ROWS = ("source", "event_timestamp", "non_finite")
_OF_VALUES = ("preprocess", "model", "batch_rows", "precision", "jit")


def changes_bytes(name: str) -> bool:
    """Tell whether a dotted name of a config, such as `taps.0.path`, changes bytes.

    >>> changes_bytes("source.split"), changes_bytes("model.trusted")
    (True, False)
    """
    section, _, rest = name.partition(".")
    key = f"{section}.{rest.partition('.')[0]}"
    return INGREDIENTS.get(key, INGREDIENTS.get(section)) is not None


def hash_ingredients(
    config: Config,
    files: Sequence[File],
    shards: Shards,
    model_digest: str,
    earlier: Sequence[Earlier] = (),
) -> dict[str, str]:
    """Hash each thing that changes the bytes, so that a difference can be named.

    Args:
      config: the whole config.
      files: of the source.
      shards: how their rows are cut.
      model_digest: of the model.
      earlier: tables that rows are taken over from.

    Returns:
      `{ingredient: 16 hex digits}`; `earlier` only where there are such tables.
    """
    parts: dict[str, Any] = {
        "parts": shards.digest(),  # of rows_per_part, what comes of it
        "files": _files_digest(files),
        "versions": versions(),
        "format_version": FORMAT_VERSION,
    }
    if earlier:
        origins = [one and asdict(one) for one in shards.origins()]
        parts["earlier"] = [[one.fingerprint for one in earlier], origins]
    hashed = {name: digest_of(part)[:16] for name, part in parts.items()}
    return {**hash_config(config, model_digest), **hashed}


def hash_config(config: Config, model_digest: str) -> dict[str, str]:
    """Hash what a config, its model and its own code contribute to the bytes.

    Returns:
      `{ingredient: 16 hex digits}`; not how the rows are cut.
    """
    parts = _parts(config)
    del parts["parts"]
    parts["model"]["digest"] = model_digest
    names = [config.source.reader, *_step_names(config)]
    names += [_reduction(text) for tap in config.taps for text in tap.reduce]
    parts["user_code"] = _code(names)
    return {name: digest_of(part)[:16] for name, part in parts.items()}


def hash_versions() -> str:
    """Hash the versions of the packages that decide the bytes: 16 hex digits."""
    return _short(versions())


def hash_rows(
    config: Config, columns: Sequence[Column], features: Mapping[str, Feature]
) -> str:
    """Hash all that makes rows what they are, but for files and model.

    That is the reader, the key, kept features, times, and whether rows that are not
    finite are set apart; preprocessing only where such a column holds what it made.
    `transforms.shard.rows_key` adds the files, so where a built-in reader looks for
    them is not in it.

    Args:
      config: the whole config.
      columns: of the table.
      features: what is read of each example.

    Returns:
      16 hex digits.
    """
    parts, names = _parts(config), [config.source.reader]
    if not _is_users(config.source.reader):
        parts["source"]["source"] = _without_path(parts["source"]["source"])
    wanted = [*_OF_ROWS]
    passed = {column.source for column in columns if not column.is_computed} - {""}
    kinds = {name: features[name] for name in passed & set(features)}
    if not passed <= set(features):
        wanted.append("preprocess")
        names += _step_names(config)
        kinds = dict(features)
    return _short([{n: parts[n] for n in wanted}, _kinds(kinds), _code(names)])


def hash_columns(
    config: Config,
    columns: Iterable[Column],
    features: Mapping[str, Feature],
    model_digest: str,
) -> list[Column]:
    """Hash all that makes the values of each computed column, but for the rows.

    That is preprocessing, the model, how it runs, and the tap; not what the column is
    called.

    Args:
      config: the whole config.
      columns: of the table.
      features: what is read of each example for the model.
      model_digest: of the model.

    Returns:
      The columns, with `made_by`.
    """
    parts = _parts(config)
    parts["model"]["digest"] = model_digest
    common = {name: parts[name] for name in _OF_VALUES}
    common["features"] = _kinds(features)
    common["versions"] = versions()
    common["code"] = _code(_step_names(config))
    shared = digest_of(common)

    def made_by(column: Column) -> str:
        tap = (column.source, column.reduce, column.dtype, column.role)
        return _short([shared, tap, _code(map(_reduction, column.reduce))])

    return [
        replace(column, made_by=made_by(column)) if column.is_computed else column
        for column in columns
    ]


def digest_of(document: Any) -> str:
    """Hash a JSON document: 64 hex digits."""
    text = json.dumps(document, sort_keys=True, default=dict)
    return hashlib.sha256(text.encode()).hexdigest()


def _parts(config: Config) -> dict[str, Any]:
    """Collect the keys of a config that change bytes, by ingredient."""
    document = config.model_dump(mode="json")
    parts: dict[str, Any] = {}
    for place, ingredient in INGREDIENTS.items():
        section, _, key = place.partition(".")
        if ingredient is None:
            continue
        value = document[section][key] if key else document[section]
        if isinstance(value, dict) and not key:
            options = [name for name in value if f"{section}.{name}" not in INGREDIENTS]
            value = {name: value[name] for name in options}
        if place == "model.imports":  # whose order says nothing
            value = sorted(value)
        elif place == "source.keep":  # whose order is that of columns
            value = list(value.items())
        parts.setdefault(ingredient, {})[place] = value
    parts["non_finite"] = config.errors.non_finite == "quarantine"  # others keep bytes
    return parts


def _step_names(config: Config) -> list[str]:
    return [step.step for step in config.source.preprocess]


def _reduction(text: str) -> str:
    """Give the name of a reduction without its arguments."""
    return text.partition("(")[0]


def _is_users(name: str) -> bool:
    """Whether a name is of the user's own code."""
    return ":" in name


def _code(names: Iterable[str]) -> str:
    """Hash the user's own code that names stand for."""
    return source_digest(filter(_is_users, names))


def _without_path(options: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out where files lie, unless that also says which feature each holds."""
    return {
        name: value
        for name, value in options.items()
        if name != "path" or isinstance(value, Mapping)
    }


def _kinds(features: Mapping[str, Feature]) -> dict[str, Any]:
    return {name: asdict(feature) for name, feature in features.items()}


def _short(document: Any) -> str:
    return digest_of(document)[:16]


def _files_digest(files: Sequence[File]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.uri}\0{file.identity}\0{file.blocks}\n".encode())
    return digest.hexdigest()
