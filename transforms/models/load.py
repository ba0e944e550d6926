"""Load a model once per process, whatever form it comes in."""

from __future__ import annotations

import contextlib
import hashlib
import random
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from transforms import device, storage
from transforms.lookup import ConfigError, import_module, resolve, source_digest
from transforms.models.base import Model, ModelForm, Shape
from transforms.models.function import function_form
from transforms.models.layers import LayerForm, explain_sequential, whole_tracebacks
from transforms.models.saved import SavedForm, choose_signature, load_saved
from transforms.models.trust import check_layers, check_saved, stored_json
from transforms.models.wiring import declared_features, wire
from transforms.spec import ModelSpec

_SEED = 0
_CAUSE_LENGTH = 400
_CONVERT = (
    "install tf_keras to use it as it is, or convert it where it works: load it with"
    " tf_keras and save it with model.export('name'), a SavedModel directory"
)
_models: dict[str, Model] = {}


def load_model(
    spec: ModelSpec, features: Mapping[str, tuple[Shape, str]] | None
) -> Model:
    """Load or build the model, wire its inputs to features, and set its precision.

    Args:
      spec: the config's `[model]`.
      features: what preprocessing makes, `{name: (shape without batch, dtype)}`; None
        takes what the model declares.

    Raises:
      ConfigError: the model cannot be had as asked for, or does not fit the features.
    """
    device.configure()
    for module in spec.imports:
        import_module(module, "model.imports")
    if (spec.path is None) == (spec.build is None):
        raise ConfigError(
            "model must have either path (a saved model) or build (a function), got"
            f" {'both' if spec.path else 'neither'}"
        )
    with contextlib.ExitStack() as stack:
        files = {
            uri: stack.enter_context(_local(uri, f"model.{option}"))
            for option, uri in (("path", spec.path), ("weights", spec.weights))
            if uri
        }
        form = _load(spec, files[spec.path]) if spec.path else _build(spec)
        declared = form.declared()
        if features is None:
            features = declared_features(spec, declared)
        inputs = wire(spec, declared, features)
        form.build(inputs)
        if spec.weights:
            _load_weights(form, files[spec.weights], spec)
        if spec.precision:
            _set_precision(form, spec.precision)
        digest = _digest(spec, form, files.values())
    batch = {one.shape[0] for one in declared if one.shape} - {None}
    return Model(form, inputs, batch.pop() if batch else None, digest)


def cached_model(
    spec: ModelSpec,
    features: Mapping[str, tuple[Shape, str]],
    digest: str | None = None,
) -> Model:
    """Load a model, or give the one that this process holds already.

    Args:
      spec: the config's `[model]`.
      features: what preprocessing makes.
      digest: that the model must have, as planned; None takes any.

    Raises:
      RuntimeError: the model here has another digest.
    """
    held = _models.get(f"{digest} {spec.model_dump_json()}")
    if held is not None and wire(spec, held.form.declared(), features) == held.inputs:
        return held
    model = load_model(spec, features)
    if digest not in (None, model.digest):
        raise RuntimeError(
            "this worker must load the planned model\n"
            f"  planned: {digest}\n  here:    {model.digest}\n"
            "give all workers the same model files and code; a model.build function"
            " must give the same weights each time, or take them from model.weights"
        )
    _models.clear()
    _models[f"{model.digest} {spec.model_dump_json()}"] = model
    return model


def _digest(spec: ModelSpec, form: ModelForm, files: Iterable[Path]) -> str:
    """Hash what decides what a model computes: code, files, weights.

    A model that `build` makes is hashed with the values of its weights, so that a build
    that comes out differently elsewhere is noticed rather than mixed in.
    """
    digest = hashlib.sha256()
    names = list(spec.imports) + ([spec.build] if spec.build else [])
    digest.update(source_digest(names).encode())
    digest.update(f"{spec.build} {spec.signature}".encode())
    for path in files:
        for file in _stored(path):
            digest.update(f"{str(file)[len(str(path)) :]}\0".encode())
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    if spec.build:
        for variable in form.variables():
            name = getattr(variable, "path", variable.name)
            digest.update(f"{name} {variable.shape} {variable.dtype}".encode())
            digest.update(variable.numpy().tobytes())
    return digest.hexdigest()


def _stored(path: Path) -> list[Path]:
    """The files of a model: a file, all in a directory, or all of a checkpoint."""
    if path.is_file():
        return [path]
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    return sorted(path.parent.glob(f"{path.name}.*"))


@contextlib.contextmanager
def _local(uri: str, option: str) -> Iterator[Path]:
    """Give a local path to a file, a directory or a checkpoint from anywhere."""
    uri = uri.rstrip("/")
    fs, path = storage.filesystem(uri)
    whole = fs.exists(path)
    if not whole and not fs.exists(f"{path}.index"):
        raise ConfigError(
            f"{option} must be an existing file, got {uri!r} in the working directory"
            f" {str(Path.cwd())!r}"
        )
    local = storage.local_path(uri)
    if local is not None:
        yield local
        return
    with tempfile.TemporaryDirectory(prefix="featuretap-") as directory:
        copy = Path(directory) / uri.rpartition("/")[2]
        if whole:
            fs.get(path, str(copy), recursive=fs.isdir(path))
        else:
            fs.get(fs.glob(f"{path}.*"), directory)
        yield copy


def _load(spec: ModelSpec, path: Path) -> ModelForm:
    """Load a stored model by what it is: its content, then its name."""
    uri = str(spec.path)
    if (path / "saved_model.pb").exists():
        if not spec.trusted:
            check_saved(path, uri)
        return load_saved(path, spec.signature, uri)
    if spec.signature:
        raise ConfigError(
            f"model.signature is for SavedModel directories, {uri!r} is none;"
            " leave it out"
        )
    if (path / "config.json").exists() or path.suffix in (".keras", ".h5", ".hdf5"):
        if not spec.trusted:
            check_layers(path, uri)
        return _load_layers(path, uri, trusted=spec.trusted)
    raise ConfigError(
        "model.path must be a .keras or .h5 file or a SavedModel directory, got"
        f" {uri!r}; save the model with model.save('name.keras'), or use model.build"
        " and model.weights"
    )


def _load_layers(path: Path, uri: str, *, trusted: bool) -> LayerForm:
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
    """The version of Keras that saved a model; None if it is no whole model."""
    if path.suffix in (".h5", ".hdf5"):
        import h5py

        try:
            with h5py.File(path) as file:
                if "model_config" not in file.attrs:
                    return None
                return str(file.attrs.get("keras_version", "1."))
        except OSError:
            return ""  # broken: loading says how
    try:
        return str(stored_json(path, "metadata.json")["keras_version"])
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return ""


def _tf_keras() -> Any:
    """The package of Keras 2, None where it is not installed."""
    try:
        import tf_keras
    except ImportError:
        return None
    return tf_keras


def _cause(error: Exception) -> str:
    """The part of a Keras loading error that says why, without whole configs."""
    text = str(error).rpartition("Exception encountered: ")[2]
    return text.partition(" Full object config")[0].strip().rstrip(".")


def _build(spec: ModelSpec) -> ModelForm:
    assert spec.build is not None
    if ":" not in spec.build:
        raise ConfigError(
            f"model.build must be 'package.module:function', got {spec.build!r}"
        )
    function = resolve(spec.build, {}, "model.build")
    try:
        with _afresh(), whole_tracebacks(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            built = function()
    except Exception as error:
        raise ConfigError(
            explain_sequential(error)
            or f"model.build must give a model, {spec.build!r} failed with"
            f" {type(error).__name__}: {error}"
        ) from error
    if hasattr(built, "signatures"):
        return choose_signature(built, spec.signature, spec.build)
    if spec.signature:
        raise ConfigError(
            f"model.signature is for SavedModels, {spec.build!r} returned a"
            f" {type(built).__name__}; leave it out"
        )
    if hasattr(built, "_flatten_layers"):  # of Keras 3 or 2
        return LayerForm(built)
    return function_form(built, list(spec.inputs), f"model.build {spec.build!r}")


@contextlib.contextmanager
def _afresh() -> Iterator[None]:
    """Count the names and seeds of unnamed layers from the start.

    Otherwise a layer would be `dense` in one process and `dense_1` in another that has
    built something before. The random numbers of whoever calls go on as they were.
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


def _load_weights(form: ModelForm, path: Path, spec: ModelSpec) -> None:
    try:
        if Path(f"{path}.index").exists():
            _restore(form.model, str(path))
        elif path.suffix == ".index" or path.suffix.startswith(".data-"):
            raise ValueError(f"name the checkpoint without {path.suffix!r}")
        elif not isinstance(form, LayerForm):
            raise ValueError("only a TensorFlow checkpoint can go into a tf.Module")
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                warnings.filterwarnings("error", ".*freshly-initialized weights")
                form.model.load_weights(str(path))
    except Exception as error:
        cause = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConfigError(
            f"model.weights must fit the model that {spec.build or spec.path!r} gives,"
            f" got {spec.weights!r}: {cause[:_CAUSE_LENGTH]}"
        ) from error


def _restore(model: Any, prefix: str) -> None:
    """Restore a checkpoint of a model, or of something that holds it as `model`.

    What else the checkpoint holds, such as an optimizer, is passed over; a variable of
    the model that it does not hold is an error.
    """
    import tensorflow as tf

    names = tf.train.load_checkpoint(prefix).get_variable_to_shape_map()
    whole, part = tf.train.Checkpoint(model), tf.train.Checkpoint(model=model)
    held = any(name.startswith("model/") for name in names)
    for root, last in ((part, False), (whole, True)) if held else ((whole, True),):
        status = root.read(prefix).expect_partial()
        try:
            status.assert_existing_objects_matched()
        except AssertionError:
            if last:
                raise
        else:
            return


def _set_precision(form: ModelForm, precision: str) -> None:
    if isinstance(form, LayerForm):
        form.set_precision(precision)
    elif precision != "float32":
        kind = "SavedModels" if isinstance(form, SavedForm) else "functions"
        raise ConfigError(
            f"model.precision can be set for models of Keras 3, got {precision!r};"
            f" {kind} compute in the precision they were made with: leave it out"
        )
