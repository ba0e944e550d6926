"""The house keeps its shape: sizes, arrows between folders, who imports what."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*ROOT.glob("pipeline/**/*.py"), *ROOT.glob("transforms/**/*.py")])
TESTS = sorted(ROOT.glob("tests/**/*.py"))
FOLDERS = ["errors", "preprocess", "sources", "models", "taps", "statistics", "table"]
"""Of `transforms`; each may import those before it."""
UPPER = {"extract", "carry", "worker", "beam", "handler", "metrics"}
"""Files of `transforms` that put folders together; no folder imports them."""
BEAM = {
    "pipeline/dataflow.py",
    "pipeline/runners.py",
    "transforms/beam.py",
    "transforms/handler.py",
}
SLOW = {"tensorflow", "keras", "tf_keras", "tensorflow_datasets", "apache_beam"}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module(path: Path) -> str:
    return name(path).removesuffix(".py").replace("/", ".").removesuffix(".__init__")


MODULES = {module(path) for path in SOURCES}


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Yield each function with its lines, without those of its docstring."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno
            lines = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node):
                first = node.body[0]
                assert first.end_lineno
                lines -= first.end_lineno - first.lineno + 1
            yield node.name, lines


def imports(path: Path, *, anywhere: bool = False) -> Iterator[str]:
    """Yield what a file imports when it is imported itself, or at any time."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if anywhere else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


def lines(paths: list[Path]) -> list[int]:
    return [len(path.read_text().splitlines()) for path in paths]


def test_files_are_small() -> None:
    for path, length in zip(SOURCES, lines(SOURCES), strict=True):
        assert length <= 400, f"{name(path)} has {length} lines"
    assert statistics.median(lines(SOURCES)) <= 160


def test_functions_are_small() -> None:
    found = [(n, name(path), f) for path in SOURCES for f, n in functions(path)]
    longest = max(found)
    assert longest[0] <= 45, f"{longest[2]} in {longest[1]} has {longest[0]} lines"
    sizes = sorted(n for n, *_ in found)
    assert sizes[len(sizes) * 9 // 10] <= 22


def test_there_is_a_line_of_tests_for_each_line_of_source() -> None:
    assert sum(lines(TESTS)) >= sum(lines(SOURCES))


def test_transforms_never_import_the_pipeline() -> None:
    for path in SOURCES:
        if name(path).startswith("transforms/"):
            found = {n for n in imports(path, anywhere=True) if n[:8] == "pipeline"}
            assert not found, name(path)


def test_folders_import_only_those_before_them() -> None:
    for path in SOURCES:
        package, *inner = module(path).split(".")
        if package != "transforms":
            continue
        folder = inner[0] if inner and inner[0] in FOLDERS else None
        for found in imports(path, anywhere=True):
            target = found.split(".")
            if target[0] != "transforms" or len(target) < 2:
                continue
            arrow = f"{name(path)} imports {found}"
            if folder and target[1] in FOLDERS:
                assert FOLDERS.index(target[1]) <= FOLDERS.index(folder), arrow
            if folder:
                assert target[1] not in UPPER | {"programs"}, arrow
            elif inner and inner[0] not in UPPER | {"programs", "__init__"}:
                assert target[1] not in {*FOLDERS, *UPPER, "programs"}, arrow


def test_beam_is_only_where_beam_is() -> None:
    for path in SOURCES:
        found = [n for n in imports(path, anywhere=True) if n[:11] == "apache_beam"]
        assert not found or name(path) in BEAM, name(path)


def test_nothing_slow_is_imported_with_a_file() -> None:
    for path in SOURCES:
        found = {n.split(".")[0] for n in imports(path)} & SLOW
        allowed = {"apache_beam"} if name(path) in BEAM else set()
        assert found <= allowed, f"{name(path)} imports {found}"


@pytest.mark.parametrize(
    ("what", "unwanted"),
    [
        ("pipeline.cli", [*sorted(SLOW), "pyarrow", "pydantic", "fsspec", "numpy"]),
        ("pipeline.verify", ["tensorflow", "apache_beam"]),
        ("transforms.programs.local_worker", ["tensorflow", "apache_beam"]),
        ("transforms.programs.isolated_rows", ["tensorflow", "apache_beam"]),
        ("pipeline.run", ["tensorflow", "apache_beam"]),
    ],
)
def test_a_process_imports_no_more_than_it_needs(
    what: str, unwanted: list[str]
) -> None:
    code = f"import sys, {what}; print(*sorted(set({unwanted!r}) & set(sys.modules)))"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


def test_every_folder_and_file_says_what_it_is_for() -> None:
    for path in SOURCES:
        assert ast.get_docstring(ast.parse(path.read_text())), name(path)


def test_the_tree_in_the_documents_is_the_tree() -> None:
    """Each file stands in the tree of docs/data-model.md, and no other."""
    text = (ROOT / "docs" / "data-model.md").read_text()
    stands = sorted(re.findall(r"\b(\w+\.py)\b", text.partition("\n## The tree")[2]))
    there = [path.name for path in SOURCES if path.name != "__init__.py"]
    assert sorted({*stands}) == sorted({*there})
