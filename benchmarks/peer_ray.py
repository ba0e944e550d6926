"""The benchmark's table by Ray Data: a class for `map_batches`, an actor for each core.

python benchmarks/peer_ray.py OUT BATCH_ROWS CORES FILE...
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data


class Activations:
    """Holds the compiled model; a batch is an Arrow table, without a copy."""

    def __init__(self) -> None:
        from workload import TAPS, compile_pixels

        self.names = ["id", *TAPS]
        self.function = compile_pixels()

    def __call__(self, batch: pa.Table) -> pa.Table:
        columns = [_vectors(values) for values in self.function(_pixels(batch))]
        return pa.table([batch["id"], *columns], self.names)


def main(out: str, batch_rows: int, cores: int, files: list[str]) -> None:
    # An actor takes half of a core of Ray's count: the other half is for tasks that
    # read and write, which would else wait for ever.
    ray.init(num_cpus=cores, include_dashboard=False, object_store_memory=4 << 30)
    logging.getLogger("ray.data").setLevel("ERROR")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 32 << 20
    images = ray.data.read_parquet(files).select_columns(["id", "image"])
    table = images.map_batches(
        Activations,
        batch_size=batch_rows,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ray.data.ActorPoolStrategy(size=cores),
        num_cpus=0.5,
    )
    table.write_parquet(out, compression="zstd", use_dictionary=False)


def _pixels(batch: pa.Table) -> np.ndarray:
    column = pa.concat_arrays(batch["image"].chunks)
    wide = np.int64 if pa.types.is_large_binary(column.type) else np.int32
    _, offsets, values = column.buffers()
    ends = np.frombuffer(offsets, wide)[column.offset :][: len(column) + 1]
    return np.frombuffer(values, np.uint8)[ends[0] : ends[-1]]


def _vectors(values: np.ndarray) -> Any:
    rows, width = values.shape
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * width)
    return pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
