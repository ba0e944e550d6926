"""The tap language, without a model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.column_names import snake
from transforms.config import TapSpec
from transforms.lookup import ConfigError
from transforms.taps.language import Activation, choose, match

segment = st.text("abc_0", min_size=1, max_size=4)
path = st.lists(segment, min_size=1, max_size=4).map("/".join)


@pytest.mark.parametrize(
    ("pattern", "address", "wildcards"),
    [
        ("dense", "dense", ()),
        ("block_*:attn", "block_3:attn", ("3",)),
        ("block_*", "block_3/dense", None),
        ("block_*", "block_3:attn", None),
        ("shared@*", "shared@1", ("1",)),
        ("**", "a/b:c/d", ("a/b:c/d",)),
        ("**/dense", "dense", ("",)),
        ("**/dense", "a/b/dense", ("a/b",)),
        ("a/**:x", "a/b/c:x", ("b/c",)),
        ("**:scores/*", "a/b:scores/0", ("a/b", "0")),
        ("a.b", "axb", None),
        ("", "", ()),
        ("", "a", None),
    ],
)
def test_wildcards_match_within_and_across_segments(
    pattern: str, address: str, wildcards: tuple[str, ...] | None
) -> None:
    assert match(pattern, address) == wildcards


@given(path)
def test_every_address_matches_itself_and_the_widest_pattern(address: str) -> None:
    assert match(address, address) == ()
    assert match("**", address) == (address,)


@given(path, st.integers(0, 3))
def test_star_stands_for_exactly_one_segment(address: str, index: int) -> None:
    parts = address.split("/")
    index %= len(parts)
    pattern = "/".join([*parts[:index], "*", *parts[index + 1 :]])
    assert match(pattern, address) == (parts[index],)


@given(st.text(max_size=20))
def test_snake_gives_a_column_name(text: str) -> None:
    assert snake(text).replace("_", "a").isidentifier()
    assert snake(text) == snake(text).lower()


KNOWN = [
    Activation("block_0:attn", (4, 4), "float32"),
    Activation("block_1:attn", (4, 4), "float32"),
    Activation("cell", (4,), "float32", "is computed inside a loop"),
    Activation("", (2,), "float32"),
]


def test_column_takes_what_wildcards_matched() -> None:
    taps = choose([TapSpec(path="*_*:attn", column="{1}_{2}_attn")], KNOWN)
    assert [tap.column for tap in taps] == ["block_0_attn", "block_1_attn"]


def test_default_column_is_the_address_in_snake_case() -> None:
    taps = choose([TapSpec(path="block_0:attn"), TapSpec(path="")], KNOWN)
    assert [tap.column for tap in taps] == ["block_0_attn", "output"]


def test_glob_passes_over_what_cannot_be_tapped() -> None:
    taps = choose([TapSpec(path="**")], KNOWN)
    assert "cell" not in [tap.address for tap in taps]


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([TapSpec(path="blok_0:attn")], r"taps\[0\].path .* 'blok_0:attn'; nearest"),
        ([TapSpec(path="blok_0:attn")], r"'block_0:attn'"),
        ([TapSpec(path="block_0")], r"nearest is 'block_0:attn'"),
        ([TapSpec(path="cell")], r"'cell' is computed inside a loop"),
        (
            [TapSpec(path="block_*:attn", column="x")],
            r"taps\[0\].column must be unique",
        ),
        ([TapSpec(path=""), TapSpec(path="")], r"taps\[1\].column must be unique"),
        ([TapSpec(path="", column="{1}")], r"wildcards of the path, which has none"),
        ([TapSpec(path="", column="Attn")], r"lower_snake .* got 'Attn'; 'attn'"),
        ([TapSpec(path="", column="example_id")], r"not one of example_id"),
    ],
)
def test_unknown_colliding_and_ill_named_taps_are_refused(
    specs: list[TapSpec], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        choose(specs, KNOWN)
