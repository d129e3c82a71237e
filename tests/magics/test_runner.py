"""The runner executes a job's notebook in a real kernel and leaves its results, whatever happens."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest

from fastgpu_magics.cells import notebook_of
from fastgpu_magics.runner import main
from fastgpu_magics.transfer import dump_inputs, python_minor

ROOT = Path(__file__).parents[2]
slow = pytest.mark.slow
CELL = "cell.ipynb"


class Job:
    """A job's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}

    def write(self, cell: str, outputs: tuple[str, ...] = (), python: str = "", **inputs: Any) -> None:
        notebook = notebook_of(cell, list(inputs), outputs, python or python_minor())
        (self.folder / "cell.ipynb").write_bytes(notebook)
        if inputs:
            (self.folder / "inputs.pkl").write_bytes(dump_inputs(inputs, inputs).content)

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "fastgpu_magics.runner", "cell.ipynb"],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
        )

    def run(self) -> tuple[int, str]:
        with self.start() as process:
            text, _ = process.communicate(timeout=60)
            return process.returncode, text

    @property
    def result(self) -> Any:
        notebook = nbformat.reads((self.folder / "result.ipynb").read_text(encoding="utf-8"), as_version=4)
        nbformat.validate(notebook)
        return notebook


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


@slow
def test_a_cell_runs_with_its_inputs_and_brings_outputs_plots_and_shell_lines_back(job: Job) -> None:
    cell = (
        "!echo from the shell\n"
        "import os, warnings\n"
        "from IPython.display import HTML\n"
        "display(HTML('<b>plot</b>'))\n"
        "print('π', scale(n), os.path.basename(os.getcwd()) != '')\n"
        "loss = n / 4\n"
        "loss"
    )
    job.write(cell, ("loss", "scale"), n=2, scale=lambda x: x * 3)
    code, text = job.run()
    assert (code, text.splitlines()) == (0, ["from the shell", "π 6 True"])
    assert pickle.loads((job.folder / "out/loss.pkl").read_bytes()) == 0.5
    listed = json.loads((job.folder / "out/outputs.json").read_text())
    assert (sorted(listed["outputs"]), listed["python"]) == (["loss", "scale"], python_minor())
    [executed] = job.result.cells
    assert executed.source == cell
    assert [output.output_type for output in executed.outputs] == ["stream", "display_data", "stream", "execute_result"]
    assert executed.outputs[1].data["text/html"] == "<b>plot</b>"


@slow
def test_a_failing_cell_exits_1_with_its_traceback_and_still_leaves_the_notebook(job: Job) -> None:
    job.write("print('before')\n1/0\nprint('after')", ("loss",))
    code, text = job.run()
    assert code == 1
    assert "before" in text
    assert "ZeroDivisionError: division by zero" in text
    assert "after" not in text.splitlines()
    assert "\x1b" not in text
    assert [output.output_type for output in job.result.cells[0].outputs] == ["stream", "error"]
    assert not (job.folder / "out").exists()


@slow
def test_output_comes_while_the_cell_runs_and_a_stop_keeps_what_was_printed(job: Job) -> None:
    job.write("import time\nprint('begun')\ntime.sleep(60)\nprint('after')")
    with job.start() as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert "KeyboardInterrupt" in rest
    assert job.result.cells[0].outputs[0].text == "begun\n"


@slow
def test_a_cell_that_ignores_the_stop_is_killed_with_its_kernel(job: Job) -> None:
    job.write(
        "import os, time\nprint(os.getpid())\nwhile True:\n    try:\n        time.sleep(1)\n"
        "    except KeyboardInterrupt:\n        pass"
    )
    with job.start() as process:
        assert process.stdout is not None
        kernel = int(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert job.result.cells
    deadline = time.monotonic() + 10
    while Path(f"/proc/{kernel}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{kernel}").exists()


@slow
def test_the_first_cells_output_is_there_while_the_second_cell_runs_and_what_a_cell_left_for_the_end_is_done(
    job: Job,
) -> None:
    cells = [
        "import atexit, pathlib\natexit.register(lambda: pathlib.Path('ended').touch())\nprint('first')",
        "import time\nwhile not pathlib.Path('seen').exists():\n    time.sleep(0.01)\nprint('second')",
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells))), job.folder / CELL)
    with job.start() as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "first\n"
        (job.folder / "seen").touch()
        rest, _ = process.communicate(timeout=30)
    assert (process.returncode, rest) == (0, "second\n")
    assert (job.folder / "ended").exists()


@slow
def test_a_stop_before_the_first_cell_leaves_no_kernel_and_no_sockets(job: Job, tmp_path: Path) -> None:
    job.write("print('never')")
    sockets = tmp_path / "tmp"
    sockets.mkdir()
    # The kernel waits for the owner's start-up files.
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "slow.py").write_text("import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(60)")
    job.environment |= {"TMPDIR": str(sockets), "IPYTHONDIR": str(tmp_path / "ipython")}
    with job.start() as process:
        until = time.monotonic() + 20
        while not (job.folder / "pid").exists() or not (job.folder / "pid").read_text():
            assert time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        text, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert "never" not in text
    assert not Path(f"/proc/{(job.folder / 'pid').read_text()}").exists()
    assert list(sockets.iterdir()) == []


@slow
def test_a_kernel_that_cannot_start_is_said_so(job: Job, tmp_path: Path) -> None:
    (tmp_path / "ipykernel_launcher.py").write_text("raise SystemExit('it is broken')")
    job.environment["PYTHONPATH"] = f"{tmp_path}:{ROOT}"
    job.write("print('never')")
    code, text = job.run()
    assert code == 1
    assert "it is broken" in text
    assert "fastgpu: the kernel died while it started." in text


@slow
def test_the_runner_imports_nothing_that_keeps_the_first_cell_waiting(job: Job) -> None:
    job.write("import fastgpu_magics.transfer, sys\nprint('pydantic' in sys.modules)")
    code = "import sys\nfrom fastgpu_magics.runner import main\nmain(['cell.ipynb'])\nprint(sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=job.folder, env=job.environment, capture_output=True, text=True, timeout=60
    )
    in_kernel, in_runner = done.stdout.splitlines()
    assert in_kernel == "False"
    assert "'nbclient'" in in_runner
    for slow_module in ("'pydantic'", "'rfc3987_syntax'", "'IPython'", "'fastgpu.models'"):
        assert slow_module not in in_runner


@slow
def test_a_kernel_that_dies_is_said_so(job: Job) -> None:
    job.write("print('x', flush=True)\nimport os, time\ntime.sleep(0.5)\nos._exit(9)")
    code, text = job.run()
    assert code == 1
    assert "the kernel died" in text
    assert job.result.cells


@slow
def test_an_output_that_was_not_made_or_cannot_be_saved_fails_the_job_by_name(job: Job) -> None:
    job.write("good = 1\ngen = (i for i in [])", ("good", "gen", "gone"))
    code, text = job.run()
    assert code == 1
    assert "`gen` is or holds a generator" in text
    assert "the cell bound no `gone`" in text
    assert (job.folder / "out/good.pkl").exists()
    assert len(job.result.cells) == 1


@slow
def test_every_cell_of_a_whole_notebook_runs_and_nothing_listens_on_the_network(job: Job) -> None:
    cells = [
        nbformat.v4.new_markdown_cell("# words"),
        nbformat.v4.new_code_cell("x = 1"),
        nbformat.v4.new_code_cell("import sys; print(x + 1, sys.executable)"),
        nbformat.v4.new_code_cell("print(get_ipython().kernel.shell_stream.socket.getsockopt_string(32)[:6])"),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), job.folder / "cell.ipynb")
    code, text = job.run()
    assert code == 0
    assert text.splitlines() == [f"2 {sys.executable}", "ipc://"]


def test_another_python_is_refused_with_what_to_do(
    job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(job.folder)
    job.write("x = n", python="2.7", n=1)
    assert main(["cell.ipynb"]) == 1
    assert "runs Python 2.7" in capsys.readouterr().out
    assert job.result.cells


@pytest.mark.parametrize("content", [None, "no json", "{}", "[]"])
def test_what_is_no_notebook_is_exit_code_2(
    job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    monkeypatch.chdir(job.folder)
    if content is not None:
        (job.folder / "cell.ipynb").write_text(content)
    assert main(["cell.ipynb"]) == 2
    assert "cannot read cell.ipynb as a notebook" in capsys.readouterr().err
    assert main([]) == 2


@slow
def test_a_bar_that_is_a_widget_is_read_along(job: Job, tmp_path: Path) -> None:
    job.environment["FASTGPU_PROGRESS_FILE"] = str(tmp_path / "progress")
    cell = "import ipywidgets\nbar = ipywidgets.FloatProgress(max=8)\ndisplay(bar)\nfor n in range(3): bar.value = n"
    job.write(cell)
    code, text = job.run()
    assert code == 0, text
    assert (tmp_path / "progress").read_text() == "0.250000"
