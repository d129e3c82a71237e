"""Fixtures for every suite: a throw-away PostgreSQL, and the databases that the store's suites run over."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import tempfile
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no reason to fail: how long an example takes to make or to run is not what these tests promise.
settings.register_profile("fastgpu", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fastgpu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs PostgreSQL or a second SQLite is slow; the same suites run over one SQLite in the quick run."""
    for item in items:
        if (
            "[temporary" in item.name
            or "[postgres" in item.name
            or "-postgres" in item.name
            or "postgres_url" in getattr(item, "fixturenames", ())
        ):
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end; looking through it again at each collection costs minutes."""
    gc.collect()
    gc.freeze()


def _postgres_programs() -> Path | None:
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "pg_ctl").exists() and (folder / "postgres").exists()), None)


def _unprivileged() -> dict[str, Any]:
    """How to start a program that refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    import pwd

    names = {entry.pw_name for entry in pwd.getpwall()}
    entry = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _quick_folder() -> str:
    """In memory where there is room: a database is some 300 files. Short, because a socket's path must be."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2 * 2**30
    return str(memory) if roomy else "/tmp"


class PostgresServer:
    """A PostgreSQL server of our own, on a socket in a temporary folder; it does not wait for the disk."""

    def __init__(self, programs: Path, folder: str, identity: dict[str, Any]) -> None:
        self._programs, self._folder, self._identity = programs, folder, identity
        self.url = f"postgresql+psycopg://fastgpu@/postgres?host={folder}"

    def create(self) -> None:
        """Make its data folder."""
        self._run("initdb", "--username=fastgpu", "--auth=trust", "--encoding=UTF8", "--no-sync")

    def start(self) -> None:
        """Start, and wait until it answers."""
        settings = (
            f"-k {self._folder} -c listen_addresses='' -c fsync=off -c full_page_writes=off -c max_connections=50"
        )
        self._run("pg_ctl", "--wait", f"--log={self._folder}/server.log", f"--options={settings}", "start")

    def stop(self, mode: str = "immediate") -> None:
        """Stop: ``fast`` ends its sessions in order, ``immediate`` leaves all to the next start, as a crash does."""
        self._run("pg_ctl", "--wait", f"--mode={mode}", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC"}
        command = [str(self._programs / program), "-D", f"{self._folder}/data", *arguments]
        with open(f"{self._folder}/{program}.out", "ab") as output:  # a pipe would be kept open by the server
            done = subprocess.run(
                command, cwd=self._folder, env=environment, stdout=output, stderr=output, check=False, **self._identity
            )
        assert done.returncode == 0, Path(output.name).read_text()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A running PostgreSQL server that a test may stop, if it starts it again."""
    programs = _postgres_programs()
    if programs is None:
        pytest.skip("needs a PostgreSQL server: install the package 'postgresql' (initdb and pg_ctl)")
    identity = _unprivileged()
    folder = tempfile.mkdtemp(prefix="fastgpu-pg-", dir=_quick_folder())
    if identity:
        os.chown(folder, identity["user"], identity["group"])
    server = PostgresServer(programs, folder, identity)
    try:
        server.create()
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server(postgres: PostgresServer) -> str:
    """URL of the PostgreSQL server."""
    return postgres.url


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """URL of an empty PostgreSQL database that goes after the test."""
    from sqlalchemy import NullPool, create_engine, make_url

    name = f"t{uuid.uuid4().hex}"
    admin = create_engine(postgres_server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    yield make_url(postgres_server).set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    admin.dispose()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database: a SQLite file, then PostgreSQL."""
    if request.param == "postgres":
        url: str = request.getfixturevalue("postgres_url")
        return url
    return f"sqlite:///{tmp_path}/data/store.sqlite"


@pytest.fixture
def real_hub(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts real hubs on free ports: ``hub = real_hub(config_text)`` gives a ``tools.running_hub.RunningHub``.

    All of them are stopped at the end, with everything they started.
    """
    from tools.running_hub import RunningHub, proxy_program

    if proxy_program() is None:
        pytest.skip("configurable-http-proxy is not installed (npm install configurable-http-proxy)")
    running: list[RunningHub] = []

    def start(config: str = "", **options: Any) -> RunningHub:
        folder = tmp_path / f"hub-{len(running)}"
        folder.mkdir()
        running.append(RunningHub(config, folder, **options))
        running[-1].start()
        return running[-1]

    yield start
    for hub in running:
        hub.stop()


def _make_wheel(folder: Path, name: str, version: str, code: str, **more: str) -> Path:
    """A wheel with one module, made by hand."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        **more,
    }
    record = "".join(f"{path},,\n" for path in (*files, f"{info}/RECORD"))
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inner, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(inner, text)
    return path


@pytest.fixture
def make_wheel() -> Callable[..., Path]:
    """``make_wheel(folder, name, version, code, **more files)``: a wheel for pip, without a network or a build."""
    return _make_wheel
