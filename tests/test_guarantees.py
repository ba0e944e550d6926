"""Every promise is proved by tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_tests_that_the_guarantees_name_exist_and_are_marked() -> None:
    text = (ROOT / "docs" / "guarantees.md").read_text()
    rows = [line for line in text.splitlines() if "`test_" in line]
    assert len(rows) > 25
    sources = "\n".join(path.read_text() for path in ROOT.glob("tests/**/test_*.py"))
    for row in rows:
        for name in re.findall(r"`(test_\w+)`", row):
            found = re.search(rf"((?:@.*\n(?:(?![@d]).*\n)*)*)def {name}\(", sources)
            assert found, f"{name} is no test"
            heavy = "pytest.mark.heavy" in found[1]
            assert heavy <= ("*heavy*" in row), f"{name} is heavy"


def test_workflows_pin_actions_and_ask_for_little() -> None:
    workflows = list((ROOT / ".github" / "workflows").glob("*.yml"))
    assert workflows
    for path in workflows:
        text = path.read_text()
        uses = re.findall(r"uses: (.*)", text)
        assert all(re.fullmatch(r"\S+@[0-9a-f]{40} # v[\d.]+", one) for one in uses)
        assert "\npermissions: {}\n" in text
        granted = set(re.findall(r"^ {6}([\w-]+: (?:read|write))$", text, re.MULTILINE))
        assert granted == {"contents: read"}
        assert text.count("persist-credentials: false") == text.count("checkout@")
