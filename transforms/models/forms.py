"""Recognize which form of model is stored, or was built, and load it as such."""

from __future__ import annotations

import contextlib
import random
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from transforms.config import ModelSpec
from transforms.lookup import ConfigError, resolve
from transforms.models.explain import explain_sequential, whole_tracebacks
from transforms.models.function import function_form
from transforms.models.keras_files import load_layers
from transforms.models.keras_layers import LayerForm
from transforms.models.model import ModelForm
from transforms.models.signatures import choose_signature, load_saved
from transforms.models.trust import check_saved

_SEED = 0
_lock = threading.RLock()


def load_form(spec: ModelSpec, path: Path) -> ModelForm:
    """Load a stored model; its content, and then its suffix, say which form it has.

    Args:
      spec: the config's `[model]`.
      path: local path of the file or directory that `model.path` names.

    Raises:
      ConfigError: it is no model that can be loaded, or an untrusted one that brings
        code of its own.
    """
    uri = str(spec.path)
    if (path / "saved_model.pb").exists():
        if not spec.trusted:
            check_saved(path, spec.signature, uri)
        return load_saved(path, spec.signature, spec.tags, uri)
    _refuse(spec, ("signature", "tags"), f"SavedModel directories, {uri!r} is none")
    if (path / "config.json").exists() or path.suffix in (".keras", ".h5", ".hdf5"):
        return load_layers(path, uri, spec)
    raise ConfigError(
        "model.path must be a .keras or .h5 file or a SavedModel directory, got"
        f" {uri!r}; save the model with model.save('name.keras'), or use model.build"
        " and model.weights"
    )


def build_form(spec: ModelSpec) -> ModelForm:
    """Call the function that `model.build` names, and recognize what it returns.

    Only one thread of the process builds at a time: names and random numbers are the
    process's.

    Raises:
      ConfigError: there is no such function, it fails, or it returns no model.
    """
    assert spec.build is not None
    if ":" not in spec.build:
        raise ConfigError(
            f"model.build must be 'package.module:function', got {spec.build!r}"
        )
    function = resolve(spec.build, {}, "model.build")
    try:
        with _lock, _afresh(), whole_tracebacks(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            built = function()
    except Exception as error:
        raise ConfigError(
            explain_sequential(error)
            or f"model.build must give a model, {spec.build!r} failed with"
            f" {type(error).__name__}: {error}"
        ) from error
    if hasattr(built, "signatures"):
        _refuse(spec, ("tags",), f"model.path, {spec.build!r} has loaded its graph")
        return choose_signature(built, spec.signature, spec.build)
    kind = type(built).__name__
    what = f"SavedModels, {spec.build!r} returned a {kind}"
    _refuse(spec, ("signature", "tags"), what)
    if hasattr(built, "_flatten_layers"):  # of Keras 3 or 2
        return LayerForm(built)
    return function_form(built, f"model.build {spec.build!r}")


def _refuse(spec: ModelSpec, options: Sequence[str], what: str) -> None:
    """Refuse options that other forms of model have.

    Raises:
      ConfigError: one is given.
    """
    for option in options:
        if getattr(spec, option) is not None:
            raise ConfigError(f"model.{option} is for {what}; leave it out")


@contextlib.contextmanager
def _afresh() -> Iterator[None]:
    """Begin the names and seeds of unnamed layers afresh for the length of a block.

    Otherwise a layer would be called `dense` in one process and `dense_1` in another
    that has built a model before. The caller's own random numbers are not changed.
    """
    import keras

    states = random.getstate(), np.random.get_state()
    policy = keras.config.dtype_policy()
    keras.utils.clear_session(free_memory=False)
    keras.config.set_dtype_policy(policy)
    keras.utils.set_random_seed(_SEED)
    if "tf_keras" in sys.modules:
        sys.modules["tf_keras"].backend.reset_uids()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
