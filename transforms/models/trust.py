"""Refuse SavedModels that do more than compute, unless they are trusted.

A stored model is a program. Operations that use files, call Python or talk to other
machines can do anything that the user may do. The check allows operations that are
known to compute, and files that are the model's. It confines nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from transforms.lookup import ConfigError
from transforms.models.saved_runs import foreign_files, unsafe_operations


def check_saved(path: Path, signature: str | None, uri: str) -> None:
    """Check what TensorFlow runs of a SavedModel, before any of it is loaded.

    Args:
      path: local path of the model.
      signature: name of the signature that will be called; None for the default.
      uri: the model as the config names it, for errors.

    Raises:
      ConfigError: an operation does more than compute, or a file is not the model's.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    stored = saved_model_pb2.SavedModel()
    try:
        stored.ParseFromString((path / "saved_model.pb").read_bytes())
    except Exception:  # protobuf's own: loading says what is wrong
        return
    for file in foreign_files(path, stored):
        raise ConfigError(
            f"model.path must hold all files of the model, {uri!r} leads outside with"
            f" {file!r}; copy that file into the directory, or set model.trusted = true"
            " if you trust whoever made it"
        )
    for what in unsafe_operations(stored, signature):
        refuse(uri, what)


def refuse(uri: str, what: str) -> NoReturn:
    """Refuse a model that does more than compute.

    Args:
      uri: the model as the config names it.
      what: what it holds.

    Raises:
      ConfigError: always.
    """
    raise ConfigError(
        f"model.path must be a model that only computes, got {uri!r}: {what}, which can"
        " do anything on every worker; if you trust whoever made it, set model.trusted"
        " = true"
    )
