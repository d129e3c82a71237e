"""A client that talks to the service in memory, and never sleeps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fastgpu.client import GPUClient
from tests.sdk.fake_service import URL, FakeService


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def slept() -> list[float]:
    """Every pause a client made."""
    return []


@pytest.fixture
def client(service: FakeService, slept: list[float]) -> Iterator[GPUClient]:
    with GPUClient(URL, "secret-token", transport=service.transport, sleep=slept.append) as client:
        yield client


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with a ``train.py`` in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("print('hello')\n")
    return tmp_path
