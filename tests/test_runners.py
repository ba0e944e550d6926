"""Arguments for Beam become pipelines that run as they should."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.runners.portability.portable_runner import PortableRunner
from apache_beam.testing.util import assert_that, equal_to

from pipeline import runners
from pipeline.runners import make_pipeline, pipeline_options, works_here
from transforms.beam import CommitTable, ExtractShards
from transforms.lookup import ConfigError


class Slow:
    """Takes longer to encode than Beam's time between two flushes."""

    def __reduce__(self) -> Any:
        time.sleep(1.5)
        return Slow, ()


def emit(_: int) -> Iterator[tuple[str, Slow]]:
    yield "one", Slow()
    yield "other", Slow()


@pytest.mark.heavy
def test_no_element_is_cut_in_two_between_threads() -> None:
    """What `beam.Pipeline(options=…)` would do: a flush falls within the element."""
    pipeline = make_pipeline(pipeline_options(["--direct_num_workers=2"]))
    keys = pipeline | beam.Create([0]) | beam.FlatMap(emit) | beam.Reshuffle()
    assert_that(keys | beam.Keys(), equal_to(["one", "other"]))
    pipeline.run().wait_until_finish()


def test_nothing_is_staged_for_job_servers() -> None:
    """Workers on other machines would look for it in the job server's directory."""
    arguments = ["--runner=PortableRunner", "--job_endpoint=localhost:1"]
    arguments += ["--environment_type=EXTERNAL", "--environment_config=localhost:2"]
    pipeline = make_pipeline(pipeline_options(arguments))
    _ = pipeline | ExtractShards("table", seal="") | CommitTable("table")
    made = PortableRunner.get_proto_pipeline(pipeline, pipeline._options)
    environments = made.components.environments.values()
    assert "beam:env:external:v1" in {one.urn for one in environments}
    assert not [one for one in environments if one.dependencies]


def test_a_job_server_that_does_not_answer_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the launcher would wait for as long as the longest job may take."""
    monkeypatch.setattr(runners, "_ANSWER_SECONDS", 0.5)
    arguments = ["--runner=PortableRunner", "--job_endpoint=localhost:1"]
    with pytest.raises(RuntimeError, match="must answer at --job_endpoint=localhost:1"):
        runners.await_job_server(pipeline_options(arguments))
    given = [*arguments, "--job_server_timeout=1"]
    with pytest.raises(RuntimeError, match="none did for 1 seconds"):
        runners.await_job_server(pipeline_options(given))
    runners.await_job_server(pipeline_options([]))


def test_a_runner_that_beam_does_not_know_is_misuse() -> None:
    with pytest.raises(
        ConfigError, match=r"Beam refuses the arguments after --: Unexpected .*: Flonk"
    ):
        make_pipeline(pipeline_options(["--runner=Flonk"]))


def test_pipelines_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is made to check the arguments, and does not run."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    make_pipeline(pipeline_options([]))
    ran = make_pipeline(pipeline_options([]))
    _ = ran | beam.Create([0])
    ran.run().wait_until_finish()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "here"),
    [
        ([], True),
        (["--runner=fnapi"], True),
        (["--direct_running_mode=multi_processing"], False),
        (["--runner=PrismRunner"], True),
        (["--runner=DirectRunner"], True),
        (["--runner=prism", "--environment_type=EXTERNAL"], False),
        (["--runner=PortableRunner", "--environment_type=LOOPBACK"], True),
        (["--runner=apache_beam.runners.dataflow.DataflowRunner"], False),
        (["--runner=FlinkRunner"], True),
        (["--runner=FlinkRunner", "--flink_master=host:8081"], False),
        (["--runner=SparkRunner", "--spark_master_url=local[2]"], True),
        (["--runner=SparkRunner", "--spark_master_url=spark://host:7077"], False),
        (["--runner=prism", "--experiments=use_loopback_process_worker"], False),
    ],
)
def test_who_computes_holds_the_gpu(arguments: list[str], here: bool) -> None:
    """A launcher that does not compute hides GPUs from itself."""
    assert works_here(arguments) is here
