"""A program for test_crash: forks writers and kills each with SIGKILL while it writes.

``crashing_writer.py URL ROUNDS`` prints, per acknowledged write, the ids of its transfers on one line.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time

from fastgpu_hub.pricing.credits import Grant
from fastgpu_hub.pricing.ledger import grant_transfer
from fastgpu_hub.store import open_store


def write_until_killed(url: str, output: int) -> None:
    """Eight tasks write two transfers at a time; each tells when its write was acknowledged."""
    store = open_store(url)

    async def one() -> None:
        pair = [grant_transfer(Grant(0, "person:alice", 1, 1, by="test"))] * 2
        while True:
            written = await store.write(lambda uow: uow.append(pair))
            os.write(output, f"{written[0].id} {written[1].id}\n".encode())

    async def all_of_them() -> None:
        await asyncio.gather(*(one() for _ in range(8)))

    asyncio.run(all_of_them())


def main() -> None:
    """Run the rounds; each lasts some milliseconds beyond the first acknowledgement."""
    url, rounds = sys.argv[1], int(sys.argv[2])
    for _ in range(rounds):
        source, sink = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(source)
            try:
                write_until_killed(url, sink)
            finally:
                os._exit(1)
        os.close(sink)
        acknowledged = os.read(source, 65536)
        time.sleep(random.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while chunk := os.read(source, 65536):
            acknowledged += chunk
        os.close(source)
        sys.stdout.write(acknowledged.decode())


main()
