"""Made-up input ends in named errors, never in a crash or a hang."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from targets import TARGETS, seeds

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
SEEDS = seeds()
_LIMITS = (
    "-seed=1",
    "-max_total_time=20",
    "-timeout=20",
    "-max_len=4096",
    "-rss_limit_mb=0",
)


def corpus(name: str) -> list[bytes]:
    return SEEDS[name] + [p.read_bytes() for p in sorted((CORPUS / name).glob("*"))]


@st.composite
def damaged(draw: st.DrawFn, name: str) -> bytes:
    """Sound input with some bytes replaced, left out or put in."""
    data = bytearray(draw(st.sampled_from(corpus(name))))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(data)))
        stop = draw(st.integers(at, min(at + 4, len(data))))
        data[at:stop] = draw(st.binary(max_size=6))
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_what_once_went_wrong_does_not_again(name: str) -> None:
    for data in corpus(name):
        TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_made_up_input_ends_in_named_errors(name: str) -> None:
    runs = 150 if name in ("config", "tap", "reduction") else 15

    @settings(max_examples=runs, suppress_health_check=list(HealthCheck))
    @given(st.one_of(damaged(name), st.binary(max_size=64)))
    def fuzz(data: bytes) -> None:
        TARGETS[name](data)

    fuzz()


@pytest.mark.heavy
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", TARGETS)
def test_atheris_finds_nothing(name: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        if os.environ.get("REQUIRE_FAULTS"):
            pytest.fail("atheris must be installed")
        pytest.skip("atheris is not installed (pip install -e '.[fuzz]')")
    inputs = tmp_path / "corpus"
    inputs.mkdir()
    for index, data in enumerate(corpus(name)):
        (inputs / str(index)).write_bytes(data)
    root = HERE.parents[1]
    done = subprocess.run(
        [sys.executable, str(HERE / "fuzz.py"), name, str(inputs), *_LIMITS],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(HERE)])},
        capture_output=True,
        text=True,
        check=False,
    )
    (CORPUS / name).mkdir(exist_ok=True, parents=True)
    for crash in [*tmp_path.glob("crash-*"), *tmp_path.glob("timeout-*")]:
        shutil.copy(crash, CORPUS / name)
    assert done.returncode == 0, done.stderr[-3000:]
