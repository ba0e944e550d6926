"""What runs once, on the launcher: config, plan, run, status, verify; and reading."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.config_file import load_config
    from pipeline.diff.tables import diff_tables
    from pipeline.forget.table import forget_rows
    from pipeline.look_up import find_row
    from pipeline.neighbours import nearest_rows
    from pipeline.parity.certificate import check_parity
    from pipeline.plan import Plan, make_plan
    from pipeline.publish.publish import publish_table
    from pipeline.report.report import make_report
    from pipeline.run import prepare_table, repair_table, run_plan
    from pipeline.status import table_status
    from pipeline.tune.tune import tune_config
    from pipeline.verify import verify_table
    from transforms.table.read import iter_features, read_features

__all__ = [
    "Plan",
    "check_parity",
    "diff_tables",
    "find_row",
    "forget_rows",
    "iter_features",
    "load_config",
    "make_plan",
    "make_report",
    "nearest_rows",
    "prepare_table",
    "publish_table",
    "read_features",
    "repair_table",
    "run_plan",
    "table_status",
    "tune_config",
    "verify_table",
]
__version__ = "0.1.0"

_HOMES = {
    "Plan": "pipeline.plan",
    "check_parity": "pipeline.parity.certificate",
    "diff_tables": "pipeline.diff.tables",
    "find_row": "pipeline.look_up",
    "forget_rows": "pipeline.forget.table",
    "iter_features": "transforms.table.read",
    "load_config": "pipeline.config_file",
    "make_plan": "pipeline.plan",
    "nearest_rows": "pipeline.neighbours",
    "make_report": "pipeline.report.report",
    "prepare_table": "pipeline.run",
    "publish_table": "pipeline.publish.publish",
    "read_features": "transforms.table.read",
    "repair_table": "pipeline.run",
    "run_plan": "pipeline.run",
    "table_status": "pipeline.status",
    "tune_config": "pipeline.tune.tune",
    "verify_table": "pipeline.verify",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that the command line answers without TensorFlow."""
    if name not in _HOMES:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
