"""Every statement that the writer sends can fail, or be the last one before the service dies."""

from __future__ import annotations

import asyncio

from sqlalchemy import event
from sqlalchemy.exc import OperationalError


class Statements:
    """Counts what the writer sends; the one numbered ``at`` fails.

    ``mode``: ``error``, the database refuses that statement and takes the next; ``crash``, the service dies before it
    is sent; ``deaf``, the service dies after a commit took effect, before it heard so.
    """

    def __init__(self, world) -> None:
        self.world, self.open_world = world, world.open
        world.open = self.open
        self.arm(0, "")

    def arm(self, at: int, mode: str) -> None:
        self.sent, self.at, self.mode, self.fired, self.dead = 0, at, mode, "", False

    async def open(self) -> None:
        self.dead = False
        await self.open_world()
        self.watch()

    def watch(self) -> None:
        self.loop = asyncio.get_running_loop()
        writer = self.world.store._database._writer
        event.listen(writer, "before_cursor_execute", lambda c, cursor, text, *_: self.send(text))
        event.listen(writer, "commit", lambda connection: self.send("COMMIT"))
        commit, dialect = writer.dialect.do_commit, writer.dialect

        def and_then(raw) -> None:
            commit(raw)
            if self.mode == "deaf" and self.sent == self.at:
                self.die("COMMIT")

        dialect.do_commit = and_then

    def send(self, text: str) -> None:
        if self.dead:
            raise OperationalError(text, {}, Exception("dead"))
        if self.mode == "deaf" and text != "COMMIT":
            return
        self.sent += 1
        if self.sent != self.at:
            return
        self.fired = f"{self.mode} at {self.sent}: {' '.join(text.split())[:60]}"
        if self.mode == "crash":
            self.die(text)
        if self.mode == "error":
            raise OperationalError(text, {}, Exception("injected"))

    def die(self, text: str) -> None:
        self.mode, self.dead = "", True
        self.loop.call_soon_threadsafe(self.world.points.crashed.set)  # heard before any answer
        raise OperationalError(text, {}, Exception("dead"))
