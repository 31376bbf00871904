"""What is played is written down; a disk without room ends that, and nothing else."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from p2pstream.errors import DiskFull
from p2pstream.node.viewer import recording

FULL = Path("/dev/full")


def test_init_comes_once_and_first_with_a_key_frame(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with recording(str(path), io.BytesIO()) as recorder:
        recorder.write(b"init", b"-before", key=False)
        recorder.write(b"init", b"-key", key=True)
        recorder.write(b"init", b"-more", key=False)
    assert path.read_bytes() == b"init-key-more"
    assert recorder.bytes == len(b"init-key-more")


def test_another_init_is_written_before_its_first_chunk() -> None:
    out = io.BytesIO()
    with recording("-", out) as recorder:
        recorder.write(b"A", b"1", key=True)
        recorder.write(b"B", b"2", key=True)
    assert out.getvalue() == b"A1B2"


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("size", [100, 100_000])
def test_a_full_disk_ends_the_recording_only(size: int) -> None:
    """Also where what was refused is still in the buffer when the file is closed."""
    with recording(str(FULL), io.BytesIO()) as recorder:
        recorder.write(b"init", bytes(size), key=True)
        assert recorder.failed is not None
        assert "no room left" in str(recorder.failed)
        recorder.write(b"init", bytes(size), key=True)
    assert recorder.bytes == 0


def test_a_folder_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    with (
        pytest.raises(DiskFull, match="cannot write"),
        recording(str(tmp_path / "no" / "out.mp4"), io.BytesIO()),
    ):
        pass
