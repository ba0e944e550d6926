"""Read audio files as waveforms, whole or in windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from transforms import device, storage
from transforms.dtypes import Feature
from transforms.lookup import ConfigError
from transforms.shard import Piece, position
from transforms.sources.files import Listing, list_files
from transforms.sources.images import folder_of
from transforms.sources.left_out import suffix_remedy
from transforms.sources.sound_length import length_fault
from transforms.sources.source import File, traced_once, unconverted
from transforms.sources.staging import copied

if TYPE_CHECKING:
    import tensorflow as tf

SUFFIXES = (
    ".wav",
    ".wave",
    ".flac",
    ".ogg",
    ".oga",
    ".opus",
    ".mp3",
    ".aiff",
    ".aif",
    ".aifc",
    ".au",
    ".snd",
    ".caf",
    ".w64",
    ".rf64",
)
"""Of files that are read unless the config says otherwise."""
_PARALLEL_HEADERS = 16
_MOST_FRAMES_IN_A_BYTE = 8192  # twice what FLAC makes of silence
_UNKNOWN = (1 << 63) - 1


@dataclass(frozen=True)
class Audio:
    """Audio files, as libsndfile reads them, as float32 waveforms from -1 to 1.

    Features are `waveform` (float32 `[frames]`, `[frames, channels]` for several
    channels), `path` (relative), `start_seconds` of the row in its file and, if asked
    for, `label`. Nothing is resampled, mixed or filled up: a file of another sample
    rate or number of channels is a bad row, and a rest of a file that is shorter than
    a window is left out.

    A file that does not hold what its header promises, since it was cut short or its
    recorder died, is a bad row. Of windows it is the last row of its file that is bad,
    after all those that lie wholly in what is there.

    Attributes:
      path: directory or glob, one or a list; on any filesystem. A directory stands for
        all WAV, FLAC, Ogg, MP3, AIFF, AU, CAF, W64 and RF64 files below it, by their
        suffix.
      sample_rate: frames per second (Hz) that all files must have.
      channels: number of channels that all files must have.
      window_frames: length of a window; each row is a window. If absent, each row is a
        whole file.
      hop_frames: frames from the start of one window to the start of the next. If
        absent, each window begins where the one before it ends.
      suffixes: of the files to read, in place of those of these formats; an empty list
        stands for all files.
      label: `folder` adds the feature `label`, the name of the directory that a file
        lies in. If absent, there is no such feature.
      max_frames: a row that would be longer, by the file's header, is a bad row and is
        not decoded.
    """

    path: str | list[str]
    sample_rate: int
    channels: int = 1
    window_frames: int | None = None
    hop_frames: int | None = None
    suffixes: list[str] | None = None
    label: Literal["folder"] | None = None
    max_frames: int = 1 << 27

    localize = staticmethod(copied)

    @property
    def default_key(self) -> str | None:
        """`path` if rows are whole files; None (file and number) if windows."""
        return None if self.window_frames else "path"

    def files(self) -> list[File]:
        """List the files; for windows open their headers to count the windows.

        Raises:
          ConfigError: there are no files, an option is wrong, a header is damaged, or
            the package soundfile is missing.
        """
        _soundfile()
        for name in ("sample_rate", "channels", "window_frames", "hop_frames"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"source.{name} must be at least 1, got {value}")
        if self.hop_frames and not self.window_frames:
            raise ConfigError("source.hop_frames needs source.window_frames, got none")
        if self.window_frames is None:
            return [replace(file, blocks=(1,)) for file in self._files]
        if short := [] if any(rows for _, rows, _ in self._windows) else self._short:
            raise ConfigError(
                f"source.window_frames must be at most the frames of a recording;"
                f" {short[0]}"
            )
        return [replace(file, blocks=(rows,)) for file, rows, _ in self._windows]

    def notes(self) -> list[str]:
        """Say which files are not read, and which recordings give no window."""
        said = self._files.left_out.notes(
            f"{suffix_remedy(self._files.suffixes)}; other formats than those of"
            " libsndfile, such as AAC, must be converted first"
        )
        return said + self._short

    def describe(self) -> Mapping[str, Feature]:
        """Give the features; no file is opened."""
        shape: tuple[int | None, ...] = (self.window_frames,)
        if self.channels > 1:
            shape = (*shape, self.channels)
        found = {
            "waveform": Feature("float32", shape),
            "path": Feature("string"),
            "start_seconds": Feature("float64"),
        }
        return found | ({"label": Feature("string")} if self.label else {})

    def read(
        self,
        pieces: Sequence[Piece],
        features: Mapping[str, Feature],
        batch_rows: int | None,
    ) -> tf.data.Dataset:
        """Decode rows, several at a time where there are threads for it."""
        import tensorflow as tf

        threads = device.reader_threads()
        rows = [(i, r) for i, p in enumerate(pieces) for r in range(p.rows or 0)]
        hop = self.hop_frames or self.window_frames or 0
        starts = [(pieces[i].start + r) * hop for i, r in rows]
        columns = {
            "at": tf.constant([position(i, r) for i, r in rows], tf.int64),
            "file": [pieces[i].file for i, _ in rows],
            "path": [pieces[i].name for i, _ in rows],
            "label": [folder_of(pieces[i].name) for i, _ in rows],
            "start": tf.constant(starts, tf.int64),
        }

        def decode(row: Mapping[str, Any]) -> tuple[Any, Any]:
            found = {"path": row["path"], "label": row["label"]}
            seconds = tf.cast(row["start"], tf.float64) / self.sample_rate
            found["start_seconds"] = seconds
            if "waveform" in features:
                arguments = [row["file"], row["start"]]
                wave = tf.numpy_function(self._decode, arguments, tf.float32)
                found["waveform"] = tf.ensure_shape(wave, features["waveform"].shape)
            return row["at"], {name: found[name] for name in features}

        def build(rows: tf.data.Dataset) -> tf.data.Dataset:
            parallel = threads if threads > 1 else None
            examples = rows.map(unconverted(decode), parallel)
            return examples if batch_rows is None else examples.batch(batch_rows)

        rows = tf.data.Dataset.from_tensor_slices(columns)
        key = (*features.items(), batch_rows, threads)
        return traced_once(self, key, build)(rows)

    def _decode(self, file: bytes, start: np.ndarray) -> np.ndarray:
        """Decode one row of a local file: float32 `[frames]` or `[frames, channels]`.

        Args:
          file: path of the file.
          start: first frame of the row.

        Raises:
          ValueError: the file is damaged, or of another kind than the config says.
        """
        soundfile = _soundfile()
        try:
            with soundfile.SoundFile(file.decode()) as sound:
                expected = self._frames(sound)
                sound.seek(int(start))
                wave = sound.read(expected, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise ValueError(
                f"audio cannot be decoded, it is damaged or cut short: {error}"
            ) from None
        if self.window_frames is None or len(wave) != expected:
            _check_length(Path(file.decode()), len(wave), expected)
        return np.ascontiguousarray(wave[:, 0] if self.channels == 1 else wave)

    def _frames(self, sound: Any) -> int:
        """Check that a file is of the planned kind; give the frames of a row of it."""
        found = (sound.samplerate, sound.channels)
        if found != (self.sample_rate, self.channels):
            raise ValueError(
                f"audio must have {self.sample_rate} Hz and {self.channels}"
                f" channel(s), got {found[0]} Hz and {found[1]}; convert the"
                " file, or correct source.sample_rate or source.channels"
            )
        frames: int = self.window_frames or sound.frames
        if frames > self.max_frames:
            says = "does not say how many" if frames == _UNKNOWN else f"says {frames}"
            raise ValueError(
                f"audio must have at most source.max_frames = {self.max_frames} frames,"
                f" its header {says}"
            )
        return frames

    @cached_property
    def _files(self) -> Listing:
        return list_files(self.path, suffixes=SUFFIXES, chosen=self.suffixes)

    @cached_property
    def _windows(self) -> list[tuple[File, int, int]]:
        """Each file with its number of rows and of frames."""
        with ThreadPoolExecutor(_PARALLEL_HEADERS) as pool:
            return list(pool.map(self._with_windows, self._files))

    @property
    def _short(self) -> list[str]:
        """Name recordings that are shorter than a window; empty if there is none."""
        if self.window_frames is None:
            return []
        short = [(file.name, frames) for file, n, frames in self._windows if not n]
        if not short:
            return []
        name, frames = short[0]
        count = "1 recording is" if len(short) == 1 else f"{len(short)} recordings are"
        return [
            f"{count} shorter than a window of {self.window_frames} frames and so no"
            f" row, such as {name!r} with {frames} ({frames / self.sample_rate:g} s);"
            " choose shorter windows, or leave out source.window_frames and fill up"
            ' with { step = "pad", feature = "waveform", lengths = […] }'
        ]

    def _with_windows(self, file: File) -> tuple[File, int, int]:
        """Count the windows that lie wholly in a file, and a row for what is lost."""
        assert self.window_frames is not None
        soundfile = _soundfile()
        fs, path = storage.filesystem(file.uri)
        try:
            with fs.open(path, "rb") as stream:
                frames = soundfile.info(stream).frames
                fault = length_fault(stream, file.bytes)
        except soundfile.LibsndfileError as error:
            raise ConfigError(
                f"source.path must hold audio files, cannot read the header of"
                f" {file.uri!r}: {error}; remove or replace the file"
            ) from None
        if frames > file.bytes * _MOST_FRAMES_IN_A_BYTE:
            raise ConfigError(
                f"source.path must hold files whose headers give their length,"
                f" {file.uri!r} claims {frames} frames in {file.bytes} bytes; write"
                " the file anew with a tool such as sox or ffmpeg"
            )
        hop = self.hop_frames or self.window_frames
        windows = max(0, (frames - self.window_frames) // hop + 1)
        return file, windows + bool(fault), frames


def _check_length(path: Path, frames: int, expected: int) -> None:
    """Refuse a row if its file does not hold what its header promises."""
    with path.open("rb") as stream:
        fault = length_fault(stream, path.stat().st_size)
    if frames != expected:
        fault = fault or f"audio is cut short: of {expected} frames {frames} are there"
    if fault:
        raise ValueError(
            f"{fault}; a tool such as sox or ffmpeg writes a file of what is there"
        )


def _soundfile() -> Any:
    try:
        import soundfile
    except (ImportError, OSError) as error:
        raise ConfigError(
            "source.reader audio needs the package soundfile; install featuretap[audio]"
        ) from error
    return soundfile
