"""Turn the parameters of a Flex Template into a `featuretap run`.

The template's launcher starts this with `--name=value` for each parameter, and with
arguments of Beam, which go on to Beam.
"""

from __future__ import annotations

import argparse

from pipeline.cli import app


def main() -> None:
    """Submit the job; the table's plan is written before."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--config", required=True)
    parser.add_argument("--table")
    parser.add_argument("--limit")
    given, beam_args = parser.parse_known_args()
    command = ["run", given.config]
    if given.table:
        command += ["--set", f"table.path={given.table}"]
    if given.limit:
        command += ["--limit", given.limit]
    app([*command, "--", *beam_args])


if __name__ == "__main__":
    main()
