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
    rate or number of channels is a bad row, and a rest of a file that is shorter than
    a window is left out.

    Attributes:
      path: directory or glob, one or a list; on any filesystem. A directory stands for
        all WAV and FLAC files below it, by their suffix.
      sample_rate: frames per second (Hz) that all files must have.
      channels: number of channels that all files must have.
      window_frames: length of a window; each row is a window. If absent, each row is a
        whole file.
      hop_frames: frames from the start of one window to the start of the next. If
        absent, each window begins where the one before it ends.
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
        files = list_files(self.path, suffixes=_SUFFIXES)
        if self.window_frames is None:
            return [replace(file, blocks=(1,)) for file in files]
        with ThreadPoolExecutor(_PARALLEL_HEADERS) as pool:
            return list(pool.map(self._with_windows, files))

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

        examples = tf.data.Dataset.from_tensor_slices(columns).map(
            decode, threads if threads > 1 else None
        )
        return examples if batch_rows is None else examples.batch(batch_rows)

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
