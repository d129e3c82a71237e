"""What a job finds when it starts, what is kept of it, and what it cannot reach."""

from __future__ import annotations

import grp
import hashlib
import json
import os
import pwd
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fastgpu_hub.broker import metrics
from fastgpu_hub.broker.ports.world import Reported
from fastgpu_hub.engines.job_folder import METRICS_END_BYTES

SHOW_ENVIRONMENT = "import json, os; print(json.dumps(dict(os.environ)))"


async def blob(bench: Any, data: bytes) -> str:
    sha256 = hashlib.sha256(data).hexdigest()
    await bench.engine.put_blob(sha256, [data])
    return sha256


async def test_a_job_gets_its_lease_and_nothing_of_the_service(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JUPYTERHUB_API_TOKEN", "SECRET", "PYTHONPATH", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "of the service")
    monkeypatch.setenv("TZ", "Europe/Zurich")
    for name in ("LANG", "LC_ALL", "LD_LIBRARY_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/service")
    shares = ("GPU-1#3", "GPU-1#1", "MIG-2")
    launch = {"gpu_uuids": shares, "environment": {"SEED": "1"}, "simulated": True}
    found = json.loads(await bench.run(SHOW_ENVIRONMENT, **launch))
    name = pwd.getpwuid(os.geteuid()).pw_name
    assert found.pop("LC_CTYPE", "C.UTF-8") == "C.UTF-8"  # Python's own doing
    assert found == {
        "PATH": f"{os.path.dirname(sys.executable)}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "TZ": "Europe/Zurich",
        "HOME": "/home/service",
        "USER": name,
        "LOGNAME": name,
        "SEED": "1",
        "CUDA_VISIBLE_DEVICES": "GPU-1,MIG-2",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "FASTGPU_JOB_ID": "j1",
        "FASTGPU_LEASE_ID": "j1",
        "FASTGPU_PROGRESS_FILE": str(bench.folder / "jobs/j1/run/progress"),
        "FASTGPU_METRICS_FILE": str(bench.folder / "jobs/j1/run/metrics.jsonl"),
        "FASTGPU_CHECKPOINT_DIR": str(bench.folder / "checkpoints/j1"),
        "FASTGPU_ATTEMPT": "1",
        "FASTGPU_GRACE_SECONDS": "0.2",
        "FASTGPU_SIMULATED": "1",
    }


async def test_a_job_has_no_open_files_and_no_terminal_of_the_service(bench: Any) -> None:
    code = """
import os
links = []
for number in os.listdir('/proc/self/fd'):
    try:
        links.append(os.readlink(f'/proc/self/fd/{number}').partition(':')[0])
    except FileNotFoundError:  # the listing itself
        pass
print(links, os.getsid(0) == os.getpid())
"""
    assert await bench.run(code) == "['/dev/null', 'pipe', 'pipe'] True\n"


async def test_a_script_runs_unbuffered_in_its_working_folder(bench: Any) -> None:
    script = b"import os, sys\nprint(sys.argv, os.getcwd())\nsys.stdout.write('no newline')\nos._exit(3)\n"
    inputs = {"src/train.py": await blob(bench, script)}
    output = await bench.run("", kind="script", argv=("src/train.py", "--lr", "1"), inputs=inputs)
    assert output == f"['src/train.py', '--lr', '1'] {bench.work()}\nno newline"
    assert (await bench.until("exited")).exit_code == 3


async def test_a_notebook_runs_through_the_runner_of_the_magics(bench: Any, tmp_path: Path) -> None:
    fake_python = tmp_path / "python"
    fake_python.write_text('#!/bin/sh\necho "$@"\n')
    fake_python.chmod(0o755)
    await bench.engine.close()
    await bench.open(python=str(fake_python))
    assert await bench.run("", kind="notebook", argv=("cell.ipynb", "x")) == "-m fastgpu_magics.runner cell.ipynb x\n"


async def test_an_executable_input_can_be_executed(bench: Any) -> None:
    inputs = {"run.sh": await blob(bench, b"#!/bin/sh\necho it runs\n")}
    assert await bench.run("", argv=("./run.sh",), inputs=inputs) == "it runs\n"


async def test_a_missing_program_is_named(bench: Any) -> None:
    await bench.start("", argv=("no-such-program", "x"))
    exited = await bench.until("exited")
    assert (exited.ending, exited.exit_code, exited.started_ms) == ("failed_to_start", None, None)
    assert exited.reason.message == "No such file or directory: no-such-program"


@pytest.mark.parametrize("path", ["../evil", "/etc/evil", "a/../../evil", "a\\b", "a\0b", "", "a//b"])
async def test_an_input_outside_the_folder_is_refused(bench: Any, path: str) -> None:
    await bench.start("", inputs={path: await blob(bench, b"x")})
    exited = await bench.until("exited")
    assert exited.ending == "failed_to_start"
    assert "input path" in exited.reason.message


async def test_a_variable_that_steers_the_loader_is_refused(bench: Any) -> None:
    await bench.start("", environment={"LD_PRELOAD": "/tmp/evil.so"})
    assert "LD_PRELOAD" in (await bench.until("exited")).reason.message


@pytest.mark.parametrize("lease_id", ["", "..", "../x", "a/b", "a\0", ".hidden", "x" * 101])
async def test_a_lease_id_that_is_no_name_is_refused(bench: Any, lease_id: str) -> None:
    with pytest.raises(ValueError, match="not a lease id"):
        await bench.start("", lease_id)


async def test_no_path_leads_out_of_the_job_folder(bench: Any, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    code = f"""
import os, socket
os.makedirs('sub/deep')
open('sub/deep/good', 'w').write('good')
os.symlink({str(secret)!r}, 'link')
os.symlink({str(tmp_path)!r}, 'folder')
os.symlink('sub', 'inner')
os.link({str(secret)!r}, 'hard')
os.mkfifo('pipe')
socket.socket(socket.AF_UNIX).bind('socket')
"""
    assert await bench.run(code) == ""
    assert [(f.path, f.size_bytes) for f in bench.engine.files("j1")] == [("sub/deep/good", 4)]
    assert bench.engine.read_file("j1", "sub/deep/good") == b"good"
    outside = ["link", "folder/secret", "inner/deep/good", "hard", "pipe", "socket", "sub", "../records"]
    outside += [str(secret), "sub/../sub/deep/good", "./sub/deep/good", "%2e%2e/records", "sub/deep/good/", "x\0y"]
    for path in outside:
        assert bench.engine.read_file("j1", path) is None, path


async def test_a_file_beyond_the_limit_is_not_read(bench: Any) -> None:
    await bench.run("open('big', 'wb').truncate(256 * 2**20 + 1)")
    assert bench.engine.read_file("j1", "big") is None
    assert bench.engine.files("j1")[0].size_bytes == 256 * 2**20 + 1


async def test_a_log_is_cut_at_its_limit_and_says_so(bench: Any) -> None:
    await bench.engine.close()
    await bench.open(max_log_bytes=1024)
    output = await bench.run("print('x' * 10_000_000); print('end')")
    assert output == "x" * 1024 + "\n[fastgpu] the log is cut here: it reached its limit of 1024 bytes\n"
    assert (await bench.until("exited")).exit_code == 0


@pytest.mark.parametrize(
    ("text", "progress"), [("0.5", 0.5), (" 1\\n", 1.0), ("7", 1.0), ("-1", 0.0), ("nan", None), ("x" * 999, None)]
)
async def test_progress_is_a_number_from_zero_to_one(bench: Any, text: str, progress: float | None) -> None:
    await bench.run(f"import os; open(os.environ['FASTGPU_PROGRESS_FILE'], 'w').write('{text}')")
    assert bench.engine.progress("j1") == progress


async def test_figures_reported_through_the_sdk_are_read_back(bench: Any) -> None:
    code = "import sys; sys.path.insert(0, %r); import fastgpu; [fastgpu.log_metric('acc', n / 4, n) for n in range(5)]"
    await bench.run(code % str(Path(__file__).parents[2]))
    [series] = metrics.read(bench.engine.metrics("j1").data)
    assert (series.name, series.count, series.last.value) == ("acc", 5, 1.0)


async def test_of_a_long_report_the_beginning_and_the_end_are_read(bench: Any) -> None:
    await bench.run(
        "import os; f = open(os.environ['FASTGPU_METRICS_FILE'], 'w'); "
        '[f.write(\'{"name":"loss","value":1,"step":%d}\\n\' % n) for n in range(200_000)]'
    )
    reported = bench.engine.metrics("j1")
    assert len(reported.data) <= 2 * METRICS_END_BYTES < reported.size_bytes
    [series] = metrics.read(reported.data)
    assert (series.points[0].step, series.last.step) == (0, 199_999)
    assert series.count == reported.data.count(b"\n"), "no line is cut, none is read twice"


@pytest.mark.parametrize("how", ["os.symlink('/etc/passwd', path)", "os.mkfifo(path)", "os.mkdir(path)",
                                 "(open('own', 'w').write('{}'), os.link('own', path))"])  # fmt: skip
async def test_figures_are_read_from_a_file_of_the_jobs_own_and_no_other(bench: Any, how: str) -> None:
    await bench.run(f"import os; path = os.environ['FASTGPU_METRICS_FILE']; {how}")
    assert bench.engine.metrics("j1") == Reported()


async def test_records_and_inputs_are_the_service_s_alone(bench: Any) -> None:
    sha256 = await blob(bench, b"input")
    await bench.run("pass", environment={"TOKEN": "of the student"}, inputs={"a": sha256})
    root = bench.folder
    assert (root / "blobs" / sha256).stat().st_mode & 0o777 == 0o600
    for name in ("output.log", "records"):
        assert (root / "jobs/j1" / name).stat().st_mode & 0o777 == 0o600
    for folder in (root, root / "jobs", root / "jobs/j1", root / "jobs/j1/work"):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not [path for path in (root / "blobs").iterdir() if path.name != sha256]


# ---------------------------------------------------------------- as the owner's system user

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to run jobs as other users")


@pytest.fixture
async def system_bench(bench: Any) -> AsyncIterator[Any]:
    await bench.engine.close()
    before = bench.folder
    bench.folder = Path(tempfile.mkdtemp(dir="/tmp"))  # pytest's own folders are closed to other users
    await bench.open(job_users="system")
    yield bench
    await bench.engine.close()
    shutil.rmtree(bench.folder)
    bench.folder = before


@needs_root
async def test_a_job_runs_as_its_owner_and_reaches_only_its_own(system_bench: Any) -> None:
    code = """
i=$(id -u -n); echo "$i $(id -G -n) $USER $HOME"
cat data/in.txt
echo new > data/out.txt; echo 0.5 > "$FASTGPU_PROGRESS_FILE"
for f in ../records ../output.log ../../../blobs/*; do
  (cat $f; echo x > $f) 2>/dev/null && echo "reached $f"
done
ls .. ../.. ../../../blobs 2>/dev/null && echo listed
kill -9 $PPID 2>/dev/null && echo killed the shepherd
kill -TERM $PPID 2>/dev/null && echo stopped the shepherd
exit 3
"""
    sha256 = await blob(system_bench, b"input\n")
    argv = ("/bin/sh", "-c", code)
    output = await system_bench.run("", owner="nobody", argv=argv, inputs={"data/in.txt": sha256})
    nobody = pwd.getpwnam("nobody")
    group = grp.getgrgid(nobody.pw_gid).gr_name
    assert output == f"nobody {group} nobody {nobody.pw_dir}\ninput\n"
    assert (await system_bench.until("exited")).exit_code == 3
    assert system_bench.engine.read_file("j1", "data/out.txt") == b"new\n"
    assert system_bench.engine.progress("j1") == 0.5
    assert system_bench.work().stat().st_uid == nobody.pw_uid


@needs_root
async def test_a_system_user_job_is_stopped_and_its_hard_link_is_not_read(system_bench: Any) -> None:
    secret = system_bench.folder / "secret"
    secret.write_text("root's")
    await system_bench.start(
        "", owner="nobody", argv=("/bin/sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done")
    )
    await system_bench.log_has("up")
    os.link(secret, system_bench.work() / "hard")
    os.symlink(secret, system_bench.work() / "soft")
    (system_bench.work() / "roots").write_text("not the owner's")
    assert system_bench.engine.files("j1") == []
    for name in ("hard", "soft", "roots"):
        assert system_bench.engine.read_file("j1", name) is None
    await system_bench.engine.stop("j1", 0.1)
    assert (await system_bench.until("exited")).ending == "stopped"


@needs_root
async def test_a_job_whose_user_cannot_reach_its_folder_is_told_where_the_way_ends(system_bench: Any) -> None:
    closed = system_bench.folder
    closed.chmod(0o700)
    await system_bench.start("print('ran')", owner="nobody")
    exited = await system_bench.until("exited")
    assert exited.ending == "failed_to_start"
    work = system_bench.work()
    assert f"nobody cannot reach the job's folder {work}: {closed} is closed to that user." in exited.reason.message
    assert f"`chmod o+x {closed}`" in exited.reason.message


@needs_root
@pytest.mark.parametrize("linked", [False, True])
async def test_a_python_that_the_user_cannot_reach_is_named_with_what_to_set(system_bench: Any, linked: bool) -> None:
    closed = system_bench.folder / "root-only"
    closed.mkdir(mode=0o700)
    (closed / "python").symlink_to("/bin/sh")
    python = system_bench.folder / "open-python" if linked else closed / "python"
    if linked:  # as in a virtual environment: the link is open, what it points to is not
        python.symlink_to("root-only/python")
    system_bench.engine.python = str(python)
    await system_bench.start("", owner="nobody", kind="script", argv=("train.py",))
    exited = await system_bench.until("exited")
    assert exited.ending == "failed_to_start"
    assert f"nobody cannot run the jobs' Python {python}: {closed} is closed to that user." in exited.reason.message
    assert "c.LocalEngine.python" in exited.reason.message


@needs_root
async def test_a_job_as_another_user_needs_nothing_of_the_services_python(system_bench: Any) -> None:
    """A service below /root: its Python's own files are out of the job's reach, also while the job is being started."""
    system_bench.engine.python = "/usr/bin/python"
    assert await system_bench.run("", owner="nobody", argv=("id", "-u", "-n")) == "nobody\n"


@needs_root
@pytest.mark.parametrize(
    ("owner", "why"),
    [("no-such-student", "This machine has no user named 'no-such-student'"), ("root", "administrator's account")],
)
async def test_a_job_without_a_fitting_system_user_does_not_start(system_bench: Any, owner: str, why: str) -> None:
    await system_bench.start("print('ran')", owner=owner)
    exited = await system_bench.until("exited")
    assert exited.ending == "failed_to_start"
    assert why in exited.reason.message
    assert system_bench.log() == ""


async def test_system_users_need_root(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.engine.close()
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 1000)
        with pytest.raises(RuntimeError, match="runs as root"):
            await bench.open(job_users="system")
