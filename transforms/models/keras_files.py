"""Load models that Keras 3 or Keras 2 has saved as files."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any

from transforms.lookup import ConfigError
from transforms.models.explain import explain_sequential
from transforms.models.keras_layers import LayerForm
from transforms.models.trust import stored_json

_CONVERT = (
    "install tf_keras to use it as it is, or convert it where it works: load it with"
    " tf_keras and save it with model.export('name'), a SavedModel directory"
)


def load_layers(path: Path, uri: str, *, trusted: bool) -> LayerForm:
    """Load a model that Keras 3 or Keras 2 has saved.

    Args:
      path: local path of the file or directory.
      uri: the same as the config names it, for errors.
      trusted: whether the model may bring Python functions of its own.

    Raises:
      ConfigError: Keras cannot load it.
    """
    import keras

    version = _keras_version(path)
    if version is None:
        raise ConfigError(
            f"model.path must be a whole model, {uri!r} holds weights only; give it as"
            " model.weights, and the function that makes the model as model.build"
        )
    legacy = version.startswith(("1.", "2."))
    tf_keras = _tf_keras() if legacy else None
    loaders = [keras.saving.load_model]
    if tf_keras:
        loaders.insert(0, tf_keras.models.load_model)
    errors = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for load in loaders:
            try:
                return LayerForm(load(str(path), compile=False, safe_mode=not trusted))
            except ConfigError:
                raise
            except Exception as error:
                errors.append(error)
    cure = f". It was saved by Keras {version}: {_CONVERT}" if legacy else ""
    raise ConfigError(
        f"model.path must be a model that Keras can load, got {uri!r}:"
        f" {explain_sequential(errors[0]) or _cause(errors[0])}; list the modules that"
        f" register custom layers in model.imports{'' if tf_keras else cure}"
    ) from errors[0]


def _keras_version(path: Path) -> str | None:
    """Tell which version of Keras saved a model; None if only weights were saved.

    Empty text if the file is broken or does not say it: loading then tells why.
    """
    if path.suffix in (".h5", ".hdf5"):
        import h5py

        try:
            with h5py.File(path) as file:
                if "model_config" not in file.attrs:
                    return None
                return str(file.attrs.get("keras_version", "1."))
        except OSError:
            return ""
    try:
        return str(stored_json(path, "metadata.json")["keras_version"])
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
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
