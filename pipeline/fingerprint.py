"""Hash all that changes the bytes of a table, and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from transforms.config import Config
from transforms.lookup import source_digest
from transforms.shard import Shards
from transforms.sources.source import File
from transforms.table.directory import FORMAT_VERSION
from transforms.table.plan_file import versions

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
    "model.trusted": None,  # only says what may be loaded
    "taps": "taps",
    "table.path": None,  # only says where
    "table.rows_per_part": "parts",
    "table.event_timestamp": "event_timestamp",
    "table.timestamp_unit": "event_timestamp",
    "errors.max_fraction": None,  # decides whether a table is finished
    "errors.non_finite": "non_finite",
    "errors.crash": None,  # decides what becomes of rows that kill
    "errors.attempts": None,  # likewise
    "limit": "limit",
}
"""For each key of the config the ingredient of the fingerprint that it is part of.

None: it changes no byte. A new key of the config must be entered here.
"""


def changes_bytes(name: str) -> bool:
    """Tell whether a dotted name of a config, such as `taps.0.path`, changes bytes.

    >>> changes_bytes("source.split"), changes_bytes("model.trusted")
    (True, False)
    """
    section, _, rest = name.partition(".")
    key = f"{section}.{rest.partition('.')[0]}"
    return INGREDIENTS.get(key, INGREDIENTS.get(section)) is not None


def hash_ingredients(
    config: Config, files: Sequence[File], shards: Shards, model_digest: str
) -> dict[str, str]:
    """Hash each thing that changes the bytes, so that a difference can be named.

    Args:
      config: the whole config.
      files: of the source.
      shards: how their rows are cut.
      model_digest: of the model.

    Returns:
      `{ingredient: 16 hex digits}`.
    """
    parts = {
        "parts": shards.digest(),  # of rows_per_part, what comes of it
        "files": _files_digest(files),
        "versions": versions(),
        "format_version": FORMAT_VERSION,
    }
    hashed = {name: digest_of(part)[:16] for name, part in parts.items()}
    return {**hash_config(config, model_digest), **hashed}


def hash_config(config: Config, model_digest: str) -> dict[str, str]:
    """Hash what a config, its model and its own code contribute to the bytes.

    Returns:
      `{ingredient: 16 hex digits}`; not how the rows are cut.
    """
    parts = _config_parts(config)
    del parts["parts"]
    parts["non_finite"] = config.errors.non_finite == "quarantine"  # others keep bytes
    parts["model"]["digest"] = model_digest
    parts["user_code"] = source_digest(_user_names(config))
    return {name: digest_of(part)[:16] for name, part in parts.items()}


def digest_of(document: Any) -> str:
    """Hash a JSON document: 64 hex digits."""
    text = json.dumps(document, sort_keys=True, default=dict)
    return hashlib.sha256(text.encode()).hexdigest()


def _config_parts(config: Config) -> dict[str, Any]:
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
    return parts


def _user_names(config: Config) -> list[str]:
    """Names of the user's own functions that a config uses."""
    names = [step.step for step in config.source.preprocess] + [config.source.reader]
    names += [text.partition("(")[0] for tap in config.taps for text in tap.reduce]
    return [name for name in names if ":" in name]


def _files_digest(files: Sequence[File]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.uri}\0{file.identity}\0{file.blocks}\n".encode())
    return digest.hexdigest()
