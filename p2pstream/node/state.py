"""What a node keeps on disk: its keys, the highest epochs seen, and peers worth remembering.

Everything is written whole (to a new file, then renamed), so that a crash or a full disk leaves
the old file as it was. Key files are PKCS#8 PEM, readable by their owner alone. A key is locked
while a node uses it: two live nodes with one key would confuse everybody who knows the first.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import platformdirs
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from p2pstream.errors import BadKey, DiskFull, KeyInUse
from p2pstream.identity import Address, Key, NodeId, StreamId, secret_bytes

APP = "p2pstream"
MARKS_MAX = 4096  # Streams whose epoch we remember; 50 bytes each.
PEERS_MAX = 64  # Remembered from the last run: enough for one of them to be alive.
JSON_BYTES_MAX = 1024 * 1024  # Of our own state files; ten times what they grow to.

K = TypeVar("K", bound=Key)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Paths:
    """Where things are, by the XDG base directory specification."""

    config: Path
    state: Path
    runtime: Path

    @classmethod
    def default(cls) -> Paths:
        with warnings.catch_warnings():  # About odd rights of the folder: handled below.
            warnings.simplefilter("ignore")
            runtime = platformdirs.user_runtime_path(APP)
        if not os.access(runtime.parent, os.W_OK):  # No login session: cron, containers.
            runtime = platformdirs.user_state_path(APP) / "run"
        return cls(
            platformdirs.user_config_path(APP) / "config.toml",
            platformdirs.user_state_path(APP),
            runtime,
        )


class KeyFile:
    """A private key on disk, locked while in use."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def use(self, kind: type[K]) -> Iterator[K]:
        """The key in the file, made on first use. Raises `BadKey`, `KeyInUse`, `DiskFull`."""
        with _writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = self.path.with_suffix(".lock")
        with _writing(lock):
            held = lock.open("a")
        with held:  # What fails in the block while the key is in use is nothing of ours.
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise KeyInUse(
                    f"another node is running with the key {self.path}",
                    hint="Stop it (p2pstream status shows it), or choose another name or key.",
                ) from None
            yield kind(
                self._load() if self.path.exists() or self.path.is_symlink() else self._new()
            )

    def _load(self) -> bytes:
        try:
            info = self.path.lstat()
            if not stat.S_ISREG(info.st_mode):
                raise BadKey(f"{self.path} is not a plain file", hint=_REPLACE)
            if info.st_mode & 0o077:
                raise BadKey(f"{self.path} can be read by others", hint=f"chmod 600 {self.path}")
            key = serialization.load_pem_private_key(self.path.read_bytes(), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise BadKey(f"{self.path} is not a key: {error}", hint=_REPLACE) from None
        except OSError as error:
            raise BadKey(f"cannot read the key {self.path}: {error.strerror}") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise BadKey(f"{self.path} is not an Ed25519 key", hint=_REPLACE)
        return key.private_bytes_raw()

    def _new(self) -> bytes:
        seed = secret_bytes()
        pem = Ed25519PrivateKey.from_private_bytes(seed).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        write_whole(self.path, pem, mode=0o600)
        return seed


_REPLACE = "Put the right file back, or move this one away to start with a new identity."


class Store:
    """The small facts that must outlive a process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def node_key(self, name: str = "node") -> KeyFile:
        return KeyFile(self.folder / "keys" / f"{name}.pem")

    def stream_key(self, name: str) -> KeyFile:
        return KeyFile(self.folder / "streams" / f"{name}.pem")

    def next_epoch(self, stream: StreamId, *, now_s: float) -> int:
        """A number higher than any epoch used before, remembered at once.

        now_s: Unix seconds. Their minutes are a lower bound, should our memory be lost: viewers
        would refuse a lower epoch for ever.
        """
        epochs = self._numbers("epochs.json")
        number = max(epochs.get(stream.hex(), 0) + 1, int(now_s // 60))
        self._write("epochs.json", epochs | {stream.hex(): number})
        return number

    def mark(self, stream: StreamId) -> int:
        """The highest epoch ever seen of a stream."""
        return self._numbers("marks.json").get(stream.hex(), 0)

    def save_mark(self, stream: StreamId, number: int) -> None:
        marks = self._numbers("marks.json")
        marks[stream.hex()] = max(number, marks.pop(stream.hex(), 0))
        self._write("marks.json", dict(list(marks.items())[-MARKS_MAX:]))

    def peers(self) -> list[tuple[NodeId, Address]]:
        """Peers that answered in the last run."""
        rows = self._read("peers.json", list[tuple[str, str, int]]) or []
        found = []
        for node, host, port in rows[:PEERS_MAX]:
            with suppress(ValueError, AssertionError):
                found.append((NodeId(bytes.fromhex(node)), (host, port)))
        return found

    def save_peers(self, peers: list[tuple[NodeId, Address]]) -> None:
        self._write("peers.json", [[n.hex(), host, port] for n, (host, port) in peers[:PEERS_MAX]])

    def _numbers(self, name: str) -> dict[str, int]:
        return self._read(name, dict[str, int]) or {}

    def _read(self, name: str, kind: type[T]) -> T | None:
        """None when lost or damaged: these facts are worth having, not worth dying for."""
        path = self.folder / name
        with suppress(OSError, UnicodeDecodeError, msgspec.DecodeError):
            if path.stat().st_size <= JSON_BYTES_MAX:
                return msgspec.json.decode(path.read_bytes(), type=kind)
        return None

    def _write(self, name: str, value: object) -> None:
        write_whole(self.folder / name, msgspec.json.encode(value), mode=0o600)


def write_whole(path: Path, data: bytes, *, mode: int) -> None:
    """Write a file so that it is there whole or not at all. Raises `DiskFull`."""
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.unlink(missing_ok=True)  # Of a run that crashed: in a container all have one pid.
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskFull(f"no room to write {path}", hint="Free some space.") from None
        raise DiskFull(
            f"cannot write {path}: {error.strerror}",
            hint="Choose a folder you may write to with XDG_STATE_HOME.",
        ) from None
