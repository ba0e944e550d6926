"""Spark, with Iceberg's own code, reads what was published by Python.

A heavy test, which needs Java, pyspark and the jars of `tests/engines/iceberg.xml`.
With REQUIRE_HAND_OFF set it fails where it would be skipped.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Job, vectors, write_parquet
from engines import HOME
from places import PLACES

from pipeline import make_plan, publish_table, read_features, run_plan

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]
READ = """
import json, sys
from pyspark.sql import SparkSession

catalog, root, jars = "spark.sql.catalog.tests", *sys.argv[1:]
options = {
    "spark.ui.enabled": "false",
    "spark.driver.extraClassPath": jars,
    catalog: "org.apache.iceberg.spark.SparkCatalog",
    f"{catalog}.type": "jdbc",
    f"{catalog}.uri": f"jdbc:sqlite:{root}/catalog.db",
    f"{catalog}.warehouse": f"file://{root}/warehouse",
}
spark = SparkSession.builder.master("local[1]").config(map=options).getOrCreate()
rows = spark.table("tests.ml.features").orderBy("example_id").collect()
history = spark.table("tests.ml.features.snapshots").orderBy("committed_at").collect()
before = spark.read.option("snapshot-id", history[0]["snapshot_id"])
print(json.dumps({
    "keys": [row["example_id"] for row in rows],
    "head": [list(row["head"]) for row in rows],
    "snapshots": len(history),
    "before": before.table("tests.ml.features").count(),
}))
"""


def test_spark_reads_an_iceberg_table_that_grew(tmp_path: Path) -> None:
    found = importlib.util.find_spec("pyspark") and shutil.which("java")
    jars = [str(jar) for jar in (HOME / "iceberg" / "jars").glob("*.jar")]
    if not (found and jars):
        assert not os.environ.get("REQUIRE_HAND_OFF"), "pyspark and Java must be here"
        pytest.skip("needs Java, pyspark, and the jars that make test-hand-off gets")
    place, data = PLACES["iceberg"](tmp_path), tmp_path / "data"
    data.mkdir()
    job, earlier = Job(tmp_path, {"reader": "parquet", "path": str(data)}), []
    for day in range(2):
        ids = range(10 * day, 10 * day + 10)
        write_parquet(data / f"{day}.parquet", ids, vectors(), 5)
        uri = str(tmp_path / f"table-{day}")
        run_plan(make_plan(job.config(table={"path": uri}), earlier))
        publish_table(uri, place.target, place.options)
        earlier = [uri]
    done = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path), ":".join(jars)],
        env={**os.environ, "SPARK_LOCAL_IP": "127.0.0.1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["keys"] == [*range(20)]
    assert seen["head"] == read_features(uri, "head").values.tolist()
    assert (seen["snapshots"], seen["before"]) == (2, 10)
