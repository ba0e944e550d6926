"""Does XLA compile models with their taps, and is what it cannot compile refused?"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import forms
import numpy as np
import pytest
from conftest import Job, parity_of, stacked, vectors

from transforms.config import ModelSpec, TapSpec
from transforms.lookup import ConfigError
from transforms.models.load import load_model
from transforms.taps.compile import CompiledTaps, compile_taps
from transforms.taps.language import choose
from transforms.taps.survey import list_activations


@pytest.mark.parametrize(
    "name",
    ["`.keras`, functional", "SavedModel, from `tf.Module`", "`build`, function"],
)
def test_xla_gives_the_same_values_to_rounding(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    form = forms.FORMS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of legacy formats
        form.prepare()
    taps = [
        {"path": address, "column": column}
        for address, column in zip(form.addresses, "abc", strict=True)
    ]
    table = job.run(model={"build": None, **form.model, "jit": True}, taps=taps)
    for column, values in zip("abc", forms.expected(vectors()), strict=True):
        np.testing.assert_allclose(stacked(table[column]), values, atol=1e-5)


def test_its_table_is_certified_as_any_other(job: Job) -> None:
    job.run(model={"jit": True})
    assert parity_of(str(job.table), 10).passed


def compiled_of(**model: Any) -> CompiledTaps:
    loaded = load_model(
        ModelSpec(build="toolbox:dict_model", **model), {"vec": ((6,), "float32")}
    )
    taps = choose([TapSpec(path="head")], list_activations(loaded))
    return compile_taps(loaded, taps, 4)


def test_it_is_xla_that_compiles_and_only_if_asked() -> None:
    def must_compile(compiled: CompiledTaps) -> bool:
        return bool(compiled._function.function_def.attr["_XlaMustCompile"].b)

    assert must_compile(compiled_of(jit=True))
    assert not must_compile(compiled_of())


@pytest.mark.parametrize(
    ("build", "tap", "reason"),
    [
        ("everything", "every:text", "where text goes in or comes out, as 'c' is"),
        ("lookup", "embed", "where text goes in or comes out, as 'text' is"),
        ("unusual", "", r"XLA cannot compile them: BesselI0 \(No registered"),
    ],
)
def test_what_xla_cannot_compile_is_refused_by_planning(
    job: Job, build: str, tap: str, reason: str
) -> None:
    model = {"build": f"architectures:{build}", "jit": True}
    taps = [{"path": tap, "column": "c"}]
    with pytest.raises(ConfigError, match=rf"model\.jit must be false .*{reason}"):
        job.plan(model=model, taps=taps)
    job.plan(model={**model, "jit": False}, taps=taps)


def test_batches_of_other_sizes_are_filled_up_with_xla_too() -> None:
    compiled = compiled_of(jit=True)
    vec = vectors(4)
    whole = compiled({"vec": vec})["head"]
    np.testing.assert_allclose(compiled({"vec": vec[:3]})["head"], whole[:3], atol=1e-6)
