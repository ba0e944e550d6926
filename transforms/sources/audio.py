"""Read WAV and FLAC files as waveforms, whole or in windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from transforms import device, storage
from transforms.dtypes import Feature
from transforms.lookup import ConfigError
from transforms.shard import Piece, position
from transforms.sources.files import list_files
from transforms.sources.images import folder_of
from transforms.sources.source import File
from transforms.sources.staging import copied

if TYPE_CHECKING:
    import tensorflow as tf

_SUFFIXES = (".wav", ".flac")
_PARALLEL_HEADERS = 16


@dataclass(frozen=True)
class Audio:
    """WAV and FLAC files as float32 waveforms from -1 to 1.

    Features are `waveform` (float32 `[frames]`, `[frames, channels]` for several
    channels), `path` (relative), `start_seconds` of the row in its file and, if asked
    for, `label`. Nothing is resampled, mixed or filled up: a file of another sample
    rate or number of channels is a bad row, and a window that would reach beyond the
    end of its file is none.

    Attributes:
      path: directory or glob, one or a list; on any filesystem. Of a directory all
        WAV and FLAC files below it, by their suffix.
      sample_rate: that all files must have, in Hz.
      channels: that all files must have.
      window_frames: with it rows are windows of so many frames; without, whole files.
      hop_frames: from the start of a window to that of the next; by default they lie
        end to end.
      label: `folder` gives the name of the directory that a file lies in.
      max_frames: a file that claims to be longer, read as a whole, is a bad row.
    """

    path: str | list[str]
    sample_rate: int
    channels: int = 1
    window_frames: int | None = None
    hop_frames: int | None = None
    label: Literal["folder"] | None = None
    max_frames: int = 1 << 27

    localize = staticmethod(copied)

    @property
    def default_key(self) -> str | None:
        """The relative path of whole files; of windows file and number."""
        return None if self.window_frames else "path"

    def files(self) -> list[File]:
        """List the files; for windows their headers tell how many there are."""
        _soundfile()
        for name in ("sample_rate", "channels", "window_frames", "hop_frames"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"source.{name} must be at least 1, got {value}")
        if self.hop_frames and not self.window_frames:
            raise ConfigError("source.hop_frames needs source.window_frames, got none")
        files = list_files(self.path, suffixes=_SUFFIXES)
        if self.window_frames is None:
            return [replace(file, blocks=(1,)) for file in files]
        with ThreadPoolExecutor(_PARALLEL_HEADERS) as pool:
            return list(pool.map(self._with_windows, files))

    def describe(self) -> Mapping[str, Feature]:
        """Give the features; nothing is opened."""
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

        examples = tf.data.Dataset.from_tensor_slices(columns).map(
            decode, threads if threads > 1 else None
        )
        return examples if batch_rows is None else examples.batch(batch_rows)

    def _decode(self, file: bytes, start: np.ndarray) -> np.ndarray:
        """Decode a row of a local file.

        Raises:
          ValueError: it is damaged, or of another kind than the config says.
        """
        soundfile = _soundfile()
        try:
            with soundfile.SoundFile(file.decode()) as sound:
                found = (sound.samplerate, sound.channels)
                if found != (self.sample_rate, self.channels):
                    raise ValueError(
                        f"audio must have {self.sample_rate} Hz and {self.channels}"
                        f" channel(s), got {found[0]} Hz and {found[1]}; convert the"
                        " file, or correct source.sample_rate or source.channels"
                    )
                expected = self.window_frames or sound.frames
                if expected > self.max_frames:
                    raise ValueError(
                        f"audio must have at most source.max_frames ="
                        f" {self.max_frames} frames, its header says {expected}"
                    )
                sound.seek(int(start))
                wave = sound.read(expected, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise ValueError(f"audio cannot be decoded: {error}") from None
        if len(wave) != expected:
            raise ValueError(
                f"audio must have {expected} frames as its header says, got {len(wave)}"
            )
        return np.ascontiguousarray(wave[:, 0] if self.channels == 1 else wave)

    def _with_windows(self, file: File) -> File:
        """Count the windows that lie wholly in a file."""
        assert self.window_frames is not None
        soundfile = _soundfile()
        fs, path = storage.filesystem(file.uri)
        try:
            with fs.open(path, "rb") as stream:
                frames = soundfile.info(stream).frames
        except soundfile.LibsndfileError as error:
            raise ConfigError(
                f"source.path must hold WAV or FLAC files, cannot read the header of"
                f" {file.uri!r}: {error}; remove or replace the file"
            ) from None
        hop = self.hop_frames or self.window_frames
        windows = max(0, (frames - self.window_frames) // hop + 1)
        return replace(file, blocks=(windows,))


def _soundfile() -> Any:
    try:
        import soundfile
    except (ImportError, OSError) as error:
        raise ConfigError(
            "source.reader audio needs the package soundfile; install featuretap[audio]"
        ) from error
    return soundfile
