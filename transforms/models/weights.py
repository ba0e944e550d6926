"""Load weights into a model, and set the precision that it computes in."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from transforms.config import ModelSpec
from transforms.lookup import ConfigError
from transforms.models.keras_layers import LayerForm
from transforms.models.model import ModelForm
from transforms.models.saved_model import SavedForm
from transforms.models.stored_files import check_files

_CAUSE_LENGTH = 400


def load_weights(form: ModelForm, path: Path, spec: ModelSpec) -> None:
    """Load a weights file or a TensorFlow checkpoint into a model that is built.

    Args:
      form: the model, which must have all its variables.
      path: local path of the file, or of the checkpoint without its suffix.
      spec: the config's `[model]`, for errors.

    Raises:
      ConfigError: the weights do not fit the model, or the file is not trusted and
        reaches for other files or expands beyond measure.
    """
    if not spec.trusted:
        check_files(path, "model.weights", str(spec.weights))
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
    """Restore a checkpoint of a model, or of an object with the model as its `model`.

    Whatever else the checkpoint holds, such as an optimizer, is ignored.

    Raises:
      AssertionError: the checkpoint lacks a variable of the model.
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


def set_precision(form: ModelForm, precision: str) -> None:
    """Make every layer compute in another precision.

    Raises:
      ConfigError: the precision of this form of model cannot be set.
    """
    if isinstance(form, LayerForm):
        form.set_precision(precision)
    else:
        kind = "SavedModels" if isinstance(form, SavedForm) else "functions"
        raise ConfigError(
            f"model.precision can be set for models of Keras 3, got {precision!r};"
            f" {kind} compute in the precision they were made with: leave it out"
        )
