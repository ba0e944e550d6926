"""TFDS: features inside of others, and those that are left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import Job
from readers import outcomes

from transforms.config import SourceSpec
from transforms.lookup import ConfigError
from transforms.sources.readers import make_source

features = tfds.features


def prepare(
    directory: Path, given: dict[str, Any], examples: list[dict[str, Any]]
) -> dict[str, Any]:
    """Prepare a dataset of these features; gives its source."""
    with tfds.core.registered.skip_registration():

        class Odd(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self) -> Any:
                made = features.FeaturesDict(given)
                return tfds.core.DatasetInfo(builder=self, features=made)

            def _split_generators(self, _: Any) -> Any:
                return {"train": self._generate_examples()}

            def _generate_examples(self) -> Any:
                yield from enumerate(examples)

    Odd(data_dir=directory, file_format="array_record").download_and_prepare()
    return {"reader": "tfds", "name": "odd", "data_dir": str(directory)}


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A dataset of every kind of nesting."""
    box = features.BBox(0.25, 0.5, 0.75, 1.0)
    given = {
        "image": features.Image(shape=(None, None, 1), encoding_format="png"),
        "image/filename": features.Text(),
        "image/id": np.int64,
        "objects": features.Sequence(
            {"bbox": features.BBoxFeature(), "label/id": np.int64}
        ),
        "translation": features.Translation(["en", "de"]),
        "words": features.Sequence(features.Text()),
        "names": features.Sequence(np.str_, length=2),
        "about": {"inner": {"text": features.Text(), "n": np.int32}},
        "pairs": features.Sequence({"two": features.Translation(["a", "b"])}),
        "languages": features.TranslationVariableLanguages(),
        "sentences": features.Sequence(features.Sequence(features.Text())),
        "steps": features.Dataset({"action": np.float32, "text": features.Text()}),
        "vec": features.Tensor(shape=(6,), dtype=np.float32),
    }
    examples = [
        {
            "image": np.full((2 + i, 3, 1), i, np.uint8),
            "image/filename": f"{i}.png",
            "image/id": 2**40 + i,
            "objects": [{"bbox": box, "label/id": 7}] * i,
            "translation": {"en": f"cat {i}", "de": f"Kätzchen {i}"},
            "words": ["ä", "b"][:i],
            "names": [f"n{i}", "m"],
            "about": {"inner": {"text": f"t{i}", "n": i}},
            "pairs": [{"two": {"a": "x", "b": "y"}}] * i,
            "languages": {"en": "one", "fr": ["un", "une"]},
            "sentences": [["a"] * i, ["b"]],
            "steps": [{"action": 1.0, "text": "go"}] * (i + 1),
            "vec": np.full(6, 0.5, np.float32),
        }
        for i in range(3)
    ]
    return prepare(tmp_path_factory.mktemp("odd"), given, examples)


def test_features_inside_of_others_have_names(odd: dict[str, Any]) -> None:
    found = make_source(SourceSpec(**odd)).describe()
    assert {name: (f.dtype, f.shape) for name, f in found.items()} == {
        "tfds_id": ("string", ()),
        "image": ("uint8", (None, None, 1)),
        "image/filename": ("string", ()),
        "image/id": ("int64", ()),
        "objects/bbox": ("float32", (None, 4)),
        "objects/label/id": ("int64", (None,)),
        "translation/en": ("string", ()),
        "translation/de": ("string", ()),
        "words": ("string", (None,)),
        "names": ("string", (2,)),
        "about/inner/text": ("string", ()),
        "about/inner/n": ("int32", ()),
        "pairs/two/a": ("string", (None,)),
        "pairs/two/b": ("string", (None,)),
        "languages/language": ("string", (None,)),
        "languages/translation": ("string", (None,)),
        "vec": ("float32", (6,)),
    }


EXPECTED = {
    "image/filename": ["0.png", "1.png", "2.png"],
    "objects/bbox": [[], [[0.25, 0.5, 0.75, 1]], [[0.25, 0.5, 0.75, 1]] * 2],
    "translation/de": ["Kätzchen 0", "Kätzchen 1", "Kätzchen 2"],
    "words": [[], ["ä".encode()], ["ä".encode(), b"b"]],
    "names": [[b"n0", b"m"], [b"n1", b"m"], [b"n2", b"m"]],
    "pairs/two/b": [[], [b"y"], [b"y"] * 2],
    "languages/translation": [[b"one", b"un", b"une"]] * 3,
}


@pytest.mark.parametrize("name", EXPECTED)
def test_features_inside_of_others_are_read(name: str, odd: dict[str, Any]) -> None:
    found = [
        value.tolist() if isinstance(value, np.ndarray) else value
        for value in outcomes(name, **odd)
    ]
    assert sorted(found) == EXPECTED[name]


def test_what_is_left_out_is_said(odd: dict[str, Any], tmp_path: Path) -> None:
    nested, uneven = make_source(SourceSpec(**odd)).notes()
    assert nested.startswith("feature 'steps' of the dataset is left out: it is a nes")
    assert uneven.startswith("feature 'sentences' of the dataset is left out: it has")
    job = Job(tmp_path / "out", odd)
    with pytest.raises(ConfigError, match="'steps' is there: it is a nested dataset"):
        job.plan(source={"key": "image/id", "keep": ["steps"]})


def test_features_beside_a_nested_dataset_make_a_table(
    odd: dict[str, Any], tmp_path: Path
) -> None:
    names = ["image/filename", "objects/label/id", "translation/en", "words"]
    job = Job(tmp_path / "out", odd)
    table = job.run(source={"key": "image/id", "keep": names})
    assert sorted(table["image_filename"].to_pylist()) == EXPECTED["image/filename"]
    assert sorted(table["objects_label_id"].to_pylist()) == [[], [7], [7, 7]]
    assert sorted(table["words"].to_pylist()) == [[], ["ä"], ["ä", "b"]]


def test_a_dataset_of_nothing_but_steps_has_its_key(tmp_path: Path) -> None:
    steps = {"steps": features.Dataset({"action": np.float32})}
    source = prepare(tmp_path, steps, [{"steps": [{"action": 1.0}]}] * 2)
    assert list(make_source(SourceSpec(**source)).describe()) == ["tfds_id"]
    assert len(outcomes("tfds_id", **source)) == 2
