"""Fuzz one target with atheris: python tests/fuzz/fuzz.py TARGET CORPUS -runs=1000."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the target that is named first; the rest goes to libFuzzer."""
    import atheris

    with atheris.instrument_imports(include=["pipeline", "transforms"]):
        from targets import TARGETS

    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
