"""Load a model of any form, once for each process."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from transforms import device
from transforms.config import ModelSpec
from transforms.lookup import ConfigError, import_module, source_digest
from transforms.models.explain import explain_unbuilt
from transforms.models.forms import build_form, load_form
from transforms.models.inputs import (
    Input,
    Shape,
    declared_features,
    wire,
    wired_spec,
)
from transforms.models.model import Model, ModelForm
from transforms.models.weights import load_weights, set_precision
from transforms.sources.staging import local_copies

_models: dict[str, Model] = {}


def load_model(
    spec: ModelSpec,
    features: Mapping[str, tuple[Shape, str]] | None,
    apart: Collection[str] = (),
) -> Model:
    """Load or build the model, wire its inputs to features, and set its precision.

    Args:
      spec: the config's `[model]`.
      features: features after preprocessing, `{name: (shape without batch, dtype)}`;
        None takes the features that the model declares.
      apart: features that are not for the model unless `model.inputs` names them.

    Raises:
      ConfigError: the model cannot be loaded as the config asks for, or does not fit
        the features.
    """
    device.configure()
    for module in spec.imports:
        import_module(module, "model.imports")
    if (spec.path is None) == (spec.build is None):
        raise ConfigError(
            "model must have either path (a saved model) or build (a function), got"
            f" {'both' if spec.path else 'neither'}"
        )
    with local_copies(spec.files) as files:
        form = load_form(spec, files[spec.path]) if spec.path else build_form(spec)
        declared = form.declared()
        if features is None:
            features = declared_features(spec, declared)
        inputs = _wired(spec, form, features, apart)
        form.build(inputs)
        if spec.weights:
            load_weights(form, files[spec.weights], spec)
        if spec.precision:
            set_precision(form, spec.precision)
        digest = _digest(spec, form, files.values())
    batch = {one.shape[0] for one in declared if one.shape} - {None}
    return Model(form, inputs, batch.pop() if batch else None, digest, spec.jit)


def cached_model(
    spec: ModelSpec,
    features: Mapping[str, tuple[Shape, str]],
    digest: str | None = None,
    apart: Collection[str] = (),
) -> Model:
    """Load a model, or give the one that this process holds already.

    Args:
      spec: the config's `[model]`.
      features: features after preprocessing, `{name: (shape without batch, dtype)}`.
      digest: the planned model's digest; None takes any model.
      apart: features that are not for the model unless `model.inputs` names them.

    Raises:
      ConfigError: the model cannot be loaded, or does not fit the features.
      RuntimeError: the model that this process has loaded has another digest.
    """
    held = _models.get(f"{digest} {spec.model_dump_json()}")
    if held is not None and wire(spec, held.form.declared(), features) == held.inputs:
        return held
    model = load_model(spec, features, apart)
    if digest not in (None, model.digest):
        raise RuntimeError(
            "this worker must load the planned model\n"
            f"  planned: {digest}\n  here:    {model.digest}\n"
            "give all workers the same model files and code; a model.build function"
            " must give the same weights each time, or take them from model.weights"
        )
    _models.clear()
    wired = wired_spec(spec, model.inputs)
    _models[f"{model.digest} {wired.model_dump_json()}"] = model
    return model


def _wired(
    spec: ModelSpec,
    form: ModelForm,
    features: Mapping[str, tuple[Shape, str]],
    apart: Collection[str],
) -> tuple[Input, ...]:
    """Wire the inputs; where that fails, a model that takes nothing is the cause.

    Raises:
      ConfigError: it is not clear what goes in, or nothing can.
    """
    declared = form.declared()
    try:
        return wire(spec, declared, features, apart)
    except ConfigError as error:
        if any(one.shape is None for one in declared):
            names = sorted(features, key=apart.__contains__)
            if fault := explain_unbuilt(form.model, (features[name] for name in names)):
                raise ConfigError(fault) from error
        raise


def _digest(spec: ModelSpec, form: ModelForm, files: Iterable[Path]) -> str:
    """Hash all that a model's results depend on: code, files, weights.

    The hash of a model that `model.build` makes covers the values of its weights, so
    that a build that gives other weights on another machine is refused there.
    """
    digest = hashlib.sha256()
    names = list(spec.imports) + ([spec.build] if spec.build else [])
    digest.update(source_digest(names).encode())
    digest.update(f"{spec.build} {spec.signature} {spec.tags}".encode())
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
    """List the files of a model: one, all in a directory, or those of a checkpoint."""
    if path.is_file():
        return [path]
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    return sorted(path.parent.glob(f"{path.name}.*"))
