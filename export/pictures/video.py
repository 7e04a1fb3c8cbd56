"""The frames of a video, one by one, and a video of frames; through OpenCV, which is optional."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from export.errors import DataError
from export.optional import require

if TYPE_CHECKING:
    import cv2

SUFFIXES = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"})
# In pictures and videos that are drawn, so that a later call knows that it may replace them.
MARK = b"drawn by slimdet predict"


@contextmanager
def open_video(path: Path) -> Iterator["Video"]:
    """Open a video for reading.

    Raises:
        DataError: it is missing, or no video that OpenCV can read.
        MissingDependencyError: OpenCV is not installed.
    """
    cv2 = require("cv2", extra="video", purpose=f"Reading the video {path}")
    if not path.is_file():
        raise DataError(f"{path}: no such file; a video was expected here")
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise DataError(f"{path}: not a video that OpenCV can read; convert or remove it")
        yield Video(cv2, capture)
    finally:
        capture.release()


class Video:
    """A video that is being read."""

    def __init__(self, cv2: ModuleType, capture: "cv2.VideoCapture") -> None:
        self._cv2, self._capture = cv2, capture
        self.frames_per_second = float(capture.get(cv2.CAP_PROP_FPS)) or 25.0

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """Yield (H, W, 3) RGB until the end."""
        while True:
            there, frame = self._capture.read()
            if not there:
                return
            yield np.ascontiguousarray(frame[..., ::-1])


class VideoWriter:
    """Write frames to an MP4 file, renamed into place when complete."""

    def __init__(self, path: Path, frames_per_second: float) -> None:
        self.path = path
        self._rate = frames_per_second
        self._partial = path.with_name(f"{path.stem}.partial{path.suffix}")
        self._writer: Any = None
        self._cv2 = require("cv2", extra="video", purpose=f"Writing the video {path}")

    def add(self, frame: NDArray[np.uint8]) -> None:
        """Append an (H, W, 3) RGB frame of the first one's size.

        Raises:
            DataError: the file cannot be written.
        """
        if self._writer is None:
            self._partial.parent.mkdir(parents=True, exist_ok=True)
            kind = self._cv2.VideoWriter_fourcc(*"mp4v")
            size = (frame.shape[1], frame.shape[0])
            self._writer = self._cv2.VideoWriter(str(self._partial), kind, self._rate, size)
            if not self._writer.isOpened():
                raise DataError(f"{self.path}: cannot be written; choose another --out")
        self._writer.write(np.ascontiguousarray(frame[..., ::-1]))

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish the file, or remove it after an error."""
        if self._writer is not None:
            self._writer.release()
        if kind is None and self._partial.exists():
            with self._partial.open("ab") as file:  # a box that players skip
                file.write(struct.pack(">I4s", 8 + len(MARK), b"free") + MARK)
            self._partial.replace(self.path)
        else:
            self._partial.unlink(missing_ok=True)
