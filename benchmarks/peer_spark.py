"""The benchmark's table by Spark: `predict_batch_udf`, a Python worker for each core.

python benchmarks/peer_spark.py OUT BATCH_ROWS CORES FILE...
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from pyspark.ml.functions import predict_batch_udf
from pyspark.sql import SparkSession
from pyspark.sql.types import ArrayType, FloatType, StructType

SETTINGS = {
    "spark.ui.enabled": "false",
    "spark.driver.memory": "4g",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    # Whole batches of both sizes; by default 10,000 rows.
    "spark.sql.execution.arrow.maxRecordsPerBatch": "10240",
    # A file a task, so that all cores have work until the end.
    "spark.sql.files.maxPartitionBytes": "48m",
    "spark.sql.parquet.compression.codec": "zstd",
    "spark.hadoop.parquet.compression.codec.zstd.level": "1",
    "spark.hadoop.parquet.enable.dictionary": "false",
}


def main(out: str, batch_rows: int, cores: int, files: list[str]) -> None:
    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = SparkSession.builder.master(f"local[{cores}]")
    session = builder.config(map=SETTINGS).getOrCreate()
    floats = ArrayType(FloatType())
    activations = predict_batch_udf(
        _make_predict,
        return_type=StructType()
        .add("activation_1", floats)
        .add("activation_2", floats),
        batch_size=batch_rows,
    )
    images = session.read.parquet(*files)
    taps = images.select("id", activations("image").alias("taps"))
    taps.select("id", "taps.*").write.parquet(out)


def _make_predict() -> Callable[[Any], dict[str, Any]]:
    """Give what turns an array of bytes into the activations; once in each worker."""
    import numpy as np
    from workload import TAPS, compile_pixels

    function = compile_pixels()

    def predict(images: Any) -> dict[str, Any]:
        pixels = np.frombuffer(b"".join(images), np.uint8)
        return dict(zip(TAPS, function(pixels), strict=True))

    return predict


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
