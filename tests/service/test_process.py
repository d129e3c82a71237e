from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from traitlets.config import Config

from fastgpu.client import GPUClient
from fastgpu_hub import setup_fastgpu
from fastgpu_hub.service.clock import SystemClock
from fastgpu_hub.service.process import CannotListen, address_of, bind, kept_secret
from fastgpu_hub.setup import service_config

pytestmark = pytest.mark.slow  # each starts the program


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    port = free_port()
    return {
        **os.environ,
        "JUPYTERHUB_SERVICE_NAME": "fastgpu",
        "JUPYTERHUB_SERVICE_URL": f"http://127.0.0.1:{port}",
        "JUPYTERHUB_SERVICE_PREFIX": "/services/fastgpu/",
        "JUPYTERHUB_CLIENT_ID": "service-fastgpu",
        "JUPYTERHUB_API_TOKEN": "x",
        "JUPYTERHUB_API_URL": f"http://127.0.0.1:{free_port()}/hub/api",
        "FASTGPU_STATE_DIR": str(tmp_path / "state"),
        "FASTGPU_CONFIG": json.dumps(
            {
                "FastGPUService": {
                    "probe": "simulated",
                    "simulated_gpus": {"count": 2, "gpu_type": "l4"},
                    "prices": [{"gpu_type": "l4", "per_gpu_hour": "0.1"}],
                }
            }
        ),
    }


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Any]:
    with open(tmp_path / "service.log", "w+b") as file:
        yield file


def healthy(environment: dict[str, str], process: subprocess.Popen[bytes], log: Any, seconds: float = 30) -> bool:
    url = environment["JUPYTERHUB_SERVICE_URL"] + "/services/fastgpu/health"
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert process.poll() is None, Path(log.name).read_text()
        try:
            return httpx.get(url).json() == {"ok": True}
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(Path(log.name).read_text())


def test_the_program_serves_and_ends_orderly_on_sigterm(environment: dict[str, str], log: Any) -> None:
    command = [sys.executable, "-m", "fastgpu_hub.service"]
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        assert healthy(environment, process, log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()
    text = Path(log.name).read_text()
    assert "2 simulated l4 GPUs" in text
    assert "is closing" in text
    state = Path(environment["FASTGPU_STATE_DIR"])
    assert (state / "fastgpu.sqlite").exists()
    assert (state / "cookie-secret").stat().st_mode & 0o777 == 0o600
    assert state.stat().st_mode & 0o777 == 0o700


def give_alice(environment: dict[str, str], credit: str) -> None:
    config = json.loads(environment["FASTGPU_CONFIG"])
    config["FastGPUService"]["grants"] = [{"account": "person:alice", "amount": credit}]
    environment["FASTGPU_CONFIG"] = json.dumps(config)


@contextmanager
def served(environment: dict[str, str], log: Any, credit: str) -> Iterator[str]:
    """The program at work; the service's address."""
    give_alice(environment, credit)
    process = subprocess.Popen([sys.executable, "-m", "fastgpu_hub.service"], env=environment, stdout=log, stderr=log)
    try:
        assert healthy(environment, process, log)
        yield environment["JUPYTERHUB_SERVICE_URL"] + "/services/fastgpu"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def hub_that_knows_alice(environment: dict[str, str]) -> Iterator[None]:
    """A hub that answers who a token belongs to."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(
                {"kind": "user", "name": "alice", "groups": [], "scopes": ["custom:fastgpu:use"]}
            ).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", urlsplit(environment["JUPYTERHUB_API_URL"]).port or 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.slow
def test_a_stream_of_news_ends_cleanly_on_sigterm_and_does_not_hold_it_up(
    environment: dict[str, str], log: Any, hub_that_knows_alice: None
) -> None:
    process = subprocess.Popen([sys.executable, "-m", "fastgpu_hub.service"], env=environment, stdout=log, stderr=log)
    try:
        assert healthy(environment, process, log)
        url = environment["JUPYTERHUB_SERVICE_URL"] + "/services/fastgpu/api/events"
        with httpx.stream("GET", url, headers={"Authorization": "token t"}, timeout=20) as stream:
            assert stream.status_code == 200
            pieces = stream.iter_text()
            assert "id: 0" in next(pieces)
            process.send_signal(signal.SIGTERM)
            before = time.monotonic()
            assert list(pieces) == []  # a connection that was cut would raise
            assert time.monotonic() - before < 3
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to look as another user")
def test_a_log_that_is_followed_survives_the_services_death_to_the_byte(
    environment: dict[str, str], log: Any, hub_that_knows_alice: None
) -> None:
    give_alice(environment, "5")
    command = [sys.executable, "-m", "fastgpu_hub.service"]
    code = "import time\nfor n in range(400): print(f'{n} €' * 50, flush=True); time.sleep(0.01)"
    expected = "".join(f"{n} €" * 50 + "\n" for n in range(400))
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        assert healthy(environment, process, log)
        url = environment["JUPYTERHUB_SERVICE_URL"] + "/services/fastgpu"
        with GPUClient(url, "t", sleep=lambda seconds: time.sleep(min(seconds, 0.1))) as client:
            job = client.submit([sys.executable, "-S", "-c", code], "l4", time_limit="2m")
            got, told, deaths = "", list[str](), 0
            for text in job.follow(tell=told.append):
                got += text
                if len(got) > (deaths + 1) * len(expected) // 4 and deaths < 2:
                    deaths += 1
                    process.kill()  # it writes nothing down any more
                    process.wait()
                    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            assert job.snapshot.state == "succeeded", job.snapshot.explanation
        assert (deaths, got) == (2, expected)
        assert told, "the outage was told of"
    finally:
        process.kill()
        process.wait()


def test_who_closes_the_terminal_loses_nothing_of_the_run(
    environment: dict[str, str], log: Any, hub_that_knows_alice: None
) -> None:
    code = (
        f"import sys, time; sys.path.insert(0, {str(Path(__file__).parents[2])!r}); import fastgpu\n"
        "for n in range(120):\n    fastgpu.log_metric('accuracy', n / 120, n); fastgpu.progress(n / 120)\n"
        "    print('step', n, flush=True); time.sleep(0.02)"
    )
    with served(environment, log, credit="5") as url:
        words = ["run", sys.executable, "--command", "--gpu", "l4", "--time", "2m", "--", "-S", "-c", code]
        terminal = subprocess.Popen(
            [sys.executable, "-c", "from fastgpu.cli import main; import sys; main(sys.argv[1:])", *words],
            env={**os.environ, "FASTGPU_URL": url, "FASTGPU_TOKEN": "t"},
            stdout=subprocess.PIPE,
        )
        assert terminal.stdout is not None
        assert terminal.stdout.readline() == b"step 0\n"
        terminal.kill()
        terminal.wait()
        terminal.stdout.close()
        with GPUClient(url, "t") as client:
            [job] = client.jobs("active")
            assert job.wait(60).state == "succeeded"
            assert job.logs() == "".join(f"step {n}\n" for n in range(120))
            [metric] = job.metrics()
            assert (metric.count, metric.last.step, metric.best) == (120, 119, metric.last)
            run = job.details()
            assert (run.progress, run.job.cost_micros > 0) == (1.0, True)
        page = httpx.get(f"{url}/jobs/{job.id}", headers={"Authorization": "token t"})
        assert "0.99167 at step 119" in page.text
        assert "step 119</pre>" in page.text


def test_where_jobs_run_as_their_owners_they_can_pass_the_state_folder_and_read_nothing_in_it(
    environment: dict[str, str], log: Any
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # pytest's own folders are closed to other users
        Path(folder).chmod(0o755)
        state = Path(folder) / "state"
        config = Config({"FastGPUService": {"probe": "simulated"}, "LocalEngine": {"job_users": "system"}})
        setup_fastgpu(config, state_dir=state)
        environment |= {"FASTGPU_STATE_DIR": str(state), "FASTGPU_CONFIG": service_config(config)}
        before = os.umask(0o022)
        process = subprocess.Popen(
            [sys.executable, "-m", "fastgpu_hub.service"], env=environment, stdout=log, stderr=log
        )
        os.umask(before)
        try:
            assert healthy(environment, process, log)
            found = sorted(path for path in state.rglob("*"))
            names = {path.name for path in found}
            assert {"fastgpu.sqlite", "fastgpu.sqlite-wal", "spawner-token", "cookie-secret", "engine"} <= names
            look = "import os, sys; print([path for path in sys.argv[1:] if os.access(path, os.R_OK)])"
            command = ["/usr/bin/env", "python3", "-S", "-c", look, str(state), *map(str, found)]
            done = subprocess.run(
                command, cwd="/", env={"PATH": os.defpath}, user="nobody", capture_output=True, text=True
            )
            assert done.stdout == "[]\n", done.stderr
            jobs = ["/bin/sh", "-c", 'cd "$1"', "sh", str(state / "engine" / "jobs")]
            assert subprocess.run(jobs, cwd="/", user="nobody").returncode == 0
        finally:
            process.terminate()
            process.wait(15)


def test_the_service_dies_with_its_hub(environment: dict[str, str], log: Any) -> None:
    hub = textwrap.dedent(
        """
        import subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-m", "fastgpu_hub.service"], start_new_session=True)
        print(child.pid, flush=True)
        time.sleep(60)
        """
    )
    parent = subprocess.Popen([sys.executable, "-c", hub], env=environment, stdout=subprocess.PIPE, stderr=log)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        assert healthy(environment, parent, log)
        parent.kill()
        until = time.monotonic() + 15
        while time.monotonic() < until and Path(f"/proc/{child}/stat").exists():
            if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                break
            time.sleep(0.05)
        else:
            assert not Path(f"/proc/{child}").exists(), "the service outlived its hub"
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"JUPYTERHUB_API_TOKEN": ""}, "JUPYTERHUB_API_TOKEN is not set"),
        ({"FASTGPU_CONFIG": "{"}, "FASTGPU_CONFIG cannot be read"),
        ({"FASTGPU_CONFIG": '{"FastGPUService": {"time_zone": "Mars/Olympus"}}'}, "Mars/Olympus"),
        ({"FASTGPU_CONFIG": '{"FastGPUService": {"prices": [{"gpu_type": "l4", "per_hour": "1"}]}}'}, "prices[0]"),
        ({"JUPYTERHUB_SERVICE_URL": "http://127.0.0.1"}, "JUPYTERHUB_SERVICE_URL"),
    ],
)
def test_what_is_wrong_with_the_set_up_is_said_in_a_sentence(
    environment: dict[str, str], change: dict[str, str], says: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fastgpu_hub.service"], env={**environment, **change}, capture_output=True, check=False
    )
    assert done.returncode != 0
    assert says in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


async def test_a_taken_port_is_waited_for_and_then_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CannotListen, match=f"Port {port} .* is taken"):
            await bind("127.0.0.1", port, wait_seconds=0.3)
        waiting = asyncio.ensure_future(bind("127.0.0.1", port, wait_seconds=5))
        await asyncio.sleep(0.3)
        assert not waiting.done()
    (await waiting).close()


def test_an_address_without_a_port_is_refused() -> None:
    assert address_of("http://127.0.0.1:10180") == ("127.0.0.1", 10180)
    for wrong in ("http://127.0.0.1", "", "http://127.0.0.1:port"):
        with pytest.raises(CannotListen):
            address_of(wrong)


def test_the_cookie_secret_survives_restarts_and_is_ours_alone(tmp_path: Path) -> None:
    first = kept_secret(tmp_path / "s")
    assert kept_secret(tmp_path / "s") == first
    assert len(first) == 32
    (tmp_path / "s").write_bytes(b"short")
    assert kept_secret(tmp_path / "s") not in (first, b"short")


def test_the_clock_never_runs_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SystemClock()
    now = clock.now_ms()
    monkeypatch.setattr(time, "time_ns", lambda: (now - 3_600_000) * 1_000_000)
    assert clock.now_ms() == now
    monkeypatch.setattr(time, "time_ns", lambda: (now + 5) * 1_000_000)
    assert clock.now_ms() == now + 5
