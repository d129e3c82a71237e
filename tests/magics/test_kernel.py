"""The magics in a real kernel, over real HTTP: what lands in the notebook, and that nothing is left running."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import nbformat
import pytest

from tests.sdk.fake_service import FakeService

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture
def http_service(service: FakeService) -> Iterator[str]:
    """The service in memory behind a socket."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            url = f"http://{self.headers['Host']}{self.path}"
            with lock:
                answer = service.answer(httpx.Request(self.command, url, headers=dict(self.headers), content=body))
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if "content-length" not in answer.headers:
                self.send_header("Content-Length", "0")
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = handle_any  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/services/fastgpu"
        server.shutdown()
        thread.join()


def run_notebook(folder: Path, url: str, cells: list[str]) -> tuple[Any, str]:
    """Execute cells as a student would; returns the executed notebook and what the kernel wrote on its way."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbformat.write(notebook, folder / "student.ipynb")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FASTGPU_URL": url, "JUPYTERHUB_API_TOKEN": "t"}
    command = [sys.executable, "-m", "fastgpu_magics.runner", "student.ipynb"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return nbformat.reads((folder / "result.ipynb").read_text(), as_version=4), done.stderr


def test_a_students_notebook(http_service: str, service: FakeService, tmp_path: Path) -> None:
    notebook, complaints = run_notebook(
        tmp_path,
        http_service,
        [
            "%load_ext fastgpu_magics\ndata = [1, 2, 3]",
            "%fastgpu status",
            "meter = %fastgpu top\nmeter",
            "import asyncio\nawait asyncio.sleep(2.6)\nmeter.running, '63 %' in meter._body.value",
            "%fastgpu top",
            "await asyncio.sleep(0.1)\nmeter.running",
            "%%fastgpu submit --gpu a100 --in data --out total\ntotal = sum(data)",
            "%%fastgpu run --gpu a100\nprint('x')",
            "_.state.value",
        ],
    )
    outputs = [cell.outputs for cell in notebook.cells]
    assert outputs[0] == []
    assert "FastGPU status of alice" in outputs[1][0].data["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in outputs[2][0].data
    assert "H100 (simulated)" in outputs[2][0].data["text/plain"]
    assert outputs[3][0].data["text/plain"] == "(True, True)"
    assert outputs[5][0].data["text/plain"] == "False"
    card = outputs[6][0].data
    assert card["application/vnd.fastgpu.job+json"] == {"id": "job-1", "path": "api/jobs/job-1"}
    assert "as of" in card["text/html"]
    assert "queued" in card["text/plain"]
    assert "now succeeded" in "".join(output.get("text", "") for output in outputs[7])
    assert outputs[8][0].data["text/plain"] == "'succeeded'"
    assert len(service.sent("GET", "api/status")) >= 4
    assert complaints == ""
