"""The main job without a screen: a hub, a student, a leased server, a notebook that sends a GPU job, the receipt."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from fastgpu.aio import AsyncGPUClient
from fastgpu.formatting import format_money
from tools.hub import ROOT, HubProcess, Ports
from tools.student import CellResult, Student, code_cells

NOTEBOOK = ROOT / "docs" / "tutorials" / "first-job.ipynb"


def say(text: str) -> None:
    """A step, with the time since the start."""
    print(f"[{time.monotonic() - BEGIN:5.1f} s] {text}", flush=True)


def show(result: CellResult) -> None:
    """A cell's first line and what came of it."""
    print(f"\n    In:  {result.source.strip().splitlines()[0]}")
    for text in [result.printed, *(str(data.get("text/plain", "")) for data in result.results)]:
        for line in text.strip().splitlines():
            print(f"         {line}")
    if result.error:
        print(f"         {result.error}")


async def main_job(hub: HubProcess) -> bool:
    """Everything a newcomer does, through the same doors. True when the receipt adds up."""
    async with Student(hub.url, "alice", "fastgpu") as alice:
        await alice.sign_in()
        say("alice signed in; starting her server with one GPU")
        client = AsyncGPUClient(url=hub.service_url, token=alice.token)
        options = await client.options("me")
        gpu_type = options.offers[0].gpu_type
        await alice.start_server({"gpu_type": gpu_type, "gpu_count": 1}, say)
        say("running docs/tutorials/first-job.ipynb in it")
        results = await alice.run_cells(code_cells(NOTEBOOK), show)
        if failed := next((result for result in results if result.error), None):
            print(f"The notebook failed at: {failed.source}\n{failed.error}")
            return False
        print()
        status = await client.status()
        job, lease = status.jobs[0], next(lease for lease in status.leases if lease.job_id is None)
        say(
            f"job {job.id}: {job.state.value}, queued {_seconds(job.submitted_at, job.started_at)} s, cost "
            f"{format_money(job.cost_micros, job.currency)}"
        )
        say("stopping the server")
        await alice.stop_server()
        adds_up = True
        for lease_id in (job.id, lease.id):
            receipt = await client.receipt(lease_id)
            print(f"\nReceipt {lease_id} ({receipt.name}, {receipt.gpu_type}{_label(receipt.simulated)})")
            for line in receipt.lines:
                print(
                    f"  {line.starts_at:%H:%M:%S} - {line.ends_at:%H:%M:%S}  {line.quantity} s x "
                    f"{format_money(line.rate_micros)}/{line.unit.replace('_', '-')}  "
                    f"{line.promotion_name or 'list price'}"
                    f"  = {format_money(line.amount_micros, receipt.currency)}"
                )
            equal = receipt.total_micros == receipt.ledger_micros and receipt.settled and bool(receipt.lines)
            print(
                f"receipt total {'==' if equal else '!='} ledger total   ({format_money(receipt.total_micros)} "
                f"{'==' if equal else '!='} {format_money(receipt.ledger_micros)} {receipt.currency})"
            )
            adds_up = adds_up and equal
        account = (await client.status()).accounts[0]
        print(
            f"{account.id}: {format_money(account.spent_micros)} spent, {format_money(account.held_micros)} held, "
            f"{format_money(account.left_micros)} {options.currency} left"
        )
        await client.close()
        return adds_up and account.held_micros == 0


def _label(simulated: bool) -> str:
    return ", simulated" if simulated else ""


def _seconds(begin: object, end: object) -> str:
    return f"{(end - begin).total_seconds():.2f}" if begin and end else "?"  # type: ignore[operator]


def main() -> int:
    """Run the demo; 0 when everything worked and nothing was left behind."""
    with tempfile.TemporaryDirectory(prefix="fastgpu-demo-") as folder:
        log_path = Path(folder) / "hub.log"
        with log_path.open("wb") as log:
            hub = HubProcess(Path(folder) / "state", Ports.free(), log=log)
            ok = False
            try:
                say("starting a hub on free ports")
                hub.start()
                ok = asyncio.run(main_job(hub))
            finally:
                say("stopping everything")
                killed = hub.stop()
                if not ok:
                    print(log_path.read_text(errors="replace")[-8000:])
        if killed:
            print(f"these had to be killed: {killed}")
    say("done" if ok else "the demo did not work")
    return 0 if ok and not killed else 1


BEGIN = time.monotonic()

if __name__ == "__main__":
    sys.exit(main())
