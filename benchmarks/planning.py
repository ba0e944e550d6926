"""Plan a million files, whose metadata a filesystem makes up: seconds and memory.

python benchmarks/planning.py
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import fsspec

FILES_PER_DIRECTORY = 1000
BYTES = 100_000


class MadeUp(fsspec.AbstractFileSystem):
    """Directories of a thousand images of 100 kB each; only their heads are there."""

    protocol = "madeup"
    files = 0

    def find(self, path: str, *_: Any, **__: Any) -> dict[str, dict[str, Any]]:
        """List everything, as an object store does."""
        names = (
            f"bucket/{i // FILES_PER_DIRECTORY:05d}/image-{i:09d}.jpg"
            for i in range(self.files)
        )
        return {name: self.info(name) for name in names}

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Tell what a store tells of an object."""
        kind = "file" if path.endswith(".jpg") else "directory"
        etag = f"{hash(path) & (1 << 128) - 1:032x}"
        return {"name": path, "size": BYTES, "type": kind, "ETag": etag}

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        """Read a file: planning looks at a few images."""
        return b"\xff\xd8\xff\xd9".ljust(BYTES, b"\0")[start:end]


def main() -> None:
    """Plan, store and resume; print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--rows-per-part", type=int, default=None)
    arguments = parser.parse_args()
    MadeUp.files = arguments.files
    fsspec.register_implementation("madeup", MadeUp)
    sys.path.insert(0, str(Path(__file__).parent))
    with tempfile.TemporaryDirectory() as out:
        report = _measure(out, arguments.rows_per_part)
    print(json.dumps(report, indent=2))


def _measure(out: str, rows_per_part: int | None) -> dict[str, Any]:
    from pipeline import make_plan, prepare_table
    from pipeline.config_file import parse_config
    from transforms.table.plan_file import pending_shards

    decode = [
        {"step": "decode_image", "feature": "image", "channels": 3},
        {"step": "resize", "feature": "image", "size": [32, 32]},
    ]
    config = parse_config(
        {
            "source": {
                "reader": "images",
                "path": "madeup://bucket",
                "preprocess": decode,
            },
            "model": {"build": "decode:make_model"},
            "taps": [{"path": "pooled"}],
            "table": {"path": f"{out}/table", "rows_per_part": rows_per_part},
        }
    )
    warm = parse_config({**config.model_dump(), "limit": 1})
    MadeUp.files, files = 1, MadeUp.files
    make_plan(warm)
    before = _peak_bytes()
    MadeUp.files = files
    seconds = {}
    began = time.perf_counter()
    plan = make_plan(config)
    seconds["plan"] = time.perf_counter() - began
    began = time.perf_counter()
    prepare_table(plan)
    seconds["store"] = time.perf_counter() - began
    shards, rows = len(plan.shards), plan.rows
    stored = (Path(out) / "table/_featuretap/plan.parquet").stat().st_size
    del plan
    began = time.perf_counter()
    prepare_table(make_plan(config))
    pending = sum(1 for _ in pending_shards(f"{out}/table"))
    seconds["resume"] = time.perf_counter() - began
    assert pending == shards
    return {
        "files": rows,
        "shards": shards,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "plan_bytes": stored,
        "peak_bytes_before": before,
        "peak_bytes": _peak_bytes(),
    }


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
