"""Load models that Keras 3 or Keras 2 has saved as files."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transforms.config import ModelSpec
from transforms.lookup import ConfigError
from transforms.models.explain import explain_sequential
from transforms.models.keras_layers import LayerForm
from transforms.models.stored_files import (
    H5_SUFFIXES,
    UNREADABLE,
    check_files,
    stored_config,
    stored_json,
    stored_text,
)
from transforms.models.stored_layers import find_fault
from transforms.models.trust import refuse

_CONVERT = (
    "install tf_keras to use it as it is, or convert it where it works: load it with"
    " tf_keras and save it with model.save('name', save_format='tf'), a SavedModel"
)


def load_layers(path: Path, uri: str, spec: ModelSpec) -> LayerForm:
    """Load a model that Keras 3 or Keras 2 has saved.

    Args:
      path: local path of the file or directory.
      uri: the same as the config names it, for errors.
      spec: the config's `[model]`, whose imports have been imported.

    Raises:
      ConfigError: Keras cannot load it, or it is not trusted and brings code of its
        own, reaches for other files or expands beyond measure.
    """
    import keras

    if not spec.trusted:
        check_files(path, "model.path", uri)
    version = _keras_version(path)
    if version is None:
        raise ConfigError(
            f"model.path must be a whole model, {uri!r} holds weights only; give it as"
            " model.weights, and the function that makes the model as model.build"
        )
    legacy = version.startswith(("1.", "2."))
    tf_keras = _tf_keras() if legacy else None
    needed = legacy and not tf_keras
    cure = f". It was saved by Keras {version}: {_CONVERT}" if needed else ""
    packages = [tf_keras, keras] if tf_keras and path.is_file() else [keras]
    if not spec.trusted:
        packages = _harmless(path, uri, packages, spec.imports, cure)
    errors = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for package in packages:
            try:
                load = package.saving.load_model
                safe = not spec.trusted
                return LayerForm(load(str(path), compile=False, safe_mode=safe))
            except ConfigError:
                raise
            except Exception as error:
                errors.append(error)
    raise ConfigError(
        f"model.path must be a model that Keras can load, got {uri!r}:"
        f" {explain_sequential(errors[0]) or _cause(errors[0])}; list the modules that"
        f" register custom layers in model.imports{cure}"
    ) from errors[0]


def _harmless(
    path: Path, uri: str, packages: list[Any], imports: Sequence[str], cure: str
) -> list[Any]:
    """Choose those of several Keras for which a stored model only computes.

    The file itself says which Keras has saved it, so each that may load it is asked.
    """
    try:
        config = stored_config(path)
    except UNREADABLE as error:
        raise ConfigError(
            f"model.path must be a model that Keras can load, got {uri!r}: its"
            f" description cannot be read ({type(error).__name__}: {error})"
        ) from error
    faults = [find_fault(config, package, imports) for package in packages]
    if all(faults):  # the Keras that comes furthest is the one that the model is of
        _, fault = max(filter(None, faults), key=lambda fault: fault[0])
        refuse(uri, f"{fault}{cure}")
    return [one for one, fault in zip(packages, faults, strict=True) if not fault]


def _keras_version(path: Path) -> str | None:
    """Tell which version of Keras saved a model; None if only weights were saved.

    Empty text if the file is broken or does not say it: loading then tells why.
    """
    try:
        if path.suffix in H5_SUFFIXES:
            if stored_text(path, "model_config") is None:
                return None
            return stored_text(path, "keras_version") or "1."
        return str(stored_json(path, "metadata.json")["keras_version"])
    except UNREADABLE:
        return ""


def _tf_keras() -> Any:
    """Import the package of Keras 2; None if it is not installed."""
    try:
        import tf_keras
    except ImportError:
        return None
    return tf_keras


def _cause(error: Exception) -> str:
    """Cut a Keras loading error down to its cause, without the model's whole config."""
    text = str(error).rpartition("Exception encountered: ")[2]
    return text.partition(" Full object config")[0].strip().rstrip(".")
