"""A writer killed with SIGKILL at any moment loses nothing that it acknowledged."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastgpu_hub.pricing.ledger import check_balanced
from fastgpu_hub.store import open_store

pytestmark = pytest.mark.slow  # many processes, or every step of a life: too long for the quick run


def test_a_killed_writer_loses_nothing_it_acknowledged(database_url: str) -> None:
    rounds = 50 if database_url.startswith("sqlite") else 15  # a server is slower to connect to
    program = Path(__file__).with_name("crashing_writer.py")
    done = subprocess.run(
        [sys.executable, str(program), database_url, str(rounds)],
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pairs = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(pairs) >= rounds

    store = open_store(database_url)
    transfers = asyncio.run(store.read(lambda uow: uow.transfers()))
    asyncio.run(store.close())
    kept = {transfer.id for transfer in transfers}
    assert [pair for pair in pairs if not kept.issuperset(pair)] == []
    assert len(kept) % 2 == 0  # never half of a write
    check_balanced(transfers)
