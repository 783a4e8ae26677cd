"""Messages between referee and runner: length-prefixed JSON over a socket pair.

A message is a dictionary with a "kind". It is never a pickle, because the runner is not trusted
and loading a pickle can run code.
"""

import json
import select
import socket
import time

LIMIT = 1 << 24  # bytes of one message
DEPTH = 16  # of nested lists and dictionaries


class Disconnected(Exception):
    """The other end closed the connection."""


class Malformed(Exception):
    """The other end sent something that is not a message."""


class TimedOut(Exception):
    """No message came, or was taken, before the deadline."""


class Channel:
    """One end of the connection between referee and runner.

    Attributes:
        patience: seconds in which the other end must take a message; None for no limit.
    """

    def __init__(self, end: socket.socket, patience: float | None = None):
        self._socket, self.patience = end, patience
        self._buffer = b""

    def send(self, kind: str, **fields) -> None:
        """Send one message.

        Raises:
            Disconnected: the other end is gone.
            TimedOut: it has not taken the message in time.
        """
        data = json.dumps({"kind": kind, **fields}).encode()
        self._socket.settimeout(self.patience)
        try:
            self._socket.sendall(len(data).to_bytes(4, "big") + data)
        except TimeoutError:
            raise TimedOut from None
        except OSError as error:
            raise Disconnected(str(error)) from None
        finally:
            self._socket.settimeout(None)

    def poll(self, seconds: float = 0.0) -> bool:
        """Return True if something can be read: a message, or the end of the connection."""
        return bool(self._buffer) or bool(select.select([self._socket], [], [], seconds)[0])

    def receive(self, timeout: float | None = None) -> dict:
        """Return the next message.

        Raises:
            TimedOut: no whole message came within `timeout` seconds.
            Disconnected: the other end closed the connection.
            Malformed: the other end sent something that is not a message.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        size = int.from_bytes(self._read(4, deadline), "big")
        if size > LIMIT:
            raise Malformed(f"a message of {size} bytes; at most {LIMIT} are allowed")
        try:
            message = json.loads(self._read(size, deadline))
        except (ValueError, RecursionError) as error:
            # Deep nesting raises RecursionError.
            raise Malformed(f"not a message: {error}") from None
        if not isinstance(message, dict) or not isinstance(message.get("kind"), str):
            raise Malformed("not a message: no kind")
        if _depth(message) > DEPTH:
            raise Malformed(f"it nests more than {DEPTH} deep")
        return message

    def _read(self, size: int, deadline: float | None) -> bytes:
        """Return exactly `size` bytes."""
        while len(self._buffer) < size:
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0 or not select.select([self._socket], [], [], left)[0]:
                    raise TimedOut
            try:
                data = self._socket.recv(1 << 16)
            except OSError as error:
                raise Disconnected(str(error)) from None
            if not data:
                raise Disconnected("the other end closed the connection")
            self._buffer += data
        part, self._buffer = self._buffer[:size], self._buffer[size:]
        return part

    def close(self) -> None:
        """Close this end of the connection."""
        self._socket.close()


def _depth(value) -> int:
    """Return how deep lists and dictionaries nest, counted to DEPTH + 1 at most."""
    level, depth = [value], 0
    while level and depth <= DEPTH:
        level = [
            item
            for each in level
            if isinstance(each, dict | list)
            for item in (each.values() if isinstance(each, dict) else each)
        ]
        depth += 1
    return depth
