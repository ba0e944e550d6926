"""What runs many times, on workers: read, preprocess, infer, write, commit.

Read the folders in the order of a config; `extract` calls them, shard by shard:

- `sources`: `[source]`, what turns stored data into batches of examples
- `preprocess`: `source.preprocess`, what turns features into inputs of the model
- `models`: `[model]`, what loads a model of any form
- `taps`: `[[taps]]`, which activations are computed, and how they are reduced
- `table`: `[table]`, how values become Parquet parts, and parts a finished table
- `errors`: `[errors]`, what becomes of rows that fail
- `programs`: what runs as a process of its own
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transforms.beam import CommitTable, ExtractShards
    from transforms.handler import ActivationModelHandler

__all__ = ["ActivationModelHandler", "CommitTable", "ExtractShards"]

_HOMES = {
    "ActivationModelHandler": "handler",
    "CommitTable": "beam",
    "ExtractShards": "beam",
}


def __getattr__(name: str) -> Any:
    """Import on first use: Beam and TensorFlow take seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module 'transforms' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"transforms.{_HOMES[name]}"), name)
