"""A real IPython shell with the magics loaded, against the service in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config

from fastgpu.client import GPUClient
from fastgpu_magics.magic import FastGPUMagics
from tests.sdk.fake_service import URL, FakeService


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def make_client(service: FakeService) -> Callable[[], GPUClient]:
    return lambda: GPUClient(URL, "secret-token", transport=service.transport, sleep=lambda seconds: None)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    monkeypatch.chdir(tmp_path)
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    shell = InteractiveShell.instance(config=config, ipython_dir=str(tmp_path / ".ipython"))
    yield shell
    shell.reset(new_session=False)  # as %reset does, but for a collection of all garbage, which takes its time
    InteractiveShell.clear_instance()


@pytest.fixture
def magics(shell: InteractiveShell, make_client: Callable[[], GPUClient]) -> Iterator[FastGPUMagics]:
    magics = FastGPUMagics(shell, make_client)
    shell.register_magics(magics)
    yield magics
    magics.close()


class Ran:
    """What running a cell left behind."""

    def __init__(self, value: Any, out: str, err: str, outputs: list[Any], failed: bool) -> None:
        self.value, self.out, self.err, self.outputs, self.failed = value, out, err, outputs, failed


@pytest.fixture
def run(shell: InteractiveShell, magics: FastGPUMagics) -> Callable[[str], Ran]:
    """Runs a cell as a person would."""

    def run(cell: str) -> Ran:
        with capture_output() as captured:
            result = shell.run_cell(cell)
        failed = not result.success
        return Ran(result.result, captured.stdout, captured.stderr, captured.outputs, failed)

    return run


@pytest.fixture
def refusal(magics: FastGPUMagics) -> Callable[..., str]:
    """The one line of a refused command; the exception is exactly UsageError."""

    def refusal(line: str, cell: str | None = None) -> str:
        with pytest.raises(UsageError) as caught:
            magics.fastgpu(line, cell)
        assert type(caught.value) is UsageError
        text = str(caught.value)
        assert "\n" not in text
        return text

    return refusal
