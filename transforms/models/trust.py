"""Refuse stored models that bring code of their own, unless they are trusted.

A stored model is a program. Ordinary layers and operations only compute; Python
functions stored in a model, and operations that use files or call Python, can do
anything that the user may do. Of layers the check finds known ways only; of operations
it allows those that are known to compute. It confines nothing.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transforms.lookup import ConfigError
from transforms.models.saved_runs import foreign_files, unsafe_operations

# Functions that reach files or Python, as Keras 2 names them in a stored call.
_UNSAFE_CALLS = (
    *("io.read_file", "io.write_file", "io.matching_files"),
    *("py_function", "numpy_function", "py_func", "raw_ops."),
)


def check_layers(path: Path, uri: str) -> None:
    """Check the layers of a stored Keras model, before any of it is loaded.

    Args:
      path: local path of the model.
      uri: the model as the config names it, for errors.

    Raises:
      ConfigError: a layer holds a Python function or calls an unsafe one.
    """
    for layer, why in _unsafe_layers(_config(path)):
        _refuse(uri, f"layer {layer!r} {why}")


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
        _refuse(uri, what)


def _refuse(uri: str, what: str) -> None:
    raise ConfigError(
        f"model.path must be a model that only computes, got {uri!r}: {what}, which can"
        " do anything on every worker; if you trust whoever made it, set model.trusted"
        " = true"
    )


def _config(path: Path) -> Any:
    """Read the stored description of the layers; empty if it cannot be read."""
    try:
        if path.suffix in (".h5", ".hdf5"):
            import h5py

            with h5py.File(path) as file:
                return json.loads(file.attrs["model_config"])
        return stored_json(path, "config.json")
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return {}  # loading says what is wrong


def stored_json(path: Path, name: str) -> Any:
    """Read a JSON document of a `.keras` file, or of a directory of the same files.

    Raises:
      OSError, KeyError, ValueError, zipfile.BadZipFile: there is none to read.
    """
    if path.is_dir():
        return json.loads((path / name).read_bytes())
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(name))


def _unsafe_layers(config: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield `(name, what it holds)` of the layers that hold or call unsafe code."""
    if isinstance(config, list):
        for one in config:
            yield from _unsafe_layers(one, name)
    if not isinstance(config, dict):
        return
    kind, inner = config.get("class_name"), config.get("config")
    if isinstance(inner, dict) and isinstance(inner.get("name"), str):
        name = inner["name"]
    if kind == "__lambda__" or (kind == "Lambda" and _is_code(inner)):
        yield name, "is a Lambda layer that holds a Python function"
    call = inner.get("function") if isinstance(inner, dict) else None
    if isinstance(call, str) and call.startswith(_UNSAFE_CALLS):
        yield name, f"calls {call}"
    for value in config.values():
        yield from _unsafe_layers(value, name)


def _is_code(config: Any) -> bool:
    """Whether Keras 2 stored a function as bytes of Python."""
    return isinstance(config, dict) and any(
        config.get(f"{part}_type") == "lambda" or isinstance(config.get(part), list)
        for part in ("function", "mask")
    )
