"""Nobody in: foreign code, credentials, and names that would escape."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from conftest import Job
from typer.testing import CliRunner
from zygote import Zygote

from pipeline import run_plan
from pipeline.cli import app
from pipeline.config_file import parse_config
from transforms import storage
from transforms.credentials import mask
from transforms.lookup import ConfigError
from transforms.messages import plain, shown
from transforms.sources.staging import target_in

tf_keras = pytest.importorskip("tf_keras")
ROOT = Path(__file__).parents[2]


def with_lambda(package: Any, path: Path) -> Path:
    vec = package.Input((6,), name="vec")
    doubled = package.layers.Lambda(lambda t: t * 2, name="stowaway")(vec)
    package.Model(vec, package.layers.Dense(2, name="head")(doubled)).save(path)
    return path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("package", "name"),
    [(keras, "a.keras"), (keras, "a.h5"), (tf_keras, "b.keras"), (tf_keras, "b.h5")],
)
def test_a_stored_lambda_is_refused_unless_trusted(
    package: Any, name: str, job: Job, tmp_path: Path
) -> None:
    path = with_lambda(package, tmp_path / name)
    model = {"build": None, "path": str(path)}
    with pytest.raises(
        ConfigError, match=r"layer 'stowaway' is a Lambda.*set model\.trusted = true"
    ):
        job.plan(model=model, taps=[{"path": "head"}])
    trusted = job.plan(model={**model, "trusted": True}, taps=[{"path": "head"}])
    run_plan(trusted)


def test_trust_changes_no_byte(job: Job, tmp_path: Path) -> None:
    vec = keras.Input((6,), name="vec")
    keras.Model(vec, keras.layers.Dense(2, name="head")(vec)).save(tmp_path / "m.keras")
    model = {"build": None, "path": str(tmp_path / "m.keras")}
    plans = [
        job.plan(model={**model, "trusted": trusted}, taps=[{"path": "head"}])
        for trusted in (False, True)
    ]
    assert plans[0].fingerprint == plans[1].fingerprint
    assert plans[0].schema.equals(plans[1].schema, check_metadata=True)


def test_a_model_imports_only_modules_that_the_config_names(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zipfile

    (tmp_path / "stowaway.py").write_text(
        "import keras\nopen('executed', 'w').close()\n"
        "@keras.saving.register_keras_serializable('stowaway')\n"
        "class Evil(keras.layers.Dense): pass\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    vec = keras.Input((6,), name="vec")
    keras.Model(vec, keras.layers.Dense(2, name="head")(vec)).save("plain.keras")
    with (
        zipfile.ZipFile("plain.keras") as before,
        zipfile.ZipFile("evil.keras", "w") as after,
    ):
        for name in before.namelist():
            data = before.read(name)
            if name == "config.json":
                config = json.loads(data)
                for layer in config["config"]["layers"]:
                    if layer["class_name"] == "Dense":
                        layer["module"] = "stowaway"
                        layer["class_name"] = "Evil"
                        layer["registered_name"] = "stowaway>Evil"
                data = json.dumps(config).encode()
            after.writestr(name, data)
    model = {"build": None, "path": "evil.keras"}
    with pytest.raises(ConfigError, match="list the modules that register custom"):
        job.plan(model=model, taps=[{"path": "head"}])
    assert not Path("executed").exists()
    with contextlib.suppress(ConfigError):  # its weights are those of another class
        job.plan(model={**model, "imports": ["stowaway"]}, taps=[{"path": "head"}])
    assert Path("executed").exists()


def test_a_saved_model_that_writes_files_is_refused_unless_trusted(
    job: Job, tmp_path: Path
) -> None:
    class Writer(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 6], name="vec")])
        def serve(self, vec: Any) -> Any:
            tf.io.write_file(str(tmp_path / "escaped"), "x")
            return {"out": vec + 1}

    module = Writer()
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures=module.serve)
    model = {"build": None, "path": str(tmp_path / "saved")}
    with pytest.raises(ConfigError, match="is a WriteFile, which can do anything"):
        job.plan(model=model, taps=[{"path": ":out"}])
    assert not (tmp_path / "escaped").exists()
    job.plan(model={**model, "trusted": True}, taps=[{"path": ":out"}])


def test_nothing_unpickles_what_a_table_or_a_source_holds() -> None:
    sources = [*ROOT.glob("pipeline/**/*.py"), *ROOT.glob("transforms/**/*.py")]
    assert len(sources) > 40
    words = ("import pickle", "import dill", "marshal", "allow_pickle=True", "joblib")
    found = [(p.name, w) for p in sources for w in words if w in p.read_text()]
    assert found == []


SECRETS = ("hunter2-in-the-uri", "wJalrXUtnFEMI-in-env", "sig-in-the-query")


@pytest.mark.parametrize(
    "override",
    [
        "source.path=s3://AKIAKEY:hunter2-in-the-uri@bucket/in",
        "table.path=gs://user:hunter2-in-the-uri@bucket/out",
        "model.path=https://hunter2-in-the-uri@host/model.keras",
        "source.path=https://host/in.parquet?X-Amz-Signature=sig-in-the-query",
        "source.password=hunter2-in-the-uri",
        "source.aws_secret_access_key=hunter2-in-the-uri",
    ],
)
@pytest.mark.parametrize("command", ["plan", "run", "taps"])
def test_credentials_in_a_config_are_refused_and_not_repeated(
    command: str, override: str, job: Job, tmp_path: Path
) -> None:
    config = written(job, tmp_path)
    result = CliRunner().invoke(app, [command, str(config), "--set", override])
    said = result.stdout + result.stderr
    assert result.exit_code == 2
    assert "environment, or the configuration of fsspec" in said
    assert not [secret for secret in SECRETS if secret in said]
    assert not job.table.exists()


def written(job: Job, tmp_path: Path) -> Path:
    config = tmp_path / "job.toml"
    config.write_text(
        f"[source]\nreader = 'parquet'\npath = '{job.source['path']}'\nkey = 'id'\n"
        "preprocess = ['toolbox:talkative']\n"
        "[model]\nbuild = 'toolbox:dict_model'\nbatch_rows = 16\n"
        "[[taps]]\npath = 'head'\n"
        f"[table]\npath = '{job.table}'\n[errors]\nmax_fraction = 0.5\n"
    )
    return config


@pytest.mark.parametrize("debug", ["", "1"])
def test_planted_secrets_are_in_no_output(
    debug: str, job: Job, zygote: Zygote, tmp_path: Path
) -> None:
    """Errors of rows and of the whole run speak of credentials."""
    config, log = written(job, tmp_path), tmp_path / "log"
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT / "tests/faults"), str(ROOT)])
    environment = {
        "MY_STORE_SECRET": "wJalrXUtnFEMI-in-env",
        **({"FEATURETAP_DEBUG": debug} if debug else {}),
    }
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "run", str(config), "--json"],
        env={**os.environ, "PYTHONPATH": path, **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    for arguments in (
        ["status", str(job.table)],
        ["verify", str(job.table)],
        ["run", str(config), "--set", "table.path=nowhere://hunter2-in-the-uri"],
        ["run", str(config), "--overwrite", "--set", "model.build=toolbox:indiscreet"],
    ):
        zygote.run("command_line", log, arguments=arguments, environment=environment)
    said = done.stdout + done.stderr + log.read_text()
    assert "***" in said
    stored = b"".join(p.read_bytes() for p in job.table.rglob("*") if p.is_file())
    errors = pq.read_table(job.table / "_featuretap" / "errors").to_pylist()
    assert any("***" in row["message"] for row in errors)
    for secret in ("wJalrXUtnFEMI-in-env", "sig-in-the-query"):
        assert secret not in said
        assert secret.encode() not in stored
        assert secret not in json.dumps(errors)


def test_a_reader_may_not_name_files_with_credentials(job: Job) -> None:
    with pytest.raises(ConfigError, match=r"must not hold credentials.*sig=\*\*\*"):
        job.plan(source={"reader": "toolbox:SignedReader", "sizes": [3], "path": None})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("abfs://container@account/x", "abfs://container@account/x"),
        ("hdfs://host:9000/a@b", "hdfs://host:9000/a@b"),
        ("mail a@b.org about http://x/y", "mail a@b.org about http://x/y"),
        ("s3://k:s/e+c@b/x", "s3://***@b/x"),
        ("Authorization: Bearer abcdefghij", "Authorization: Bearer ***"),
        ("{'password': 'pw', 'rows': 1}", "{'password': ***, 'rows': 1}"),
    ],
)
def test_masks_hide_credentials_and_nothing_else(text: str, expected: str) -> None:
    assert mask(text) == expected


def test_the_configuration_of_fsspec_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fsspec.config.conf, "s3", {"secret": "planted-in-conf"})
    assert mask("got planted-in-conf") == "got ***"


EVIL = "\x1b[2J\x9b31m\u202e<script>=1+1\r\x07"


def test_messages_show_control_characters_instead_of_obeying_them() -> None:
    assert plain(EVIL).isprintable()
    assert shown("sound text, línea, 日本\n") == "sound text, línea, 日本\n"


def test_names_from_data_cannot_escape(tmp_path: Path, data: Path) -> None:
    """File names and keys with control characters and ways up."""
    source = tmp_path / "in"
    source.mkdir()
    table = pa.table(
        {
            "id": ["../../../up", EVIL, EVIL],
            "vec": pa.FixedSizeListArray.from_arrays(
                pa.array(np.ones(18, np.float32)), 6
            ),
        }
    )
    pq.write_table(table, source / f"{EVIL.replace('/', '')}.parquet")
    job = Job(tmp_path / "out", {"reader": "parquet", "path": str(source)})
    job.directory.mkdir()
    config = tmp_path / "job.toml"
    config.write_text(
        f"[source]\nreader = 'parquet'\npath = '{source}'\nkey = 'id'\n"
        "[model]\nbuild = 'toolbox:dict_model'\n[[taps]]\npath = 'head'\n"
        f"[table]\npath = '{job.table}'\n"
    )
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    result = CliRunner().invoke(app, ["run", str(config)])
    assert result.exit_code == 1
    assert "repeats" in result.stderr
    failure = "".join(
        line for line in result.stderr.splitlines() if "featuretap:" in line
    )
    assert failure.isprintable()
    new = {str(p) for p in tmp_path.rglob("*")} - set(before)
    assert all(name.startswith(str(job.table)) for name in new)
    status = CliRunner().invoke(app, ["status", str(job.table), "--json"])
    assert json.loads(status.stdout)["committed"] == 1


def test_json_output_is_printable_and_unchanged() -> None:
    from pipeline import show

    runner = CliRunner()
    with runner.isolation() as streams:
        show.print_json({"key": EVIL})
        text = streams[0].getvalue().decode()
    assert text.replace("\n", "").isprintable()
    assert json.loads(text) == {"key": EVIL}


@pytest.mark.parametrize(
    "uri",
    ["s3://b/../../etc/passwd", "s3://b/a/..", "s3://b/x.py;rm -rf", "gs://b/é.\n"],
)
def test_staged_copies_keep_no_name(uri: str, tmp_path: Path) -> None:
    target = target_in(tmp_path, 3, uri)
    assert target.parent == tmp_path
    assert target.name.startswith("000003")


def test_records_cannot_name_files_outside(job: Job) -> None:
    from transforms.table.directory import Table

    job.run()
    record = job.table / "_featuretap" / "commits" / "00000.json"
    document = json.loads(record.read_text())
    document["part"]["path"] = "../../../etc/passwd"
    record.write_text(json.dumps(document))
    with pytest.raises(ValueError, match="must name its own files"):
        list(Table(str(job.table)).read_commits([0]))


def test_secrets_of_the_config_stay_out_of_python_errors() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"source": {"reader": "x", "path": "s3://a:hunter2@b"}})
    assert "hunter2" not in str(caught.value)


def test_unknown_filesystems_are_named_without_secrets() -> None:
    with pytest.raises(ConfigError) as caught:
        storage.filesystem("nowhere://me:hunter2@host/x")
    assert "hunter2" not in str(caught.value)
