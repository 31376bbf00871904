"""Every error of ours, on one page. The type says whose fault it is.

A peer's fault (`PeerError`) ends the connection to that peer and nothing else. A fault that a
person can mend (`UserError`) becomes one clear message with a code, an exit status and a hint.
Our own fault is an `AssertionError` or whatever Python raises, and it propagates.
"""

from __future__ import annotations


class P2PStreamError(Exception):
    """The root of the family."""


# What a peer did.


class PeerError(P2PStreamError):
    """A peer's fault: hang up."""


class BadMessage(PeerError):
    """Bytes that are no message of ours: too long, not canonical, of no known type."""


class Misbehaviour(PeerError):
    """Proof that the sender lies: a wrong hash or signature, a broken promise. Hang up and ban."""


class Refused(PeerError):
    """The peer said no, and may."""


class LinkLost(PeerError):
    """The connection ended, or could not be made."""


# What a person can mend.


class UserError(P2PStreamError):
    """What failed and why (`str`), and what to do about it (`hint`)."""

    code = "error"  # Stable word for scripts: `--json` prints it.
    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class StreamNotFound(UserError):
    """No node that answers knows this stream, or it has ended."""

    code, exit_code = "stream_not_found", 3


class NotAllowed(UserError):
    """A key or a token was refused."""

    code, exit_code = "refused", 4


class NoPeers(UserError):
    """Nobody on the network could be reached. Trying again may help."""

    code, exit_code = "no_peers", 5


class BadConfig(UserError):
    """The configuration file cannot be read or says something we do not understand."""

    code, exit_code = "bad_config", 6


class MissingHelper(UserError):
    """A program or package that this command needs is not installed."""

    code, exit_code = "missing_helper", 7


class BadTicket(UserError):
    """Text that is no ticket of ours, or a ticket with a typo."""

    code, exit_code = "bad_ticket", 8


class PortInUse(UserError):
    """Another program listens where we want to."""

    code, exit_code = "port_in_use", 9


class KeyInUse(UserError):
    """A second live node with the same key would confuse everybody who knows the first."""

    code, exit_code = "key_in_use", 10


class DiskFull(UserError):
    """No room, or no right, to write a file."""

    code, exit_code = "disk_full", 11


class InputNotFound(UserError):
    """The file or address to broadcast cannot be opened."""

    code, exit_code = "input_not_found", 12


class NoVideo(UserError):
    """The input has no picture."""

    code, exit_code = "no_video", 13


class UnsupportedCodec(UserError):
    """The input's codec cannot be decoded here."""

    code, exit_code = "unsupported_codec", 14


class MediaFailed(UserError):
    """The media worker died more often than its restart budget allows."""

    code, exit_code = "media_failed", 15


class BadKey(UserError):
    """A key file that is damaged, readable by others, or not a key."""

    code, exit_code = "bad_key", 16


class NodeNotRunning(UserError):
    """`status` found no running node to attach to."""

    code, exit_code = "not_running", 17
