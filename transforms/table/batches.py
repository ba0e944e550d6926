"""Read rows of a Parquet file of ours, some thousands at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from transforms.sources.staging import readable_copy
from transforms.table.directory import open_parquet

_ROWS_AT_A_TIME = 4096


def record_batches(uri: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield rows in order, their columns in the order asked for.

    At most a row group is in memory; pages are compared with their checksums.

    Raises:
      FileNotFoundError: the file is gone.
      OSError: it cannot be read.
    """
    with (
        readable_copy(uri) as path,
        open(path, "rb") as stream,
        open_parquet(stream, check_pages=True) as file,
    ):
        for batch in file.iter_batches(
            _ROWS_AT_A_TIME, columns=list(columns), use_threads=False
        ):
            yield batch.select(list(columns))
