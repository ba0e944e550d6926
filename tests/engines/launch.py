"""A launcher to kill: runs a job from a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pipeline import make_plan, run_plan
from pipeline.config_file import parse_config

if __name__ == "__main__":
    config, workers, *beam_args = sys.argv[1:]
    plan = make_plan(parse_config(json.loads(Path(config).read_text())))
    run_plan(plan, beam_args=beam_args, workers=int(workers) or None)
