"""Where a table came from, and how to load it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pipeline.report.subject import Subject
from transforms import storage
from transforms.messages import shape_text, shown
from transforms.table.columns import Column
from transforms.table.plan_file import TablePlan, config_document

_CONFIG = 20_000  # characters


def origin_of(subject: Subject) -> list[tuple[str, str]]:
    """Say what a table is made of and by, as names and values."""
    plan = subject.plan
    versions = ", ".join(f"{name} {version}" for name, version in plan.versions.items())
    return [
        ("table", shown(subject.table.uri)),
        ("source", _source(plan)),
        ("model", shown(str(plan.config.model.path or plan.config.model.build or ""))),
        ("model digest", plan.model_digest),
        ("fingerprint", plan.fingerprint),
        ("made with", shown(versions)),
        *(("took over from", shown(one.uri)) for one in plan.earlier),
    ]


def _source(plan: TablePlan) -> str:
    options = plan.config.source.options
    where = options.get("path") or options.get("name") or ""
    return shown(f"{plan.config.source.reader} {where}".strip(), 500)


def config_of(plan: TablePlan) -> str:
    """Give what made a table as JSON, without secrets."""
    document = config_document(plan.config)
    return shown(json.dumps(document, indent=2, ensure_ascii=False), _CONFIG)


def how_to_load(subject: Subject, columns: Sequence[Column]) -> str:
    """Give lines of Python that load a table."""
    place = storage.local_path(subject.table.uri)
    uri = shown(str(place.absolute()) if place else subject.table.uri)
    lines = [
        "import pandas",
        f"frame = pandas.read_parquet({uri!r})",
    ]
    vector = next((c for c in columns if c.is_vector and c.width), None)
    if vector:
        lines += [
            "",
            "from pipeline import read_features",
            f"keys, matrix = read_features({uri!r}, {vector.name!r})"
            f"  # {shape_text(('rows', *vector.shape))}",
        ]
    return "\n".join(lines)
