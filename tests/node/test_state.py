"""What a node keeps on disk: never half written, never read by others, never worth dying for."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from p2pstream.errors import BadKey, DiskFull, KeyInUse
from p2pstream.identity import NodeId, NodeKey, StreamId, StreamKey
from p2pstream.node.state import MARKS_MAX, PEERS_MAX, KeyFile, Paths, Store, write_whole
from tests.suites import SUITES, needs

STREAM = StreamId(bytes(range(32)))
OTHER = StreamId(bytes(32))
ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A key file that is fine."""
    made = tmp_path / "keys" / "node.pem"
    with KeyFile(made).use(NodeKey):
        pass
    return made


def pem(key: Ed25519PrivateKey | X25519PrivateKey, password: bytes | None = None) -> bytes:
    lock = form.BestAvailableEncryption(password) if password else form.NoEncryption()
    return key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, lock)


# Keys.


def test_a_key_is_made_on_first_use_and_kept(store: Store) -> None:
    with store.node_key().use(NodeKey) as first:
        pass
    with store.node_key().use(NodeKey) as second:
        pass
    with store.stream_key("camera").use(StreamKey) as stream:
        pass

    assert first.seed == second.seed != stream.seed
    assert isinstance(stream, StreamKey)


def test_a_new_key_is_its_owners_alone(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")


def test_i07_a_key_serves_one_node_at_a_time(path: Path) -> None:
    with KeyFile(path).use(NodeKey):
        with pytest.raises(KeyInUse, match=str(path)) as caught, KeyFile(path).use(NodeKey):
            pass
        assert caught.value.hint
    with KeyFile(path).use(NodeKey):
        pass


def refused(path: Path) -> str:
    """The reason for which a start with the key at `path` is refused; it stays as it was."""
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(BadKey) as caught, KeyFile(path).use(NodeKey):
        pass
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 16
    assert (path.read_bytes() if path.is_file() else None) == before
    return str(caught.value)


def test_i10_a_truncated_key_is_refused_and_kept(path: Path) -> None:
    whole = path.read_bytes()
    for length in (0, 1, 30, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:length])
        assert "not a key" in refused(path)


def test_i10_a_key_that_others_can_read_is_refused(path: Path) -> None:
    for mode in (0o644, 0o640, 0o604, 0o660, 0o602):
        path.chmod(mode)
        assert "others" in refused(path)


def test_i10_a_key_of_another_length_is_refused(path: Path) -> None:
    lines = path.read_bytes().splitlines()
    for body in (b"MC0CAQAwBQYDK2VwBCEEH" + b"A" * 42, b"A" * 64, b"", b"!" * 64):
        path.write_bytes(b"\n".join([lines[0], body, lines[-1], b""]))
        refused(path)


def test_i10_a_key_of_another_kind_is_refused(path: Path) -> None:
    path.write_bytes(pem(X25519PrivateKey.generate()))
    assert "not an Ed25519 key" in refused(path)
    path.write_bytes(pem(Ed25519PrivateKey.generate(), b"password"))
    refused(path)


def test_i10_a_key_of_an_unknown_kind_is_refused(path: Path) -> None:
    """RFC 8410 has four kinds of key; this is a fifth."""
    lines = path.read_bytes().splitlines()
    der = bytearray(base64.b64decode(b"".join(lines[1:-1])))
    der[der.index(b"\x2b\x65\x70") + 2] = 0x7F
    path.write_bytes(b"\n".join([lines[0], base64.b64encode(der), lines[-1], b""]))
    refused(path)


def test_i10_a_folder_or_a_link_in_the_place_of_a_key_is_refused(path: Path) -> None:
    elsewhere = path.with_name("elsewhere.pem")
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    assert "plain file" in refused(path)
    assert path.is_symlink()

    path.unlink()
    path.symlink_to(path.with_name("nowhere"))
    assert "plain file" in refused(path)

    path.unlink()
    path.mkdir()
    assert "plain file" in refused(path)


def test_i10_a_pipe_in_the_place_of_a_key_does_not_hang_us(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)

    assert "plain file" in refused(path)


# Writing.


def test_a_file_is_written_whole_with_its_rights(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    write_whole(path, b"one", mode=0o600)
    write_whole(path, b"two", mode=0o600)

    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_a_draft_left_by_a_crash_is_no_obstacle(tmp_path: Path) -> None:
    """In a container every run has the same process id."""
    path = tmp_path / "file"
    write_whole(path, b"old", mode=0o600)
    path.with_name(f".file.{os.getpid()}").write_bytes(b"half")

    write_whole(path, b"new", mode=0o600)

    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_draft_never_follows_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / f".file.{os.getpid()}").symlink_to(victim)
    with suppress(DiskFull):
        write_whole(tmp_path / "file", b"new", mode=0o600)
    assert victim.read_bytes() == b"precious"


def test_a_file_in_the_place_of_a_folder_is_told_to_a_person(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"")

    with pytest.raises(DiskFull, match="cannot write") as caught:
        Store(tmp_path / "state").save_mark(STREAM, 1)
    assert caught.value.hint


# Run inside a file system of 64 KiB.
FULL_DISK = """
import sys
from pathlib import Path
from p2pstream.errors import DiskFull
from p2pstream.node.state import write_whole

path = Path(sys.argv[1]) / "file"
write_whole(path, b"old" * 1000, mode=0o600)
try:
    write_whole(path, b"new" * 100_000, mode=0o600)
except DiskFull as error:
    assert "no room" in str(error), error
else:
    sys.exit("it was written")
assert path.read_bytes() == b"old" * 1000
assert list(path.parent.iterdir()) == [path]
write_whole(path, b"new" * 1000, mode=0o600)
print("fine")
"""


def test_h12_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    mount = f"mount -t tmpfs -o size=64k none {tmp_path}"
    inside = [unshare or "", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if not unshare or subprocess.run([*inside, mount], capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small file system")

    done = subprocess.run(
        [*inside, f'{mount} && exec "$@"', "sh", sys.executable, "-c", FULL_DISK, str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.stdout == "fine\n", done.stderr


# Facts.


def test_an_epoch_is_never_used_twice(store: Store) -> None:
    assert [store.next_epoch(STREAM, now_s=90.0) for _ in range(3)] == [1, 2, 3]
    assert store.next_epoch(OTHER, now_s=90.0) == 1
    assert Store(store.folder).next_epoch(STREAM, now_s=90.0) == 4


def test_an_epoch_is_higher_than_before_even_when_the_memory_of_it_is_lost(store: Store) -> None:
    before = [store.next_epoch(STREAM, now_s=6e9) for _ in range(3)][-1]
    (store.folder / "epochs.json").unlink()

    assert store.next_epoch(STREAM, now_s=6e9 + 300) > before


def test_h04_marks_outlive_the_process(store: Store) -> None:
    assert store.mark(STREAM) == 0
    store.save_mark(STREAM, 7)

    again = Store(store.folder)
    assert again.mark(STREAM) == 7
    assert again.mark(OTHER) == 0


def test_h04_a_mark_never_goes_down(store: Store) -> None:
    store.save_mark(STREAM, 7)
    store.save_mark(STREAM, 3)

    assert store.mark(STREAM) == 7


def test_of_many_marks_the_oldest_leave(store: Store) -> None:
    marks = {f"{n:064x}": n for n in range(MARKS_MAX)}
    store.folder.mkdir()
    (store.folder / "marks.json").write_text(json.dumps(marks))
    store.save_mark(STREAM, 9)

    assert store.mark(STREAM) == 9
    assert len(json.loads((store.folder / "marks.json").read_text())) == MARKS_MAX
    assert store.mark(StreamId(bytes(32))) == 0


def test_peers_are_remembered(store: Store) -> None:
    peers = [(NodeId(bytes([n]) * 32), ("192.0.2.1", 4000 + n)) for n in range(PEERS_MAX + 9)]
    assert store.peers() == []
    store.save_peers(peers)

    assert Store(store.folder).peers() == peers[:PEERS_MAX]


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b"{}", b"null", b"[1]", b'{"x": "y"}', b"\xff\xfe", b"[" * 100_000,
     b'[["zz", "::1", 1]]', b'[["00", "::1", 1]]', b'[["00", "::1"]]', b" " * (1 << 21)],
)  # fmt: skip
def test_damaged_facts_are_as_good_as_none(store: Store, damage: bytes) -> None:
    store.folder.mkdir()
    for name in ("epochs.json", "marks.json", "peers.json"):
        (store.folder / name).write_bytes(damage)

    assert store.peers() == []
    assert store.mark(STREAM) == 0
    assert store.next_epoch(STREAM, now_s=6e9) == 10**8
    store.save_mark(STREAM, 2)
    assert store.mark(STREAM) == 2


@needs("jsontestsuite")
def test_no_json_of_others_is_a_fact(store: Store) -> None:
    store.folder.mkdir()
    (store.folder / "peers.json").symlink_to("marks.json")
    for path in (SUITES / "jsontestsuite" / "test_parsing").iterdir():
        (store.folder / "marks.json").write_bytes(path.read_bytes())
        assert store.peers() == [], path
        assert store.mark(STREAM) == 0, path


def test_a_folder_in_the_place_of_a_fact_is_as_good_as_none(store: Store) -> None:
    (store.folder / "marks.json").mkdir(parents=True)

    assert store.mark(STREAM) == 0


def test_places_follow_the_xdg_specification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "c"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "s"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))

    paths = Paths.default()

    assert paths.config == tmp_path / "c" / "p2pstream" / "config.toml"
    assert paths.state == tmp_path / "s" / "p2pstream"
    assert paths.runtime == tmp_path / "p2pstream"
