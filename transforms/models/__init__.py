"""Load a model of any form once per process, and know what is inside it."""

from transforms.models.base import Declared, Input, Model, ModelForm, Recorded
from transforms.models.load import cached_model, load_model

__all__ = [
    "Declared",
    "Input",
    "Model",
    "ModelForm",
    "Recorded",
    "cached_model",
    "load_model",
]
