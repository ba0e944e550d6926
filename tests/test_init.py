"""`featuretap init`: what it writes for data and a model runs."""

from __future__ import annotations

import gzip
import json
import tomllib
from pathlib import Path
from typing import Any

import keras
import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest
from forms import FORMS
from readers import CASES
from typer.testing import CliRunner

from pipeline import make_plan, run_plan
from pipeline.cli import app
from pipeline.config_file import parse_config
from pipeline.init.draft import Draft, draft_config
from pipeline.init.pixels import image_steps
from pipeline.init.questions import Questions
from pipeline.init.text import Lines
from pipeline.plan import Plan
from transforms.dtypes import Feature
from transforms.lookup import ConfigError
from transforms.models.keras_layers import LayerForm


def planned(draft: Draft, **keys: Any) -> Plan:
    """Plan what was written."""
    assert not draft.problem, f"{draft.problem}\n{draft.text}"
    assert not draft.unknown
    return make_plan(parse_config({**tomllib.loads(draft.text), **keys}))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


NEEDED = {
    "numpy, a file each": [],
    "user": ["source.reader=toolbox:VectorReader", "source.sizes=[30, 45, 25]"],
    "parquet, filtered": ['source.filter=[["keep", "=", 1]]'],
}
PLACES = {"user": "data/v.npy"}


@pytest.mark.parametrize("name", CASES)
def test_every_reader_is_found(here: Path, name: str) -> None:
    case = CASES[name]
    (here / "data").mkdir()
    case.write(here / "data")
    model = "toolbox:image_model" if name == "images" else "toolbox:dict_model"
    place = PLACES.get(name, "data")
    draft = draft_config(place, model, "out", NEEDED.get(name, []))
    plan = planned(draft, limit=20)
    assert plan.config.source.reader == case.source["reader"]
    run_plan(plan)
    assert len(pq.read_table("out")) == 20


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5:UserWarning")
@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_model_is_taken(here: Path, name: str) -> None:
    form = FORMS[name]
    form.prepare()
    CASES["parquet"].write(here)
    given = [
        f"model.{key}={form.model[key]!r}"
        for key in ("weights", "signature", "imports")
        if key in form.model
    ]
    draft = draft_config(
        "*.parquet", form.model.get("path") or form.model["build"], "out", given
    )
    plan = planned(draft)
    assert plan.rows == 100
    assert [*plan.config.model.inputs.values()] == ["vec"]
    assert {tap.address for tap in plan.taps} & {*form.addresses, ""}


ARCHITECTURES = {
    "MobileNet": "mobilenet",
    "MobileNetV2": "mobilenet_v2",
    "MobileNetV3Small": None,
    "ResNet50": "resnet",
    "ResNet50V2": "resnet_v2",
    "DenseNet121": "densenet",
    "VGG16": "vgg16",
    "Xception": "xception",
    "InceptionV3": "inception_v3",
    "EfficientNetB0": None,
    "EfficientNetV2B0": None,
    "ConvNeXtTiny": None,
}


@pytest.mark.parametrize(
    ("name", "nested"),
    [*((name, False) for name in ARCHITECTURES), ("ResNet50", True)],
)
def test_architecture_tells_how_pixels_are_scaled(name: str, nested: bool) -> None:
    base = getattr(keras.applications, name)(
        include_top=False, weights=None, input_shape=(96, 96, 3), pooling="avg"
    )
    head = keras.layers.Dense(2, name="head")
    model = (
        keras.Sequential([keras.Input((96, 96, 3)), base, head])
        if nested
        else keras.Model(base.input, head(base.output), name="mine")
    )
    form = LayerForm(model)
    steps = image_steps(
        "i", Feature("bytes"), [], form.declared()[0], form, Questions()
    )
    found = [step for step, _ in steps]
    assert found[0] == {"step": "decode_image", "feature": "i", "channels": 3}
    assert found[1] == {"step": "resize", "feature": "i", "size": [96, 96]}
    wanted = {"step": "keras_application", "feature": "i", "name": ARCHITECTURES[name]}
    assert found[2:] == ([wanted] if ARCHITECTURES[name] else [])


def jsonl(**columns: list[Any]) -> None:
    """Write rows of columns."""
    rows = [
        dict(zip(columns, row, strict=True))
        for row in zip(*columns.values(), strict=True)
    ]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def saved(inputs: Any, outputs: Any) -> str:
    """Save a model of some layers."""
    keras.Model(inputs, outputs).save("m.keras")
    return "m.keras"


def test_inputs_take_the_features_of_their_names(here: Path) -> None:
    jsonl(b=[[1.0, 2.0], [3.0, 4.0]], a=[[5.0, 6.0], [7.0, 8.0]])
    a, b = keras.Input((2,), name="a"), keras.Input((2,), name="b")
    model = saved([a, b], keras.layers.Dense(3)(keras.layers.Concatenate()([a, b])))
    plan = planned(draft_config("rows.jsonl", model, "out"))
    assert plan.config.model.inputs == {"a": "a", "b": "b"}


def test_an_input_of_text_takes_a_feature_of_text(here: Path) -> None:
    jsonl(number=[1, 2], title=["one", "two words"])
    words = keras.Input((1,), dtype="string", name="words")
    known = keras.layers.StringLookup(vocabulary=["one"], output_mode="multi_hot")
    model = saved(words, keras.layers.Dense(2)(known(words)))
    draft = draft_config("rows.jsonl", model, "out")
    assert planned(draft).config.model.inputs == {"words": "title"}


@pytest.mark.parametrize(
    ("length", "step"),
    [(None, {"lengths": [1, 2, 4, 8]}), (2, {"lengths": [2], "truncate": "end"})],
)
def test_rows_of_differing_length_are_filled_up(
    here: Path, length: int | None, step: dict[str, Any]
) -> None:
    jsonl(tokens=[[1, 2, 3], [4]])
    tokens = keras.Input((length,), dtype="int32", name="words")
    vectors = keras.layers.Embedding(9, 4)(tokens)
    model = saved(tokens, keras.layers.GlobalAveragePooling1D()(vectors))
    draft = draft_config("rows.jsonl", model, "out")
    steps = tomllib.loads(draft.text)["source"]["preprocess"]
    assert steps == [{"step": "pad", "feature": "tokens", **step}]
    planned(draft)


def test_pixels_of_arrays_get_the_channels_that_the_model_takes(here: Path) -> None:
    np.savez("digits.npz", x=np.zeros([5, 8, 8], np.uint8), y=np.arange(5))
    draft = draft_config("digits.npz", "toolbox:image_model", "out")
    source = planned(draft).config.source
    assert [step.step for step in source.preprocess] == ["reshape", "rescale"]
    assert [*source.keep] == ["y"]
    assert any("pixels from 0 to 1" in text for text in draft.guessed)


def test_labels_are_kept_and_no_part_of_the_input(here: Path) -> None:
    text = "".join(f"{i};{i / 8};{i / 4};{i % 2}\n" for i in range(5))
    Path("t.csv").write_text(f"user_id;height;width;label\n{text}")
    pair = keras.Input((2,), name="pair")
    draft = draft_config("t.csv", saved(pair, keras.layers.Dense(2)(pair)), "out")
    source = planned(draft).config.source
    assert (source.key, [*source.keep]) == ("user_id", ["label"])
    assert source.preprocess[0].options["of"] == ["height", "width"]
    assert source.options["delimiter"] == ";"


def test_a_table_without_a_header_gets_names(here: Path) -> None:
    Path("t.csv").write_text("1,0.5\n2,0.25\n")
    draft = draft_config("t.csv", "toolbox:dict_model", "out")
    assert tomllib.loads(draft.text)["source"]["columns"] == ["c0", "c1"]


def test_decimals_with_a_comma_are_found(here: Path) -> None:
    Path("t.csv").write_text(
        "id;a;b\n" + "".join(f"{i};{i},5;0,25\n" for i in range(9))
    )
    pair = keras.Input((2,), name="pair")
    draft = draft_config("t.csv", saved(pair, keras.layers.Dense(2)(pair)), "out")
    source = planned(draft).config.source
    assert (source.options["delimiter"], source.options["decimal"]) == (";", ",")
    assert source.options["features"]["b"] == "float64"
    assert any("decimals are written with a comma" in one for one in draft.guessed)


def test_a_file_that_ends_too_soon_is_named(here: Path) -> None:
    (here / "t.csv.gz").write_bytes(gzip.compress(b"id,a\n1,2\n" * 9)[:-12])
    with pytest.raises(
        ConfigError, match=r"can be read, got .*t\.csv\.gz.*ended before"
    ):
        draft_config("t.csv.gz", "toolbox:dict_model", "out")


def test_a_key_must_differ_in_every_row_that_was_read(here: Path) -> None:
    jsonl(id=[1, 1], vec=[[1.0] * 6, [2.0] * 6])
    draft = draft_config("rows.jsonl", "toolbox:dict_model", "out")
    assert planned(draft).config.source.key is None
    assert "without a key rows are called by file and number" in draft.text


def test_what_no_feature_fits_is_said_where_it_is_missing(here: Path) -> None:
    jsonl(vec=[[1.0, 2.0], [3.0, 4.0]])
    draft = draft_config("rows.jsonl", "toolbox:dict_model", "out")
    assert draft.unknown == ["which feature goes into input 'vec', float32 [6]"]
    assert "# not known: which feature goes into input 'vec'" in draft.text
    assert "must have shape [6], feature 'vec' has [2]" in draft.problem


def test_files_of_other_kinds_are_left_out_and_named(here: Path) -> None:
    CASES["parquet"].write(here)
    (here / "notes.txt").write_text("some rows")
    draft = draft_config(".", "toolbox:dict_model", "out")
    assert planned(draft).rows == 100
    assert "files of other kinds are left out (.txt)" in draft.guessed


def test_files_of_no_known_kind_are_refused(here: Path) -> None:
    (here / "notes.txt").write_text("some rows")
    with pytest.raises(ConfigError, match=r"with 'notes\.txt'; name it with --set"):
        draft_config(".", "toolbox:dict_model", "out")


def test_bad_rows_in_the_head_are_accepted_and_named(here: Path) -> None:
    lines = [json.dumps({"vec": [float(i)] * 6}) for i in range(10)]
    (here / "rows.jsonl").write_text("\n".join([*lines, "{broken", *lines]) + "\n")
    given = ['source.features.vec={dtype="float32", shape=[6]}']
    draft = draft_config("rows.jsonl", "toolbox:dict_model", "out", given)
    run_plan(planned(draft))
    assert len(pq.read_table("out")) == 20


def test_what_goes_in_is_filled_where_a_row_lacks_it(here: Path) -> None:
    text = "".join(f"{i},{'' if i % 5 == 0 else 0.5},1\n" for i in range(20))
    Path("t.csv").write_text(f"id,a,b\n{text}")
    pair = keras.Input((2,), name="pair")
    draft = draft_config("t.csv", saved(pair, keras.layers.Dense(2)(pair)), "out")
    source, errors = (tomllib.loads(draft.text)[one] for one in ("source", "errors"))
    assert source["preprocess"][0] == {"step": "fill", "feature": "a", "value": 0}
    assert [step["step"] for step in source["preprocess"]] == ["fill", "stack"]
    said = "4 of the first 20 rows lack 'a'; write here what stood there in training"
    assert said in draft.guessed
    assert errors["max_fraction"] == 0
    run_plan(planned(draft))
    assert len(pq.read_table("out")) == 20


@pytest.mark.parametrize(
    ("kind", "null", "value", "steps"),
    [
        ("list", [1.0, None], 0, ["fill"]),
        ("list", None, 0, ["fill"]),
        ("open", [1, None, 3], 0, ["fill", "pad"]),
        ("text", None, "", ["fill", "reshape"]),
    ],
)
def test_lists_and_text_are_filled(
    here: Path, kind: str, null: Any, value: Any, steps: list[str]
) -> None:
    values = {"list": [[1.0, 2.0]] * 8, "open": [[1], [2, 3]] * 4, "text": ["b"] * 8}
    words = keras.Input((1,), dtype="string", name="x")
    known = keras.layers.StringLookup(vocabulary=["b"], output_mode="multi_hot")
    tokens, pair = keras.Input((None,), dtype="int32", name="x"), keras.Input((2,))
    embedded = keras.layers.Embedding(9, 4)(tokens)
    models = {
        "list": (pair, keras.layers.Dense(2)(pair)),
        "open": (tokens, keras.layers.GlobalAveragePooling1D()(embedded)),
        "text": (words, keras.layers.Dense(2)(known(words))),
    }
    jsonl(x=[*values[kind], null], other=[*range(8), None])
    draft = draft_config("rows.jsonl", saved(*models[kind]), "out")
    written = tomllib.loads(draft.text)["source"]["preprocess"]
    assert written[0] == {"step": "fill", "feature": "x", "value": value}
    assert [step["step"] for step in written] == steps
    run_plan(planned(draft, limit=100))
    assert len(pq.read_table("out")) == 9


def test_rows_that_are_bad_of_what_does_not_go_in_are_no_reason_to_fill(
    here: Path,
) -> None:
    jsonl(vec=[[1.0] * 6] * 9, other=[[1, 2]] * 8 + [[1, None]])
    draft = draft_config("rows.jsonl", "toolbox:dict_model", "out")
    assert "fill" not in draft.text
    assert tomllib.loads(draft.text)["errors"]["max_fraction"] == 0
    given = ["source.preprocess=[]"]
    jsonl(vec=[[1.0] * 6] * 9 + [None], other=[1] * 10)
    draft = draft_config("rows.jsonl", "toolbox:dict_model", "out", given)
    assert tomllib.loads(draft.text)["errors"]["max_fraction"] == 0.2
    assert any("10% of the first rows are bad, or lack" in one for one in draft.guessed)


def test_of_features_that_fit_alike_the_name_decides(here: Path) -> None:
    jsonl(mask=[[1, 1], [1, 0]], ids=[[5, 6], [7, 8]])
    ids, mask = keras.Input((2,), name="input_ids"), keras.Input((2,), name="the_mask")
    model = saved([ids, mask], keras.layers.Dense(2)(keras.layers.Add()([ids, mask])))
    plan = planned(draft_config("rows.jsonl", model, "out"))
    assert plan.config.model.inputs == {"input_ids": "ids", "the_mask": "mask"}


def test_somebody_at_a_terminal_is_asked() -> None:
    with CliRunner().isolation(input="3\n2\n"):
        assert Questions(asks=True).choose("split", ["train", "test"]) == "test"
    questions = Questions()
    assert questions.choose("split", ["train", "test"]) == "train"
    assert questions.guessed == ["split: train (there is also test)"]
    assert questions.choose("key", ["id"]) == "id"
    assert len(questions.guessed) == 1


def test_a_folder_of_photos_is_a_table_after_two_commands(here: Path) -> None:
    for number in range(6):
        folder = here / "my photos" / ("cats" if number % 2 else "dogs")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (9, 7, 3), np.uint8)
        exif = PIL.Image.Exif()
        exif[0x0112] = 6 if number == 1 else 1
        PIL.Image.fromarray(pixels).save(folder / f"{number}.jpg", exif=exif)
    image = keras.Input((16, 16, 3))
    made = keras.layers.Conv2D(4, 3)(keras.layers.Rescaling(1 / 255)(image))
    saved(image, keras.layers.Dense(2)(keras.layers.GlobalMaxPooling2D()(made)))
    command = ["init", "--data", "my photos", "--model", "m.keras", "--yes"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "guessed: pixels are given from 0 to 255, since the model" in result.stdout
    assert "guessed: 1 of 6 images looked at are stored turned" in result.stdout
    assert "orient = true" in Path("job.toml").read_text()
    assert "featuretap run job.toml\n" in result.stdout
    result = CliRunner().invoke(app, ["run", "job.toml"])
    assert result.exit_code == 0, result.output
    table = pq.read_table("out/job")
    assert sorted(table["label"].to_pylist()) == ["cats"] * 3 + ["dogs"] * 3
    before = Path("job.toml").read_text()
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert "--out must name a new file, 'job.toml' exists" in result.stderr
    assert Path("job.toml").read_text() == before


def test_photos_stored_turned_are_found_all_over_a_folder(here: Path) -> None:
    (here / "photos").mkdir()
    pixels = PIL.Image.fromarray(np.zeros([9, 7, 3], np.uint8))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    for number in range(200):
        turned = {"exif": exif} if number >= 150 else {}
        pixels.save(here / "photos" / f"{number:03}.jpg", **turned)
    image = keras.Input((8, 8, 3))
    model = saved(image, keras.layers.Flatten()(image))
    draft = draft_config("photos", model, "out")
    found = "12 of 50 images looked at are stored turned: they are turned upright"
    assert found in draft.guessed
    (step, *_) = tomllib.loads(draft.text)["source"]["preprocess"]
    assert step["orient"] is True
    assert "shrink_to" not in draft.text


def test_a_faster_way_to_decode_large_photos_is_named(here: Path) -> None:
    (here / "photos").mkdir()
    PIL.Image.new("RGB", (16, 16)).save(here / "photos" / "a.png")
    PIL.Image.new("RGB", (16, 17)).save(here / "photos" / "b.jpg")
    image = keras.Input((8, 8, 3))
    model = saved(image, keras.layers.Flatten()(image))
    text = " ".join(draft_config("photos", model, "out").text.split("# ")).split()
    assert "shrink_to = [8, 8] decodes large photos faster" in " ".join(text)


def test_what_was_guessed_as_json(here: Path) -> None:
    CASES["parquet"].write(here)
    command = ["init", "--data", "*.parquet", "--model", "toolbox:dict_model"]
    result = CliRunner().invoke(app, [*command, "--out", "a.toml", "--json"])
    document = json.loads(result.stdout)
    assert document["config"] == "a.toml"
    assert document["problem"] is None
    assert ["'id' is the key" in text for text in document["guessed"]] == [True]


def test_a_config_reads_back_as_it_was_meant() -> None:
    lines = Lines()
    lines.section("[a]")
    values = {"x y": 'quo"te\\ \x7f ü 😀\n', "list": [1, 0.5, True], "m": {"b.c": "d"}}
    for name, value in values.items():
        lines.put(name, value, "a comment " * 20)
    assert tomllib.loads(lines.text()) == {"a": values}
    assert max(map(len, lines.text().splitlines())) <= 88
