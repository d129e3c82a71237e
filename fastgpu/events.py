"""A stream of notices that outlives lost connections: where it stands, what to send, how to read it, when to go on.

Pure, like ``requests``: the two senders bring the transport and the pauses.
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import ValidationError

from fastgpu import answers
from fastgpu.errors import Unavailable
from fastgpu.models import Notice
from fastgpu.requests import Call, Received

# The service says something every 15 s; what is silent for three of them is dead.
SILENCE_SECONDS = 45.0
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
LONGEST_LINE_BYTES = 1024 * 1024


class Following:
    """One reader's place in a person's notices.

    ``last_id`` is the last notice that was read; None before the service said where the stream begins. Until the first
    connection stands, the service's being away is reported as for any call; afterwards it is waited for.
    """

    def __init__(self, after: int | None = None) -> None:
        self.last_id = after
        self._pause_seconds = FIRST_PAUSE_SECONDS
        self._attempts = 0
        self._was_connected = False
        self._rest = b""
        self._data: list[str] = []
        self._id: int | None = None
        self._kind = ""

    def call(self) -> Call[None]:
        """The request that opens the stream where it was left."""
        self._rest, self._id = b"", None
        self._forget()
        position = () if self.last_id is None else (("Last-Event-ID", str(self.last_id)),)
        headers = (("Accept", "text/event-stream"), *position)
        accept = frozenset({200})
        return Call("GET", "api/events", _unread, headers=headers, accept=accept, timeout_seconds=SILENCE_SECONDS)

    def connected(self) -> None:
        """The stream stands."""
        self._was_connected, self._attempts = True, 0

    def feed(self, chunk: bytes) -> list[Notice]:
        """The notices that these bytes complete, wherever the bytes were cut. Raises Unavailable for no such stream."""
        *lines, self._rest = (self._rest + chunk).replace(b"\r\n", b"\n").split(b"\n")
        if len(self._rest) > LONGEST_LINE_BYTES:
            raise Unavailable("The stream of notices cannot be read: a line has no end.")
        return [notice for line in lines if (notice := self._line(line.decode("utf-8", "replace"))) is not None]

    def pause(self, received: Received | None, reason: str, url: str, jitter: Callable[[], float]) -> float:
        """Seconds to wait before connecting again, after the stream ended, failed or was refused (``received``).

        Raises the refusal's error where waiting would not help, and Unavailable when no connection ever stood.
        """
        self._attempts += 1
        if received is not None and received.status not in answers.TEMPORARY:
            raise answers.error_of(received, url)
        if not self._was_connected:
            delay = answers.retry_delay(self._attempts - 1, received, jitter())
            if delay is None:
                raise answers.unreachable(url, reason) if received is None else answers.error_of(received, url)
            return delay
        grown = self._pause_seconds * (1 << min(self._attempts - 1, 10))
        return min(grown, LONGEST_PAUSE_SECONDS) * (1 + jitter() / 2)

    def _line(self, line: str) -> Notice | None:
        if not line:
            return self._complete()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._kind = value
        elif name == "id" and value.isascii() and value.isdigit():
            self._id = int(value)
        elif name == "retry" and value.isascii() and value.isdigit():
            self._pause_seconds = min(int(value) / 1000, LONGEST_PAUSE_SECONDS)
        return None

    def _complete(self) -> Notice | None:
        """A blank line: what stood before it is an event, or moves the position only."""
        data, kind = "\n".join(self._data), self._kind
        self._forget()
        if self._id is not None:
            self.last_id = self._id
        if not data or kind != "notice":
            return None
        try:
            return Notice.model_validate_json(data)
        except ValidationError as error:
            raise Unavailable("The stream of notices cannot be read: this service is of another version.") from error

    def _forget(self) -> None:
        self._data, self._kind = [], ""


def _unread(_received: Received) -> None:
    """A stream is read piece by piece, not as one answer."""
