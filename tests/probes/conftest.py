from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastgpu_hub.probes.nvml import NvmlProbe


@pytest.fixture(scope="session")
def nvml_stub_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to build the NVML stub with")
    folder = tmp_path_factory.mktemp("nvml")
    source = Path(__file__).with_name("nvml_stub.c")
    command = [compiler, "-shared", "-fPIC", "-Wall", "-o", str(folder / "libnvidia-ml.so.1"), str(source)]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture
def describe_gpus(nvml_stub_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Says what GPUs the stub shows, one line each (see nvml_stub.c); may be called again at any time."""
    file = tmp_path / "gpus"
    file.write_text("")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(nvml_stub_folder))
    monkeypatch.setenv("NVML_STUB_FILE", str(file))

    def describe(*lines: str) -> None:
        new = file.with_suffix(".new")
        new.write_text("".join(f"{line}\n" for line in lines))
        new.rename(file)

    return describe


@pytest.fixture
def probe(describe_gpus: Callable[..., None]) -> Iterator[NvmlProbe]:
    probe = NvmlProbe(timeout_seconds=2)
    yield probe
    probe.close()
