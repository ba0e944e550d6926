"""The house rules that a machine can check, and that the documents are true."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from pipeline.config_file import parse_config
from transforms.config import (
    Config,
    ErrorSpec,
    ModelSpec,
    SourceSpec,
    StepSpec,
    TableSpec,
    TapSpec,
)
from transforms.gate_limits import GatesSpec

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]


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


SECTIONS: dict[str, tuple[type[BaseModel], ...]] = {
    "`[source]`": (SourceSpec, StepSpec),
    "`[model]`": (ModelSpec,),
    "`[[taps]]`": (TapSpec,),
    "`[table]`": (TableSpec,),
    "`[errors]`": (ErrorSpec,),
    "`[gates]`": (GatesSpec,),
}


def test_every_key_of_a_config_is_documented_once_and_no_other() -> None:
    page = (ROOT / "docs" / "running.md").read_text()
    parts = re.split(r"^### (.*)\n", page, flags=re.MULTILINE)[1:]
    documented = {
        head: re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
        for head, text in zip(parts[::2], parts[1::2], strict=True)
    }
    for head, types in SECTIONS.items():
        fields = [name for one in types for name in one.model_fields]
        assert sorted(documented.pop(head)) == sorted(fields), head
    sections = {"source", "model", "taps", "table", "errors", "gates"}
    others = sorted(Config.model_fields.keys() - sections)
    assert documented == {"Outside of the sections": others}


def test_every_key_of_a_config_says_what_it_does() -> None:
    for types in [*SECTIONS.values(), (Config,)]:
        for one in types:
            text = one.__doc__ or ""
            for name in one.model_fields:
                described = re.search(rf"^      {name}: (.+)", text, re.MULTILINE)
                assert described, f"{one.__name__}.{name}"
                assert len(described[1]) > 20, f"{one.__name__}.{name}"


def test_decision_records_have_one_format() -> None:
    for path in (ROOT / "docs" / "decisions").glob("*.md"):
        text = path.read_text()
        assert re.match(r"# \S.*\n\n\*\*Context\.\*\* ", text), path.name
        heads = re.findall(r"^\*\*(\w+)\.\*\*", text, re.MULTILINE)
        order = ["Context", "Measured", "Decision", "Consequence"]
        assert heads == [head for head in order if head in heads], path.name
        assert {"Context", "Decision", "Consequence"} <= {*heads}, path.name
        assert len(text.splitlines()) <= 40, path.name


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 140
