"""What the worker and a hook's process say to each other on ``hook.sock``: one request, one answer.

Each is a head, JSON with its length before it, and then bytes of the sizes that the head tells. Values and
credentials are among those bytes, never in a head. Both sides check all of it: an executable that took its
process over can say what it likes here.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from common import untrusted_json
from common.limits import MAX_PAYLOAD
from common.untrusted_json import MalformedError
from deployer.config import credentials
from deployer.hook.process import CREDENTIAL, FACTS, MAX_SAID, VALUE
from deployer.one_request import Until

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

STEPS: Final = ("plan", "create", "apply", "test", "retire", "lock")
MAX_FACTS: Final = 4096
MAX_CREATED: Final = MAX_PAYLOAD + 1
"""One byte more than a value may have: so it is seen that there was more."""
_MAX_GIVEN: Final = {FACTS: MAX_FACTS, VALUE: MAX_PAYLOAD, CREDENTIAL: credentials.MAX_BYTES}
_MAX_HEAD: Final = 8192
_MAX_PATH: Final = 4096
_MAX_REFUSED: Final = 500
_STATUSES: Final = range(-64, 256)
_LENGTH: Final = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Request:
    """One step. ``given``: descriptor → what is to be read there."""

    path: PurePosixPath
    step: str
    given: Mapping[int, bytes | bytearray | memoryview] = field(repr=False)

    def send(self, connection: socket.socket, seconds: float) -> None:
        """Send it.

        Raises:
            OSError: nobody takes it within the time.
        """
        sizes = {str(number): len(content) for number, content in self.given.items()}
        head = {"path": str(self.path), "step": self.step, "given": sizes}
        _send(connection, seconds, head, *self.given.values())


@dataclass(frozen=True, slots=True)
class Answer:
    """How it ended. ``status`` as of Ended; ``refused``: why it was not run, "" where it was."""

    status: int | None = None
    said: bytes | bytearray = field(default=b"", repr=False)
    created: bytearray = field(default_factory=bytearray, repr=False)
    refused: str = ""

    def send(self, connection: socket.socket, seconds: float) -> None:
        """Send it.

        Raises:
            OSError: nobody takes it within the time.
        """
        head = {
            "status": self.status,
            "said": len(self.said),
            "created": len(self.created),
            "refused": self.refused,
        }
        _send(connection, seconds, head, self.said, self.created)


def receive_request(connection: socket.socket, seconds: float) -> Request:
    """Return what the worker asks for.

    Raises:
        MalformedError, OSError, EOFError: it is none, or is not whole within the time.
    """
    reader = Until(connection, seconds)
    head = untrusted_json.record(_head(reader), "a request", ("path", "step", "given"))
    path = untrusted_json.text(head["path"], "path", _MAX_PATH)
    step = untrusted_json.text(head["step"], "step", _MAX_PATH)
    if step not in STEPS:
        raise MalformedError("step is none")
    sizes = untrusted_json.mapping(head["given"], "given")
    numbers = {str(number): number for number in _MAX_GIVEN}
    if not sizes.keys() <= numbers.keys():
        raise MalformedError("given has other descriptors than the contract")
    given = {
        numbers[name]: _part(reader, untrusted_json.integer(size, name, _MAX_GIVEN[numbers[name]]))
        for name, size in sizes.items()
    }
    return Request(PurePosixPath(path), step, given)


def receive_answer(connection: socket.socket, seconds: float) -> Answer:
    """Return how it ended.

    Raises:
        MalformedError, OSError, EOFError: it is no answer, or is not whole within the time.
    """
    reader = Until(connection, seconds)
    head = untrusted_json.record(_head(reader), "an answer", ("status", "said", "created", "refused"))
    status = head["status"]
    if status is not None and (
        not isinstance(status, int) or isinstance(status, bool) or status not in _STATUSES
    ):
        raise MalformedError("status is none")
    said = untrusted_json.integer(head["said"], "said", MAX_SAID)
    created = untrusted_json.integer(head["created"], "created", MAX_CREATED)
    if not isinstance(head["refused"], str):
        raise MalformedError("refused is no text")
    refused = untrusted_json.printable(head["refused"], _MAX_REFUSED)
    return Answer(status, _part(reader, said), _part(reader, created), refused)


def _send(
    connection: socket.socket, seconds: float, head: object, *parts: bytes | bytearray | memoryview
) -> None:
    content = json.dumps(head).encode()
    connection.settimeout(seconds)
    for part in (_LENGTH.pack(len(content)) + content, *parts):
        connection.sendall(part)


def _head(reader: Until) -> object:
    (length,) = _LENGTH.unpack(_part(reader, _LENGTH.size))
    if length > _MAX_HEAD:
        raise MalformedError("the head is too large")
    return untrusted_json.parse(bytes(_part(reader, length)), "the head")


def _part(reader: Until, size: int) -> bytearray:
    """Read so many bytes, and none more."""
    content = bytearray(size)
    left = memoryview(content)
    while left:
        count = reader.readinto(left)
        if not count:
            raise EOFError
        left = left[count:]
    return content
