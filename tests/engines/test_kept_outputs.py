"""What a hostile job leaves: nothing but its own regular files is ever copied, and its folder can always be removed."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from fastgpu_hub.artifacts import JobFiles
from fastgpu_hub.broker import keeping
from fastgpu_hub.broker.ports.records import Artifact, Workload
from fastgpu_hub.broker.settings import Settings
from fastgpu_hub.engines.safe_files import remove_folders
from fastgpu_hub.pricing.explain import Refused

HOSTILE = """
import os, socket
open('good.txt', 'w').write('good')
os.makedirs('sub/deep')
open('sub/deep/fine.bin', 'wb').write(b'x' * 5000)
os.symlink('/etc/passwd', 'link')
os.symlink('/etc', 'folder')
os.symlink('good.txt', 'inner')
os.link('good.txt', 'second')
open('alone.txt', 'w').write('alone')
os.link({outside!r}, 'stolen')
os.mkfifo('pipe')
s = socket.socket(socket.AF_UNIX); s.bind('socket')
open('back\\\\slash', 'w').write('x')
open('new\\nline', 'w').write('x')
os.truncate(os.open('huge', os.O_CREAT | os.O_WRONLY), 1 << 40)
"""


def workload(*outputs: str) -> Workload:
    fields: dict[str, Any] = {"spec": {"outputs": list(outputs)}, "state": "ended", "requested_ms": 0}
    return Workload("j1", "job", "alice", "person:alice", (), "job", "h100", 1, **fields)


async def test_only_regular_files_of_the_jobs_own_are_outputs(bench: Any, tmp_path: Path) -> None:
    outside = tmp_path / "service-secret"
    outside.write_text("the service's own")
    log = await bench.run(HOSTILE.format(outside=str(outside)))
    assert "Traceback" not in log
    settings = Settings(max_artifact_bytes=1 << 50)
    found = keeping.wanted(bench.engine, workload("**"), settings)
    assert not isinstance(found, Refused)
    # good.txt has a second name by now, which may lie outside: neither of the two is touched.
    assert [file.path for file in found] == ["alone.txt", "huge", "sub/deep/fine.bin"]
    for path in ("link", "folder/passwd", "inner", "second", "stolen", "pipe", "socket", "../records", "sub"):
        assert bench.engine.open_file("j1", path) is None, path
    refused = keeping.wanted(bench.engine, workload("**"), Settings())
    assert isinstance(refused, Refused)
    assert refused.message == "The outputs are 1 TiB; at most 20 GiB of one job are kept."


async def test_a_file_exchanged_after_it_was_looked_at_is_not_copied(bench: Any, tmp_path: Path) -> None:
    await bench.run("open('a', 'w').write('1234'); open('b', 'w').write('1234')")
    store = JobFiles(artifacts_url=str(tmp_path / "kept"))
    artifacts = [
        Artifact(0, "j1", "alice", file.path, file.size_bytes, store.url_of("alice", "j1", file.path), 0)
        for file in bench.engine.files("j1")
    ]
    (bench.work() / "a").unlink()
    (bench.work() / "a").symlink_to("/etc/passwd")
    (bench.work() / "b").write_text("longer than before")
    for artifact in artifacts:
        with pytest.raises(keeping.Changed):
            keeping.copy(bench.engine, store, artifact)
    assert not [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]


@pytest.mark.slow
def test_a_folder_is_removed_however_deep_and_closed_it_is_and_nothing_outside_it(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("stays")
    job = tmp_path / "job"
    job.mkdir()
    (job / "link").symlink_to(outside)
    (job / "file").write_text("goes")
    here = os.open(job, os.O_RDONLY)
    for _ in range(1500):  # deeper than Python recurses, longer than a path may be
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.fchmod(here, 0)
    os.close(here)
    closed = job / "closed"
    closed.mkdir()
    (closed / "file").write_text("goes too")
    closed.chmod(0)
    remove_folders([job, tmp_path / "none"])
    assert not job.exists()
    assert (outside / "precious").read_text() == "stays"
    assert stat.S_IMODE(outside.stat().st_mode) != 0
