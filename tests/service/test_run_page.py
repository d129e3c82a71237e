"""The result page of a run: everything that came of it, for its owner and who runs the class, and nothing that acts."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgpu.models import Metric, MetricPoint, RunUse, RunUsePoint
from fastgpu_hub.service.pages import charts, outputs

PNG = base64.b64encode(b"\x89PNG not really").decode()
EVIL = "<script>alert(1)</script>"


def stream(text: str) -> dict[str, Any]:
    return {"output_type": "stream", "name": "stdout", "text": text}


def shown(**data: Any) -> dict[str, Any]:
    return {"output_type": "execute_result", "data": {name.replace("_", "/"): value for name, value in data.items()}}


def executed(*cells: tuple[str, list[dict[str, Any]]]) -> bytes:
    return json.dumps(
        {"cells": [{"cell_type": "code", "source": source, "outputs": found} for source, found in cells]}
    ).encode()


async def ended(service: Any, job: dict[str, Any], code: int = 0) -> None:
    service.engine.finish(job["id"], code)
    await service.call("t-alice", "GET", f"api/jobs/{job['id']}?wait_seconds=5&state=running")


async def page(service: Any, job: dict[str, Any], token: str = "t-alice") -> str:
    answer = await service.call(token, "GET", f"jobs/{job['id']}")
    assert answer.status_code == 200, answer.text
    text: str = answer.text
    return text


async def test_it_shows_state_time_cost_figures_files_and_log(service: Any) -> None:
    job = await service.running(name="train", kind="script", argv=["train.py", "--name", "a b"])
    for step in range(3):
        service.engine.log_metric(job["id"], "val_accuracy", 0.9 + step / 100, step)
    service.engine.log_metric(job["id"], "loss", float("nan"), 3)
    service.engine.write_log(job["id"], b"begin\n 10%|#| 1/10 [00:01<00:09]\r 40%|####| 4/10 [00:04<00:06]")
    service.engine.put_file(job["id"], "out/model 1.pt", b"x" * 2048)
    await service.broker.runtime.gpus.sample(max_age_ms=0)
    running = await page(service, job)
    for words in (
        *("running", "40 %", "by the progress bar in its output", "Cost so far", "Runs for", "val_accuracy", "begin"),
        *("0.92 at step 2", "Best (highest)", "not a number", "4/10", "train.py --name", "'a b'"),
    ):
        assert words in running.replace("&#39;", "'"), words
    assert "1/10" not in running, "what a bar drew over is not shown"
    assert f'href="/services/fastgpu/receipts/{job["id"]}"' in running
    assert 'files/out/model%201.pt">out/model 1.pt' in running
    assert "2 KiB" in running
    assert f'action="/services/fastgpu/jobs/{job["id"]}/cancel"' in running
    await ended(service, job, 3)
    after = await page(service, job)
    for words in ("failed", "exit code 3", "Ran for", "How it went", "0.92 at step 2", "40 %", "Exit code"):
        assert words in after, words
    assert "/cancel" not in after


@pytest.mark.slow
async def test_it_is_linked_from_the_pages_of_student_and_teacher(service: Any) -> None:
    job = await service.running(name="train")
    link = f'href="/services/fastgpu/jobs/{job["id"]}">train</a>'
    assert link in (await service.call("t-alice", "GET", "")).text
    assert link in (await service.call("t-tina", "GET", "classes/cs101")).text


@pytest.mark.slow
async def test_a_foreign_run_looks_like_one_that_is_not_there(service: Any) -> None:
    job = await service.running()
    foreign = await service.call("t-carol", "GET", f"jobs/{job['id']}")
    missing = await service.call("t-carol", "GET", "jobs/j-000000000000")
    assert foreign.status_code == missing.status_code == 404
    blank = [re.sub(r"j-[0-9a-f]{12}|[0-9a-f]{16}|data-now=\"[^\"]*\"", "X", a.text) for a in (foreign, missing)]
    assert blank[0] == blank[1]


async def test_names_outputs_and_logs_are_text_never_markup(service: Any) -> None:
    job = await service.running(name=EVIL, kind="command", argv=["echo", EVIL])
    service.engine.log_metric(job["id"], EVIL, 1, 0)
    service.engine.log_metric(job["id"], EVIL, 2, 1)
    service.engine.write_log(job["id"], EVIL.encode() + b"\x1b]0;title\x07\x1b[31mred\x1b[0m")
    service.engine.put_file(job["id"], f"{EVIL}.txt".replace("/", ""), b"")
    cells = [
        (EVIL, [stream(EVIL), shown(text_plain=EVIL, text_html=EVIL), shown(text_html=EVIL)]),
        ("", [shown(image_png=f'{PNG}" onerror="alert(1)'), shown(**{"image_svg+xml": f"<svg>{EVIL}</svg>"})]),
    ]
    service.engine.put_file(job["id"], "result.ipynb", executed(*cells))
    text = await page(service, job)
    assert "<script>" not in text
    assert "onerror" not in text.replace("&#34; onerror", "")
    assert "\x1b" not in text
    assert text.count("&lt;script&gt;") >= 6
    [svg] = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', text)
    assert EVIL in base64.b64decode(svg).decode(), "as an image it is shown, and runs nothing"
    policy = (await service.call("t-alice", "GET", f"jobs/{job['id']}")).headers["Content-Security-Policy"]
    assert "script-src 'self'" in policy
    assert "img-src 'self' data:" in policy


@pytest.mark.slow
async def test_owner_and_teacher_stop_it_from_its_page_and_stay_on_it(service: Any) -> None:
    for token in ("t-alice", "t-tina"):
        job = await service.running()
        done = await service.call(
            token, "POST", f"jobs/{job['id']}/cancel", data={"back": "run"}, follow_redirects=False
        )
        assert done.headers["Location"] == f"/services/fastgpu/jobs/{job['id']}?done=job-stopping"
        answer = await service.call("t-alice", "GET", f"api/jobs/{job['id']}?wait_seconds=5&state=stopping")
        assert answer.json()["state"] == "cancelled"
        assert "Cancelled by" in await page(service, job)


@pytest.mark.slow
async def test_the_whole_log_is_a_file_of_every_byte(service: Any) -> None:
    job = await service.running()
    log = b"".join(b"line %d\n" % n for n in range(400_000))
    service.engine.write_log(job["id"], log)
    answer = await service.call("t-tina", "GET", f"jobs/{job['id']}/log.txt")
    assert answer.content == log
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{job["id"]}.log.txt"'
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    empty = await service.running()
    assert (await service.call("t-alice", "GET", f"jobs/{empty['id']}/log.txt")).content == b""


@pytest.mark.slow
async def test_a_run_whose_files_are_gone_keeps_its_figures_and_says_so(service: Any) -> None:
    job = await service.running()
    service.engine.log_metric(job["id"], "accuracy", 0.97, 30)
    service.engine.write_log(job["id"], b"trained\n")
    await ended(service, job)
    service.engine._jobs.pop(job["id"])  # as when its folder is removed
    now_ms = service.broker.clock.now_ms()
    await service.broker.store.write(lambda uow: uow.files_removed([job["id"]], now_ms))
    text = await page(service, job)
    assert "0.97 at step 30" in text
    assert "Its log and files were removed" in text
    assert "trained" not in text
    log = await service.call("t-alice", "GET", f"api/jobs/{job['id']}/log")
    assert log.status_code == 410
    assert "were removed" in log.json()["error"]["message"]


async def test_the_log_is_waited_for_by_its_offset(service: Any) -> None:
    job = await service.running()
    service.engine.write_log(job["id"], b"one")
    path = f"api/jobs/{job['id']}/log?wait_seconds=20"
    assert (await service.call("t-alice", "GET", f"{path}&offset=0")).content == b"one"
    waiting = asyncio.ensure_future(service.call("t-alice", "GET", f"{path}&offset=3"))
    await asyncio.sleep(0.15)
    assert not waiting.done()
    service.engine.write_log(job["id"], b"two")
    assert (await asyncio.wait_for(waiting, 2)).content == b"two"
    waiting = asyncio.ensure_future(service.call("t-alice", "GET", f"{path}&offset=6"))
    await asyncio.sleep(0.05)
    service.engine.finish(job["id"])
    last = await asyncio.wait_for(waiting, 2)
    assert (last.content, last.headers["X-Job-State"]) == (b"", "succeeded")


# ---------------------------------------------------------------- what is drawn and shown


def metric(values: list[float | None], steps: list[int] | None = None) -> Metric:
    points = [
        MetricPoint(step=step, value=value) for step, value in zip(steps or range(len(values)), values, strict=True)
    ]
    return Metric(name="m", count=len(points), last=points[-1], points=tuple(points))


def test_a_chart_goes_from_its_lowest_at_the_bottom_to_its_highest_at_the_top() -> None:
    chart = charts.of_metric(metric([0.0, 1.0, 0.5], [10, 20, 30]))
    assert chart is not None
    assert chart.lines == ("0.0,114.0 300.0,6.0 600.0,60.0",)
    assert (chart.top, chart.bottom, chart.first, chart.last) == ("1", "0", "step 10", "step 30")


def test_a_chart_is_broken_where_a_value_was_not_a_number() -> None:
    chart = charts.of_metric(metric([0.0, 1.0, None, 1.0, None, 0.0, 0.5]))
    assert chart is not None
    assert len(chart.lines) == 3
    assert charts.of_metric(metric([None, 1.0, None])) is None


@given(st.lists(st.none() | st.floats(allow_nan=False), min_size=1, max_size=600))
def test_every_chart_stays_in_its_frame(values: list[float | None]) -> None:
    chart = charts.of_metric(metric([None if value in (float("inf"), float("-inf")) else value for value in values]))
    for x, y in re.findall(r"(\S+),(\S+)", " ".join(chart.lines)) if chart else ():
        assert 0 <= float(x) <= charts.WIDTH
        assert charts.MARGIN <= float(y) <= charts.HEIGHT - charts.MARGIN


def test_a_reading_that_came_a_little_late_does_not_break_the_line() -> None:
    def use(values: list[float | None]) -> RunUse:
        points = (RunUsePoint(at="2025-01-01T00:00:00Z", mean_percent=value) for value in values)
        return RunUse(every_seconds=5, points=tuple(points))

    late, away = (
        charts.of_use(use([10, None, 20, 30]), "a", "b"),
        charts.of_use(use([10, *[None] * 9, 20, 30]), "a", "b"),
    )
    assert late is not None
    assert away is not None
    assert (len(late.lines), len(away.lines)) == (1, 2)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"cells": 1}', b'{"cells": [1, {"outputs": [2, {}]}]}',
                                     b"[" * 5000, executed(("", [{"output_type": "error"}]))])  # fmt: skip
def test_what_is_no_notebook_shows_nothing_and_breaks_nothing(content: bytes) -> None:
    found = outputs.notebook(content)
    assert found is None or all(not output.image for cell in found.cells for output in cell.outputs)


def test_a_huge_notebook_is_cut_and_says_so() -> None:
    big = shown(image_png=base64.b64encode(b"x" * outputs.MOST_IMAGE_BYTES).decode())
    found = outputs.notebook(executed(("", [stream("y" * 10**6), big, *[stream("z")] * 500])))
    assert found is not None
    assert found.left_out
    [cell] = found.cells
    assert len(cell.outputs) == outputs.MOST_OUTPUTS
    assert sum(len(output.text) + len(output.image) for output in cell.outputs) < 2 * outputs.LONGEST_TEXT


def test_the_end_of_a_log_is_as_a_terminal_would_have_it() -> None:
    log = "cut lin\n" + "".join(f"{n}\n" for n in range(100)) + " 1%\r 2%\r\n3 %\r4 %\r"
    assert outputs.log_tail(log.encode(), whole=False).endswith("99\n 2%\n4 %")
    assert "cut" not in outputs.log_tail(b"cut lin\nlast", whole=False)
    assert outputs.log_tail(b"only", whole=True) == "only"
