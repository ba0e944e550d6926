"""What runs once, on the launcher: config, plan, run, status, verify."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.config_file import load_config
    from pipeline.parity.certificate import check_parity
    from pipeline.plan import Plan, make_plan
    from pipeline.run import prepare_table, repair_table, run_plan
    from pipeline.status import table_status
    from pipeline.verify import verify_table

__all__ = [
    "Plan",
    "check_parity",
    "load_config",
    "make_plan",
    "prepare_table",
    "repair_table",
    "run_plan",
    "table_status",
    "verify_table",
]
__version__ = "0.1.0"

_HOMES = {
    "Plan": "plan",
    "check_parity": "parity.certificate",
    "load_config": "config_file",
    "make_plan": "plan",
    "prepare_table": "run",
    "repair_table": "run",
    "run_plan": "run",
    "table_status": "status",
    "verify_table": "verify",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that the command line answers without TensorFlow."""
    if name not in _HOMES:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"pipeline.{_HOMES[name]}"), name)
