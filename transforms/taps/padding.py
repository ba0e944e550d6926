"""Give a compiled function batches of the one size it takes: split long ones, fill up short ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transforms.taps.compile import CompiledTaps
from transforms.values import Values, join_rows


def in_pieces(compiled: CompiledTaps, inputs: Mapping[str, Any]) -> dict[str, Values]:
    """Compute any number of rows but none, as many at a time as the function takes."""
    rows, most = len(next(iter(inputs.values()))), compiled.batch_rows
    if rows <= most:
        return compiled(inputs)
    computed = [
        compiled({name: values[at : at + most] for name, values in inputs.items()})
        for at in range(0, rows, most)
    ]
    return {n: join_rows([columns[n] for columns in computed]) for n in computed[0]}
