"""The container: ISO BMFF boxes, H.264 NAL units and AAC configurations. Pure: no FFmpeg here.

A chunk is one moof with a track fragment for each track, and one mdat. Its base is the moof
itself (CMAF, ISO/IEC 23000-19, 7.5), so a chunk means the same wherever it lies. libavformat is
not used for it: it can end a fragment only when the next packet has come, a frame too late.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

VIDEO_TRACK = 1
AUDIO_TRACK = 2

# Sample flags, ISO/IEC 14496-12, 8.8.3.1.
_SYNC = 0x0200_0000  # Depends on no other sample.
_NOT_SYNC = 0x0101_0000  # Depends on others, and is no sync sample.

# NAL unit types, ITU-T H.264, table 7-1.
_IDR, _SEI, _SPS, _PPS, _DELIMITER = 5, 6, 7, 8, 9
_MAIN_PROFILES = {66, 77, 88}  # Those whose avcC has no chroma fields (ISO/IEC 14496-15, 5.3.3).


@dataclass(frozen=True, slots=True)
class Sample:
    """One coded picture or audio frame.

    dts, duration: in its track's timescale, as is cts: presentation less decoding time.
    """

    dts: int
    duration: int
    key: bool
    data: bytes
    cts: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive samples of one track."""

    track: int
    samples: Sequence[Sample]


def chunk(sequence: int, runs: Sequence[Run]) -> bytes:
    """moof + mdat of the runs that have samples. `sequence` counts chunks and wraps at 2^32."""
    full = [run for run in runs if run.samples]
    assert full, "a chunk has at least one sample"
    body = b"".join(sample.data for run in full for sample in run.samples)
    start = len(_moof(sequence, full, 0)) + 8
    return _moof(sequence, full, start) + box(b"mdat", body)


def box(kind: bytes, *parts: bytes) -> bytes:
    """A box of `parts`."""
    size = 8 + sum(map(len, parts))
    return b"".join((struct.pack(">I4s", size, kind), *parts))


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, content) of the boxes that lie in `data` one after the other.

    Raises `ValueError` when sizes do not add up.
    """
    at = 0
    while at < len(data):
        if len(data) - at < 8:
            raise ValueError(f"{len(data) - at} bytes after the last box")
        size, kind = struct.unpack_from(">I4s", data, at)
        if not 8 <= size <= len(data) - at:
            raise ValueError(f"box {kind!r} claims {size} of {len(data) - at} bytes")
        yield kind, data[at + 8 : at + size]
        at += size


def codecs(init: bytes) -> str:
    """What `init` needs, as in RFC 6381: "avc1.4d401f,mp4a.40.2". Raises `ValueError`."""
    moov = dict(boxes(init)).get(b"moov", b"")
    found = [_codec(content) for kind, content in boxes(moov) if kind == b"trak"]
    return ",".join(found)


def nal_units(annex_b: bytes) -> list[bytes]:
    """The NAL units between start codes."""
    units = []
    at = annex_b.find(b"\0\0\1")
    while at >= 0:
        end = annex_b.find(b"\0\0\1", at + 3)
        unit = annex_b[at + 3 :] if end < 0 else annex_b[at + 3 : end]
        # A unit never ends in a zero byte (H.264, 7.4.1): those belong to the next start code.
        units.append(unit.rstrip(b"\0"))
        at = end
    return [unit for unit in units if unit]


def sized_nal_units(data: bytes, length_bytes: int) -> list[bytes]:
    """The NAL units of an AVC sample with lengths of `length_bytes`. Raises `ValueError`."""
    units, at = [], 0
    while at < len(data):
        start = at + length_bytes
        at = start + int.from_bytes(data[at:start])
        if start > len(data) or at > len(data):
            raise ValueError("a NAL unit is longer than its sample")
        units.append(data[start:at])
    return [unit for unit in units if unit]


def avc_sample(units: Sequence[bytes], parameters: Sequence[bytes]) -> bytes:
    """A sample of `units`, with `parameters` (SPS and PPS) in front if it is an IDR without.

    In band, because FFmpeg's HLS demuxer (mpv, ffplay) ignores a second moov: after a change of
    renditions only these save its decoder.
    """
    kept = [unit for unit in units if unit[0] & 31 != _DELIMITER]
    if is_idr(kept) and not any(unit[0] & 31 == _SPS for unit in kept):
        kept = [*parameters, *kept]
    return b"".join(len(unit).to_bytes(4) + unit for unit in kept)


def is_idr(units: Sequence[bytes]) -> bool:
    """Whether decoding can start here."""
    return any(unit[0] & 31 == _IDR for unit in units)


def without_sei(units: Sequence[bytes]) -> list[bytes]:
    """`units` less x264's advertisement, which costs 700 bytes with every key frame."""
    return [unit for unit in units if unit[0] & 31 != _SEI]


def parameter_sets(units: Sequence[bytes]) -> list[bytes]:
    """The SPS, then the PPS, among `units`."""
    wanted = [unit for unit in units if unit[0] & 31 in {_SPS, _PPS}]
    return sorted(wanted, key=lambda unit: unit[0] & 31)


def avcc(parameters: Sequence[bytes]) -> bytes:
    """The configuration record of 8-bit 4:2:0 video with lengths of 4 bytes (14496-15, 5.3.3).

    Raises `ValueError` without an SPS and a PPS.
    """
    sps = [unit for unit in parameters if unit[0] & 31 == _SPS]
    pps = [unit for unit in parameters if unit[0] & 31 == _PPS]
    if not sps or not pps or len(sps[0]) < 4:
        raise ValueError("no SPS and PPS")
    head = b"\1" + sps[0][1:4] + b"\xff" + bytes([0xE0 | len(sps)])
    sets = b"".join(len(unit).to_bytes(2) + unit for unit in sps)
    sets += bytes([len(pps)]) + b"".join(len(unit).to_bytes(2) + unit for unit in pps)
    tail = b"" if sps[0][1] in _MAIN_PROFILES else b"\xfd\xf8\xf8\x00"
    return head + sets + tail


def avcc_parameters(record: bytes) -> tuple[list[bytes], int]:
    """The parameter sets in an avcC record, and its bytes per length. Raises `ValueError`."""
    if len(record) < 7 or record[0] != 1:
        raise ValueError("not an avcC record")
    units: list[bytes] = []
    at = 5
    for mask in (31, 255):
        count, at = record[at] & mask, at + 1
        for _ in range(count):
            end = at + 2 + int.from_bytes(record[at : at + 2])
            units.append(record[at + 2 : end])
            at = end
        if at > len(record) - (mask == 31):
            raise ValueError("avcC record is cut short")
    return [unit for unit in units if unit], (record[4] & 3) + 1


def adts_config(frame: bytes) -> bytes:
    """The AudioSpecificConfig that an ADTS header spells out (ISO/IEC 14496-3, 1.A.3.2)."""
    if not is_adts(frame):
        raise ValueError("not an ADTS frame")
    profile, rate = (frame[2] >> 6) + 1, frame[2] >> 2 & 15
    channels = (frame[2] & 1) << 2 | frame[3] >> 6
    return (profile << 11 | rate << 7 | channels << 3).to_bytes(2)


def without_adts(frame: bytes) -> bytes:
    """The raw AAC frame inside an ADTS one."""
    return frame[7 if frame[1] & 1 else 9 :]


def is_adts(frame: bytes) -> bool:
    """Whether an AAC frame carries its own header."""
    return len(frame) > 7 and frame[0] == 0xFF and frame[1] & 0xF6 == 0xF0


def _moof(sequence: int, runs: Sequence[Run], data_start: int) -> bytes:
    fragments = []
    for run in runs:
        fragments.append(_traf(run, data_start))
        data_start += sum(len(sample.data) for sample in run.samples)
    header = box(b"mfhd", struct.pack(">II", 0, sequence & 0xFFFF_FFFF))
    return box(b"moof", header, *fragments)


def _traf(run: Run, data_start: int) -> bytes:
    """Says once what all samples share: overhead is paid by every viewer's uplink."""
    samples = run.samples
    flags = [_SYNC if sample.key else _NOT_SYNC for sample in samples]
    same_duration = len({sample.duration for sample in samples}) == 1
    has_cts = any(sample.cts for sample in samples)
    same_flags = len(set(flags[1:])) <= 1

    tfhd_flags = 0x02_0000 | (0x08 if same_duration else 0) | (0x20 if same_flags else 0)
    tfhd = struct.pack(">II", tfhd_flags, run.track)
    tfhd += struct.pack(">I", samples[0].duration) if same_duration else b""
    tfhd += struct.pack(">I", flags[-1]) if same_flags else b""

    first = same_flags and flags[0] != flags[-1]
    trun_flags = 0x0100_0201 | (0x04 if first else 0)  # Version 1: signed cts. Offset and sizes.
    trun_flags |= (0 if same_duration else 0x100) | (0 if same_flags else 0x400)
    trun_flags |= 0x800 if has_cts else 0
    trun = [struct.pack(">IIi", trun_flags, len(samples), data_start)]
    trun.append(struct.pack(">I", flags[0]) if first else b"")
    for sample, flag in zip(samples, flags, strict=True):
        trun.append(b"" if same_duration else struct.pack(">I", sample.duration))
        trun.append(struct.pack(">I", len(sample.data)))
        trun.append(b"" if same_flags else struct.pack(">I", flag))
        trun.append(struct.pack(">i", sample.cts) if has_cts else b"")

    tfdt = box(b"tfdt", struct.pack(">IQ", 0x0100_0000, samples[0].dts))
    return box(b"traf", box(b"tfhd", tfhd), tfdt, box(b"trun", *trun))


def _codec(trak: bytes) -> str:
    entry = _inside(trak, b"mdia", b"minf", b"stbl", b"stsd")[8:]
    for kind, content in boxes(entry):
        if kind == b"avc1":
            return f"avc1.{_inside(content[78:], b'avcC')[1:4].hex()}"
        if kind == b"mp4a":
            return f"mp4a.40.{_audio_object(_inside(content[28:], b'esds'))}"
    raise ValueError("a track that is neither H.264 nor AAC")


def _inside(data: bytes, *path: bytes) -> bytes:
    for kind in path:
        found = dict(boxes(data)).get(kind)
        if found is None:
            raise ValueError(f"no {kind!r} box")
        data = found
    return data


def _audio_object(esds: bytes) -> int:
    """The first five bits of the AudioSpecificConfig: descriptor 5 (ISO/IEC 14496-1, 7.2.6.7)."""
    at = esds.find(b"\x05", 4 + 8)
    while at >= 0:
        length_at = at + 1
        while length_at < len(esds) and esds[length_at] & 0x80:
            length_at += 1
        if length_at + 1 < len(esds) and 2 <= esds[length_at] <= 64:
            return esds[length_at + 1] >> 3
        at = esds.find(b"\x05", at + 1)
    raise ValueError("no AudioSpecificConfig")
