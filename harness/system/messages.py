"""Messages between referee and runner: length-prefixed JSON over a socket pair, no pickle."""

import json
import select
import socket
import time

LIMIT = 1 << 24  # bytes: a larger message is a fault


class Closed(Exception):
    """The other end is gone."""


class Late(Exception):
    """Nothing came before the deadline."""


class Link:
    """One end of the line. Messages are dictionaries with a "kind"."""

    def __init__(self, end: socket.socket):
        self._socket = end
        self._buffer = b""

    def send(self, kind: str, **fields) -> None:
        data = json.dumps({"kind": kind, **fields}).encode()
        try:
            self._socket.sendall(len(data).to_bytes(4, "big") + data)
        except OSError as error:
            raise Closed(str(error)) from None

    def poll(self, seconds: float = 0.0) -> bool:
        """True when something can be read (a message, or the end of the line)."""
        return bool(self._buffer) or bool(select.select([self._socket], [], [], seconds)[0])

    def receive(self, timeout: float | None = None) -> dict:
        """The next message; Late after `timeout` seconds, Closed at the end of the line."""
        deadline = None if timeout is None else time.monotonic() + timeout
        size = int.from_bytes(self._read(4, deadline), "big")
        if size > LIMIT:
            raise Closed(f"a message of {size} bytes is no message of ours")
        try:
            message = json.loads(self._read(size, deadline))
        except ValueError as error:
            raise Closed(f"not a message: {error}") from None
        if not isinstance(message, dict) or not isinstance(message.get("kind"), str):
            raise Closed("not a message: no kind")
        return message

    def _read(self, size: int, deadline: float | None) -> bytes:
        while len(self._buffer) < size:
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0 or not select.select([self._socket], [], [], left)[0]:
                    raise Late
            try:
                data = self._socket.recv(1 << 16)
            except OSError as error:
                raise Closed(str(error)) from None
            if not data:
                raise Closed("the line was closed")
            self._buffer += data
        part, self._buffer = self._buffer[:size], self._buffer[size:]
        return part

    def close(self) -> None:
        self._socket.close()
