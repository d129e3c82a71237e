"""Fixtures for every suite: a throw-away PostgreSQL, and the databases that the store's suites run over."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no reason to fail: how long an example takes to make or to run is not what these tests promise.
settings.register_profile("fastgpu", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fastgpu")


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


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a PostgreSQL server of our own, on a socket in a temporary folder; it does not wait for the disk."""
    programs = _postgres_programs()
    if programs is None:
        pytest.skip("needs a PostgreSQL server: install the package 'postgresql' (initdb and pg_ctl)")
    identity = _unprivileged()
    folder = tempfile.mkdtemp(prefix="fastgpu-pg-", dir=_quick_folder())
    if identity:
        os.chown(folder, identity["user"], identity["group"])

    def run(program: str, *arguments: str) -> None:
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC"}
        command = [str(programs / program), "-D", f"{folder}/data", *arguments]
        with open(f"{folder}/{program}.out", "ab") as output:  # a pipe would be kept open by the server
            done = subprocess.run(
                command, cwd=folder, env=environment, stdout=output, stderr=output, check=False, **identity
            )
        assert done.returncode == 0, Path(output.name).read_text()

    try:
        run("initdb", "--username=fastgpu", "--auth=trust", "--encoding=UTF8", "--no-sync")
        settings = f"-k {folder} -c listen_addresses='' -c fsync=off -c full_page_writes=off -c max_connections=50"
        run("pg_ctl", "--wait", f"--log={folder}/server.log", f"--options={settings}", "start")
        try:
            yield f"postgresql+psycopg://fastgpu@/postgres?host={folder}"
        finally:
            run("pg_ctl", "--wait", "--mode=immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """URL of an empty PostgreSQL database that goes after the test."""
    from sqlalchemy import create_engine, make_url

    name = f"t{uuid.uuid4().hex}"
    admin = create_engine(postgres_server, isolation_level="AUTOCOMMIT")
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
