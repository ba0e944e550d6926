"""Arguments for Beam become pipelines that run as they should."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.runners.portability.portable_runner import PortableRunner
from apache_beam.testing.util import assert_that, equal_to

from pipeline.runners import make_pipeline, pipeline_options
from transforms.commit import CommitTable
from transforms.extract import ExtractShards


class Slow:
    """Takes longer to encode than Beam's time between two flushes."""

    def __reduce__(self) -> Any:
        time.sleep(1.5)
        return Slow, ()


def emit(_: int) -> Iterator[tuple[str, Slow]]:
    yield "one", Slow()
    yield "other", Slow()


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
    _ = pipeline | ExtractShards("table") | CommitTable("table")
    made = PortableRunner.get_proto_pipeline(pipeline, pipeline._options)
    environments = made.components.environments.values()
    assert "beam:env:external:v1" in {one.urn for one in environments}
    assert not [one for one in environments if one.dependencies]
