"""The types of the fixtures in conftest.py."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from p2pstream.media.options import Source
from p2pstream.media.records import AnyRecord


class Film(Protocol):
    """Makes a small film."""

    def __call__(
        self,
        name: str = "film.mp4",
        *,
        seconds: float = 2.0,
        gop: int = 25,
        b_frames: int = 0,
        video: str = "libx264",
        audio: str = "aac",
        layout: str = "stereo",
    ) -> Path: ...


class Play(Protocol):
    """Plays a source, for as many seconds of it, and returns what the worker would say."""

    def __call__(
        self, source: Source, *, seconds: float = 1e9, **options: float
    ) -> list[AnyRecord]: ...


class Join(Protocol):
    """Puts a rendition's init and chunks into one file."""

    def __call__(self, records: list[AnyRecord], rendition: int = 0) -> Path: ...
