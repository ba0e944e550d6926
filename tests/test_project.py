"""The house rules that a machine can check, and that the documents are true."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

from pipeline.config_file import parse_config

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_transforms_never_import_the_pipeline() -> None:
    for path in (ROOT / "transforms").rglob("*.py"):
        assert not {n for n in imports(path) if n.split(".")[0] == "pipeline"}, path


def test_constraints_pin_versions_and_name_no_address() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert len(lines) > 50
    assert all(re.match(r"[a-z0-9-]+==\S+( ;.*)?$", line) for line in lines), lines


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_links_in_documents_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_whole_configs_in_documents_are_valid(path: Path) -> None:
    for block in re.findall(r"```toml\n(.*?)```", path.read_text(), re.DOTALL):
        document = tomllib.loads(block)
        if {"source", "model", "taps", "table"} <= document.keys():
            parse_config(document)


def test_the_python_of_the_api_document_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "api.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    exec("\n".join(blocks), {})
    assert (tmp_path / "others" / "_SUCCESS").exists()


def test_documented_reductions_are_the_built_in_ones() -> None:
    from transforms.taps.reductions import REDUCTIONS

    taps = (ROOT / "docs" / "taps.md").read_text()
    for name in REDUCTIONS:
        assert f"`{name}`" in taps, name


def test_the_decision_records_are_listed() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    for path in (ROOT / "docs" / "decisions").glob("*.md"):
        assert f"decisions/{path.name}" in index
