"""Opens what people name: a file, standard input, a URL, the test source. Worker only.

Whatever a stranger could have written is kept from reaching further (security/architecture.md
5.9): a file opens no other file and no address, and playlists are not files.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.error
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from p2pstream.errors import InputNotFound, NoVideo, UnsupportedCodec, UserError
from p2pstream.media import ladder
from p2pstream.media.options import STDIN, TEST_SOURCE, Source, is_url

# Demuxers that read one file and no other: no playlists (hls, concat, dash, sdp), no image
# patterns, nothing that opens devices.
FILE_FORMATS = (
    "mov,mp4,matroska,webm,mpegts,mpeg,flv,live_flv,avi,h264,hevc,obu,ivf,ogg,asf,mxf,nut,"
    "mpegvideo,m4v,dv,yuv4mpegpipe,gif,wav,aac,mp3,flac,rm,vob"
)
URL_SCHEMES = {"http", "https", "rtsp", "rtsps", "rtmp", "rtmps", "rtp", "udp", "tcp"}
URL_PROTOCOLS = "http,https,httpproxy,crypto,tls,tcp,udp,rtp,rtsp,rtsps,rtmp,rtmps"
OPEN_S_MAX = 10.0  # Wild guess: a distant RTSP server needs 1.3 s (measured: one nearby).
SILENCE_S_MAX = 4.0  # Less than ingest.SILENCE_S, so that the worker can say what happened.
STREAMS_MAX = 32  # security 5.9 says 8; a film with ten subtitle tracks is not an attack.
PROBE_BYTES = 5_000_000  # security 5.9.
PROBE_US_FILE = 5_000_000  # security 5.9.
PROBE_US_LIVE = 700_000  # Measured: enough for MPEG-TS over UDP (facts/media.md, 3).
_TEST_SIZE = (1280, 720)
_GARBAGE_HINT = "Check that it is a video; `ffprobe` shows what is in it."


@dataclass(frozen=True, slots=True)
class Input:
    """An open source. live: it has no end, or none that it says, and comes at its own pace."""

    container: InputContainer
    video: VideoStream
    audio: AudioStream | None
    live: bool
    seekable: bool
    stamped: bool = False  # Burn the clock in.

    @property
    def fps(self) -> float:
        """Pictures per second, as far as the source knows."""
        rate = self.video.average_rate or self.video.guessed_rate or Fraction(30)
        return float(rate) if 1 <= rate <= 240 else 30.0

    @property
    def display_size(self) -> tuple[int, int]:
        """Width and height in square pixels."""
        context = self.video.codec_context
        aspect = self.video.sample_aspect_ratio or Fraction(1)
        if not Fraction(1, 4) <= aspect <= 4:
            aspect = Fraction(1)
        return round(context.width * aspect), context.height


def open_input(source: Source, *, skip: int = 0) -> Input:
    """Open `source`, a file `skip` ticks after its start. Raises `UserError`."""
    if source.input == TEST_SOURCE:
        return _open_test(source)
    if source.input == STDIN:
        return _checked(_open("pipe:0", _private("pipe"), name="Standard input"), source)
    if is_url(source.input):
        return _open_url(source)
    return _open_file(source, skip)


def _open_test(source: Source) -> Input:
    width, height = source.size or _test_size(source)
    graph = (
        f"testsrc2=size={width}x{height}:rate={source.fps}[out0];"
        "sine=frequency=440:beep_factor=4:sample_rate=48000[out1]"
    )
    container = av.open(graph, format="lavfi", mode="r")
    return Input(
        container=container,
        video=container.streams.video[0],
        audio=container.streams.audio[0],
        live=False,
        seekable=False,
        stamped=True,
    )


def _test_size(source: Source) -> tuple[int, int]:
    """A single rung's own size, which saves scaling."""
    wishes = ladder.parse(source.rungs)
    if len(wishes) != 1:
        return _TEST_SIZE
    height = wishes[0].height or ladder.height_for(wishes[0].bitrate)
    return round(height * 16 / 9 / 2) * 2, height


def _open_file(source: Source, skip: int) -> Input:
    path = Path(source.input).expanduser().absolute()
    if not path.exists():
        raise _missing(path)
    if path.is_dir():
        raise InputNotFound(f"{path} is a folder.", hint="Name a video file in it.")
    # With the scheme in front no file name can pass for another protocol.
    container = _open(f"file:{path}", _private("file"), name=path.name)
    opened = _checked(container, source)
    if skip and container.duration:
        wanted_us = skip * av.time_base // 90_000 % container.duration
        container.seek(wanted_us + (container.start_time or 0))
    return opened


def _open_url(source: Source) -> Input:
    scheme = source.input.partition("://")[0].lower()
    if scheme not in URL_SCHEMES:
        raise UnsupportedCodec(
            f"{scheme}:// is no kind of address that can be read.",
            hint=f"These can: {', '.join(sorted(URL_SCHEMES))}.",
        )
    options = {
        "protocol_whitelist": URL_PROTOCOLS,
        "analyzeduration": str(PROBE_US_LIVE),
        "live_start_index": "-1",
        "overrun_nonfatal": "1",
        "rtsp_transport": "tcp",
    }
    return _checked(_open(source.input, options, name=_without_secrets(source.input)), source)


def _private(protocol: str) -> dict[str, str]:
    return {
        "protocol_whitelist": protocol,
        "format_whitelist": FILE_FORMATS,
        "analyzeduration": str(PROBE_US_FILE),
    }


def _open(url: str, options: dict[str, str], *, name: str) -> InputContainer:
    options |= {"probesize": str(PROBE_BYTES), "max_streams": str(STREAMS_MAX)}
    timeout = (OPEN_S_MAX, SILENCE_S_MAX) if "://" in url else None
    try:
        return av.open(url, mode="r", options=options, timeout=timeout)
    except (av.error.InvalidDataError, av.error.ArgumentError) as error:
        raise UnsupportedCodec(_not_media(url, name), hint=_GARBAGE_HINT) from error
    except av.error.FFmpegError as error:
        raise InputNotFound(
            f"{name} cannot be opened: {error.strerror}.",
            hint="Check the address, that the source is running, and the right to read it.",
        ) from error


def _not_media(url: str, name: str) -> str:
    if url.startswith("file:") and _is_playlist(Path(url.removeprefix("file:"))):
        return f"{name} is a playlist. Playlists in files are not read: they may name anything."
    return f"{name} is not a video in a format that can be read."


def _is_playlist(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(64).lstrip(b"\xef\xbb\xbf \r\n")
    return start.startswith((b"#EXTM3U", b"ffconcat", b"v=0", b"[playlist]", b"<MPD", b"<?xml"))


def _checked(container: InputContainer, source: Source) -> Input:
    try:
        return _streams(container, source)
    except UserError:
        container.close()
        raise


def _streams(container: InputContainer, source: Source) -> Input:
    name = _without_secrets(source.input)
    pictures = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    best = container.streams.best("video")
    video = (
        best if isinstance(best, VideoStream) and best in pictures else next(iter(pictures), None)
    )
    if video is None:
        raise NoVideo(
            f"{name} has no video, only {_kinds(container)}.",
            hint="Add a picture to the sound, for example with ffmpeg's -loop 1 -i cover.png.",
        )
    decoder = _decoder(video)
    if decoder is None or not video.codec_context.width:
        raise UnsupportedCodec(f"{name}'s video cannot be decoded here.", hint=_GARBAGE_HINT)
    sound = container.streams.best("audio", related=video)
    audio = sound if isinstance(sound, AudioStream) and _decoder(sound) else None
    ends = container.duration is not None and container.duration > 0
    on_disk = source.input != STDIN and not is_url(source.input)
    return Input(
        container=container,
        video=video,
        audio=audio if audio is not None and audio.codec_context.sample_rate else None,
        live=not on_disk and not ends,
        seekable=on_disk,
    )


def _decoder(stream: Stream) -> object:
    """None where FFmpeg has no decoder, which PyAV's stubs do not say."""
    return getattr(stream, "codec_context", None)


def _kinds(container: InputContainer) -> str:
    return " and ".join(sorted({stream.type for stream in container.streams})) or "nothing"


def _without_secrets(name: str) -> str:
    """An address without its user, password and query: what goes into logs (M-05)."""
    if not is_url(name):
        return name if name != STDIN else "Standard input"
    scheme, _, rest = name.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path.partition('?')[0]}"


def _missing(path: Path) -> InputNotFound:
    if not path.parent.is_dir():
        return InputNotFound(
            f"There is no folder {path.parent}.", hint="Check the path for a typing error."
        )
    names = [entry.name for entry in path.parent.iterdir()]
    near = difflib.get_close_matches(path.name, names, n=3)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"Look into {path.parent}."
    return InputNotFound(f"There is no file {path.name} in {path.parent}.", hint=hint)
