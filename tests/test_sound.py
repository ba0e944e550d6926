"""Recordings as people have them: all formats, lying headers, odd lengths."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from transforms.config import SourceSpec
from transforms.lookup import ConfigError
from transforms.shard import Piece
from transforms.sources.readers import make_source
from transforms.sources.sound_length import length_fault

WAVE = np.random.default_rng(0).uniform(-0.5, 0.5, 20_000).astype(np.float32)
FORMATS = {
    "a.wav": ("WAV", "PCM_16"),
    "extensible.wave": ("WAVEX", "PCM_24"),
    "a.flac": ("FLAC", "PCM_16"),
    "a.ogg": ("OGG", "VORBIS"),
    "a.opus": ("OGG", "OPUS"),
    "a.mp3": ("MP3", "MPEG_LAYER_III"),
    "a.aiff": ("AIFF", "PCM_16"),
    "B.AIF": ("AIFF", "FLOAT"),
    "a.au": ("AU", "PCM_16"),
    "a.snd": ("AU", "ULAW"),
    "a.caf": ("CAF", "PCM_16"),
    "a.w64": ("W64", "PCM_16"),
    "a.rf64": ("RF64", "PCM_16"),
}
EXACT = [name for name, (_, kind) in FORMATS.items() if kind in ("PCM_16", "PCM_24")]


def sound(name: str, wave: np.ndarray = WAVE) -> bytes:
    form, kind = FORMATS[name]
    data = io.BytesIO()
    soundfile.write(data, wave, 8000, format=form, subtype=kind)
    return data.getvalue()


def source(directory: Path, **options: Any) -> Any:
    options = {"sample_rate": 8000, **options}
    return make_source(SourceSpec(reader="audio", path=str(directory), **options))


def rows(found: Any) -> dict[str, np.ndarray | str]:
    """The waveform of each row, or the text of its error, by file and number."""
    made: dict[str, np.ndarray | str] = {}
    for file in found.files():
        for row in range(sum(file.blocks)):
            piece = Piece(file.uri, file.name, row, 1)
            try:
                ((_, one),) = found.read([piece], found.describe(), None)
                made[f"{file.name}#{row}"] = one["waveform"].numpy()
            except tf.errors.InvalidArgumentError as error:
                made[f"{file.name}#{row}"] = str(error)
    return made


def test_all_formats_of_libsndfile_are_read(tmp_path: Path) -> None:
    for name in FORMATS:
        (tmp_path / name).write_bytes(sound(name))
    (tmp_path / "a.m4a").write_bytes(b"no sound")
    found = source(tmp_path)
    made = rows(found)
    assert {name.partition("#")[0] for name in made} == FORMATS.keys()
    for name, wave in made.items():
        assert len(wave) == len(WAVE), (name, wave)
        if name.removesuffix("#0") in EXACT:
            np.testing.assert_allclose(wave, WAVE, atol=1e-4)
    (note,) = found.notes()
    assert note.startswith("1 file is left out for the suffix (1 .m4a)")
    assert "such as AAC, must be converted" in note


def test_suffixes_choose_the_recordings(tmp_path: Path) -> None:
    for name in ("a.wav", "a.data"):
        (tmp_path / name).write_bytes(sound("a.wav"))
    assert rows(source(tmp_path, suffixes=[".data"])).keys() == {"a.data#0"}
    assert rows(source(tmp_path, suffixes=[])).keys() == {"a.data#0", "a.wav#0"}


@pytest.mark.parametrize("name", FORMATS)
def test_a_recording_that_is_whole_has_no_fault(name: str) -> None:
    for wave in (WAVE, WAVE[:1], WAVE[:777]):
        data = sound(name, wave)
        assert length_fault(io.BytesIO(data), len(data)) == ""


@pytest.mark.parametrize("kept", [0.5, 0.999])
@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_was_cut_short_is_a_bad_row(
    name: str, kept: float, tmp_path: Path
) -> None:
    data = sound(name)
    (tmp_path / name).write_bytes(data[: int(kept * len(data))])
    ((_, fault),) = rows(source(tmp_path)).items()
    assert "cut short" in fault


def riff(size: int, data: bytes, *after: bytes) -> bytes:
    """A WAV file whose header claims `size` bytes of sound."""
    form = struct.pack("<HHIIHH", 1, 1, 8000, 16000, 2, 16)
    body = b"WAVEfmt " + struct.pack("<I", 16) + form
    body += b"data" + struct.pack("<I", size) + data + b"".join(after)
    return b"RIFF" + struct.pack("<I", len(body)) + body


PCM = (WAVE * 32767).astype("<i2").tobytes()
LIST = b"LIST" + struct.pack("<I", 12) + b"INFOISFT\0\0\0\0"
XMP = b"_PMX" + struct.pack("<I", 8000) + b"x" * 8000


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0xFFFFFFFF - 44])
def test_a_header_of_a_stream_promises_nothing(size: int, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(riff(size, PCM))
    ((_, wave),) = rows(source(tmp_path)).items()
    np.testing.assert_allclose(wave, WAVE, atol=1e-4)


@pytest.mark.parametrize(
    "data",
    [riff(len(PCM), PCM, LIST), riff(len(PCM), PCM, XMP), riff(len(PCM), PCM, b"\0")],
)
def test_what_follows_the_sound_is_no_fault(data: bytes) -> None:
    assert length_fault(io.BytesIO(data), len(data)) == ""


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (riff(0, PCM), "no finished header: it promises 0 bytes of sound, 40000 more"),
        (riff(20_000, PCM), "promises 20000 bytes of sound, 20000 more follow"),
        (riff(50_000, PCM), "header promises 50000 bytes of sound, 40000 are there"),
    ],
)
def test_a_wrong_length_in_the_header_is_a_bad_row(
    data: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / "a.wav").write_bytes(data)
    ((_, fault),) = rows(source(tmp_path)).items()
    assert message in fault
    assert "a tool such as sox or ffmpeg writes a file of what is there" in fault


@pytest.mark.parametrize(
    ("data", "whole"),
    [(riff(50_000, PCM), 6), (riff(0, PCM), 0), (sound("a.w64")[:-10], 6)],
)
def test_windows_that_are_there_are_rows_and_the_rest_is_one_bad_row(
    data: bytes, whole: int, tmp_path: Path
) -> None:
    (tmp_path / "a.wav").write_bytes(data)
    made = rows(source(tmp_path, window_frames=3000))
    assert len(made) == whole + 1
    for number in range(whole):
        expected = WAVE[3000 * number : 3000 * (number + 1)]
        np.testing.assert_allclose(made[f"a.wav#{number}"], expected, atol=1e-4)
    assert "promises" in made[f"a.wav#{whole}"]


def test_recordings_shorter_than_a_window_are_named(tmp_path: Path) -> None:
    for name, frames in (("a", 2000), ("b", 4000), ("c", 800)):
        soundfile.write(tmp_path / f"{name}.wav", WAVE[:frames], 8000)
    found = source(tmp_path, window_frames=3000)
    assert [file.blocks for file in found.files()] == [(0,), (1,), (0,)]
    (note,) = found.notes()
    assert note.startswith("2 recordings are shorter than a window of 3000 frames")
    assert "'a.wav' with 2000 (0.25 s)" in note
    assert 'step = "pad"' in note
    with pytest.raises(ConfigError, match=r"must be at most .*3 recordings .*'a\.wav'"):
        source(tmp_path, window_frames=5000).files()
    assert source(tmp_path).notes() == []


def test_a_stream_of_flac_without_a_length_is_named(tmp_path: Path) -> None:
    data = bytearray(sound("a.flac"))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    (tmp_path / "a.flac").write_bytes(data)
    ((_, fault),) = rows(source(tmp_path)).items()
    assert "its header does not say how many" in fault
    with pytest.raises(ConfigError, match=r"a\.flac' claims \d+ frames in \d+ bytes"):
        source(tmp_path, window_frames=100).files()


@given(st.binary(max_size=80), st.sampled_from(sorted(FORMATS)), st.integers(0, 100))
def test_no_bytes_trouble_the_search_for_the_length(
    junk: bytes, name: str, at: int
) -> None:
    data = HEADS[name]
    for changed in (data[:at] + junk + data[at + len(junk) :], data[:4] + junk):
        assert isinstance(length_fault(io.BytesIO(changed), len(changed)), str)


HEADS = {name: sound(name, WAVE[:100]) for name in FORMATS}
