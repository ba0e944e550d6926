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


def hash_ingredients(
    config: Config, files: Sequence[File], shards: Shards, digest: str
) -> dict[str, str]:
    """Hash each thing that changes the bytes, so that a difference can be named."""
    source, model = config.source, config.model
    user_code = [step.step for step in source.preprocess] + [source.reader]
    user_code += [text.partition("(")[0] for tap in config.taps for text in tap.reduce]
    names = [name for name in user_code if ":" in name]
    parts: dict[str, Any] = {
        "source": source.model_dump(mode="json", exclude={"preprocess"}),
        "files": _files_digest(files),
        "preprocess": [step.model_dump(mode="json") for step in source.preprocess],
        "model": [digest, model.inputs],
        "taps": [tap.model_dump(mode="json") for tap in config.taps],
        "batch_rows": model.batch_rows,
        "precision": model.precision,
        "parts": shards.digest(),
        "event_timestamp": [config.table.event_timestamp, config.table.timestamp_unit],
        "limit": config.limit,
        "user_code": source_digest(names),
        "versions": versions(),
        "non_finite": config.errors.non_finite == "quarantine",
        "format_version": FORMAT_VERSION,
    }
    return {name: digest_of(part)[:16] for name, part in parts.items()}


def _files_digest(files: Sequence[File]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.uri}\0{file.identity}\0{file.blocks}\n".encode())
    return digest.hexdigest()


def digest_of(document: Any) -> str:
    text = json.dumps(document, sort_keys=True, default=dict)
    return hashlib.sha256(text.encode()).hexdigest()


FREE = {
    "errors.attempts",
    "errors.crash",
    "errors.max_fraction",
    "model.path",
    "model.trusted",
    "model.weights",
    "table.path",
}
