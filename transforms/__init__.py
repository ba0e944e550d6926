"""What runs many times, on workers: read, preprocess, infer, write, commit."""

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
