"""The likeliest mistakes of a first hour, and what is said of each.

A message says what is wrong, where, and what to do; misuse ends with exit code 2, and
nothing is written.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import keras
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pipeline.cli import app

CONFIG = """
[source]
reader = "parquet"
path = "rows.parquet"
key = "id"

[model]
build = "toolbox:dict_model"

[[taps]]
path = "features:activation_1"

[table]
path = "table"
"""
BUILD = 'build = "toolbox:dict_model"'
FEATURES = "\nfeatures = { id = { dtype = 'int64' } }"


@keras.saving.register_keras_serializable("mistakes")
class Doubled(keras.layers.Layer):
    """A layer of somebody's own."""

    def call(self, inputs: Any) -> Any:
        return inputs * 2


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with data and models."""
    path = tmp_path_factory.mktemp("mistakes")
    vectors = pa.FixedSizeListArray.from_arrays(pa.array([0.5] * 24, pa.float32()), 6)
    rows = {"id": [1, 2, 3, 4], "vec": vectors, "name": ["a", "b", "c", "d"]}
    pq.write_table(pa.table(rows), path / "rows.parquet")
    (path / "readme.txt").write_text("some rows")
    (path / "empty").mkdir()
    model = keras.Sequential([keras.Input((6,)), Doubled(name="doubled")])
    model.save(path / "custom.keras")
    keras.saving.get_custom_objects().pop("mistakes>Doubled")
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2, name="dense")])
    model.save_weights(path / "only.weights.h5")
    (path / "cut.keras").write_bytes(b"PK\3\4 and no more")
    return path


@pytest.fixture
def here(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The prepared directory, as the working directory."""
    monkeypatch.chdir(prepared)
    return prepared


def ask(command: str, config: str | bytes, *arguments: str) -> tuple[int, str]:
    """Give a command a config; its exit code and what it says, in one line each."""
    if isinstance(config, str):
        config = config.encode()
    Path("job.toml").write_bytes(config)
    result = CliRunner().invoke(app, [command, "job.toml", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stderr


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        pytest.param(
            "reader =",
            "raeder =",
            "source.reader is required; nearest is 'raeder'",
            id="typo in a key that the reader might know",
        ),
        pytest.param(
            BUILD,
            f"batchrows = 4\n{BUILD}",
            "model.batchrows is not a known key; nearest is 'batch_rows'",
            id="typo in a key",
        ),
        pytest.param(
            "[source]",
            "[sorce]",
            "sorce is not a known key; nearest is 'source'",
            id="typo in a section",
        ),
        pytest.param(
            "activation_1",
            "activaton_1",
            "taps[0].path must match an activation, got 'features:activaton_1'; nearest"
            " are 'features:activation_1'",
            id="typo in a tap",
        ),
        pytest.param(
            '"parquet"',
            '"parqet"',
            "source.reader must be one of array_record, audio, csv",
            id="typo in a reader",
        ),
        pytest.param(
            'key = "id"',
            'key = "ident"',
            "source.key must name a feature of the source, got 'ident'; nearest is"
            " 'id' (features: id, name, vec)",
            id="typo in a feature",
        ),
        pytest.param(
            'key = "id"',
            'preprocess = ["resiz"]',
            "source.preprocess[0].step must be one of cast, ",
            id="typo in a step",
        ),
        pytest.param(
            '"features:activation_1"',
            '"features:activation_1"\nreduce = "meen(axis=1)"',
            "taps[0].reduce[0] must be one of first, flatten",
            id="typo in a reduction",
        ),
        pytest.param(
            "toolbox:dict_model",
            "toolbox:dict_modle",
            "model.build must name something in module 'toolbox', got 'dict_modle';"
            " nearest is 'dict_model'",
            id="typo in a function",
        ),
        pytest.param(
            "toolbox:dict_model",
            "tolbox:dict_model",
            "model.build must name an importable module, got 'tolbox'; modules are"
            " looked for in the working directory '",
            id="module that is not there",
        ),
        pytest.param(
            '"rows.parquet"',
            '"row.parquet"',
            "source.path must match at least one file, got 'row.parquet', which matches"
            " none; nearest is 'rows.parquet'; relative paths start at the working",
            id="wrong path",
        ),
        pytest.param(
            '"rows.parquet"',
            '"$HOME/rows.parquet"',
            "which matches none; variables such as $HOME are not replaced",
            id="variable in a path",
        ),
        pytest.param(
            '"rows.parquet"',
            r"'data\rows.parquet'",
            "which matches none; write / between folders",
            id="backslash in a path",
        ),
        pytest.param(
            '"rows.parquet"',
            '"empty"',
            "source.path must match at least one file",
            id="folder without files",
        ),
        pytest.param(
            '"rows.parquet"',
            '"readme.txt"',
            "source.path must hold Parquet files, cannot read the footer of '",
            id="file of another format",
        ),
        pytest.param(
            '"rows.parquet"',
            '"s3x://bucket/rows.parquet"',
            "paths must be of a filesystem that is installed, got 's3x://bucket/rows",
            id="unknown filesystem",
        ),
        pytest.param(
            BUILD,
            'path = "custom.kera"',
            "model.path must be an existing file, got 'custom.kera' in the working"
            " directory '{here}'; nearest is 'custom.keras'",
            id="wrong path of a model",
        ),
        pytest.param(
            BUILD,
            'path = "cut.keras"',
            "model.path must be a model that Keras can load, got 'cut.keras'",
            id="model file cut short",
        ),
        pytest.param(
            BUILD,
            'path = "only.weights.h5"',
            "'only.weights.h5' holds weights only; give it as model.weights, and the"
            " function that makes the model as model.build",
            id="weights without a model",
        ),
        pytest.param(
            BUILD,
            'path = "custom.keras"',
            "Doubled, which is not built in (list the modules that register custom"
            " layers in model.imports)",
            id="missing custom object",
        ),
        pytest.param(
            BUILD,
            f'inputs = {{ vec = "name" }}\n{BUILD}',
            "model input 'vec' must have shape [6], feature 'name' has []; reshape or"
            " resize it in source.preprocess",
            id="wrong shape",
        ),
        pytest.param(
            BUILD,
            f'inputs = {{ vector = "vec" }}\n{BUILD}',
            "model.inputs must name inputs of the model, got 'vector'",
            id="input that the model has not",
        ),
        pytest.param(
            BUILD,
            f"batch_rows = 0\n{BUILD}",
            "model.batch_rows: input should be greater than 0, got 0",
            id="batches of nothing",
        ),
        pytest.param(
            "[[taps]]",
            "[taps]",
            "taps must be a list of sections, each of them begins [[taps]], got",
            id="one bracket around taps",
        ),
        pytest.param(
            BUILD,
            f'imports = "toolbox"\n{BUILD}',
            "model.imports must be a list, in square brackets, got 'toolbox'",
            id="text for a list",
        ),
        pytest.param(
            '"rows.parquet"',
            "rows.parquet",
            "at line 4, column 8), in 'path = rows.parquet'; text must stand in quotes",
            id="text without quotes",
        ),
        pytest.param(
            '"rows.parquet"',
            r'"C:\Users\me\rows.parquet"',
            r"write paths with \ in single quotes, or with /",
            id="backslash in double quotes",
        ),
    ],
)
def test_mistake_in_the_config(here: Path, old: str, new: str, said: str) -> None:
    assert old in CONFIG
    code, text = ask("plan", CONFIG.replace(old, new, 1))
    assert code == 2
    assert said.replace("{here}", str(here)) in text
    assert not (here / "table").exists()


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(CONFIG.replace("\n", "\r\n").encode(), id="Windows line ends"),
        pytest.param(b"\xef\xbb\xbf" + CONFIG.encode(), id="byte order mark"),
    ],
)
def test_config_as_windows_writes_it(here: Path, config: bytes) -> None:
    code, text = ask("plan", config)
    assert (code, text) == (0, "")


def test_config_in_another_encoding(here: Path) -> None:
    code, text = ask("plan", CONFIG.encode("utf-16"))
    assert code == 2
    assert "job.toml must be text in UTF-8, it is not" in text


def test_config_that_is_not_there(here: Path) -> None:
    Path("job.toml").write_text(CONFIG)
    result = CliRunner().invoke(app, ["plan", "jop.toml"])
    assert result.exit_code == 2
    assert result.stderr == (
        "featuretap: CONFIG must be an existing file, got 'jop.toml' in the working"
        f" directory {str(here)!r}; nearest is 'job.toml'\n"
    )
    result = CliRunner().invoke(app, ["plan", "empty"])
    assert result.exit_code == 2
    assert "CONFIG must be a file, 'empty' is a directory" in result.stderr


@pytest.mark.parametrize(
    ("package", "reader", "path", "said"),
    [
        ("soundfile", "audio", "tone.wav", "install featuretap[audio]"),
        ("adlfs", "parquet", "abfs://box/rows.parquet", "Install adlfs to access"),
    ],
)
def test_missing_extra(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    package: str,
    reader: str,
    path: str,
    said: str,
) -> None:
    (here / "tone.wav").write_bytes(b"RIFF")
    monkeypatch.setitem(sys.modules, package, None)
    source = f'reader = "{reader}"\npath = "{path}"\n'
    if reader == "audio":
        source += "sample_rate = 8000\nwindow_frames = 6\n"
    config = CONFIG.replace('reader = "parquet"\npath = "rows.parquet"\n', source)
    config = config.replace('key = "id"\n', "")
    config = config.replace("[model]", '[model]\ninputs = { vec = "waveform" }')
    code, text = ask("plan", config)
    assert code == 2
    assert said in text


def test_spaces_and_umlauts_in_paths(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "Größe und Maß" / "日本 #1"
    home.mkdir(parents=True)
    monkeypatch.chdir(home)
    (home / "Zeilen ä.parquet").write_bytes((prepared / "rows.parquet").read_bytes())
    config = CONFIG.replace("rows.parquet", "Zeilen ä.parquet")
    code, text = ask("run", config.replace('"table"', '"Tabelle ü/neu %20"'))
    assert code == 0, text
    assert pq.read_table(home / "Tabelle ü" / "neu %20" / "data").num_rows == 4


@pytest.mark.parametrize(
    ("target", "reason"),
    [("rows.parquet/table", "Not a directory"), ("/proc/table", "No such file")],
)
def test_target_that_cannot_be_written(here: Path, target: str, reason: str) -> None:
    code, text = ask("run", CONFIG.replace('"table"', f'"{target}"'))
    assert code == 2
    said = (
        f"table.path must be a directory that can be written, got '{target}': {reason}"
    )
    assert said in text


def test_target_of_another_config(here: Path) -> None:
    config = CONFIG.replace('"table"', '"twice"')
    assert ask("run", config)[0] == 0
    code, text = ask("run", config.replace("activation_1", "output"))
    assert code == 2
    assert "--overwrite" in text
    assert "taps" in text


def test_override_without_a_value(here: Path) -> None:
    code, text = ask("plan", CONFIG, "--set", "model.batch_rows")
    assert code == 2
    assert "--set must be a.b=value, got 'model.batch_rows'" in text
