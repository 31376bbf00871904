"""What to broadcast, and the order that the node gives its worker."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from p2pstream.errors import BadConfig

TEST_SOURCE = "testsrc"
STDIN = "-"


@dataclass(frozen=True, slots=True)
class Source:
    """What to broadcast and as what.

    input: a file, `-` for standard input, `testsrc`, or a URL. loop: play a file for ever. rungs:
    renditions to encode, such as "720p:2500k,480p", or one bit rate such as "1M" (bits per second,
    audio included) for exactly one rendition; empty lets the worker choose, or pass the input
    through untouched. size (width, height in pixels) and fps describe the test source only; size
    None follows the rungs.
    """

    input: str
    loop: bool = False
    rungs: str = ""
    size: tuple[int, int] | None = None
    fps: int = 30


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One worker's task.

    start_pts: where on the stream's timeline to go on, in ticks of 1/90000 s. skip: how much of a
    file the worker before this one has played, in ticks. paced: False runs as fast as it can, for
    tests. key_interval_s_max: pass H.264 through only if it can be joined this often.
    """

    source: Source
    start_pts: int = 0
    skip: int = 0
    paced: bool = True
    key_interval_s_max: float = 2.0  # design: a joining viewer waits for a key frame.

    def text(self) -> str:
        """As one command-line argument."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def parse(cls, text: str) -> Order:
        """The opposite of `text`. Raises `BadConfig`."""
        try:
            return msgspec.json.decode(text, type=cls)
        except (msgspec.DecodeError, UnicodeEncodeError) as error:
            raise BadConfig(f"not an order for the media worker: {error}") from None


def is_url(text: str) -> bool:
    """Whether an input is an address rather than a file."""
    scheme, mark, _ = text.partition("://")
    return bool(mark) and scheme.isascii() and scheme.isalnum()
