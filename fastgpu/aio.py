"""``AsyncGPUClient``: the asynchronous sender, for the Hub's spawner and for notebooks that ``await``."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from fastgpu import answers, models, requests, rule_requests, streaming
from fastgpu.connection import CONNECT_SECONDS, find_connection
from fastgpu.deadlines import Moment
from fastgpu.formatting import clean_text
from fastgpu.job_array import AsyncJobArray
from fastgpu.keeping import Around, AsyncKeeping
from fastgpu.planning import AsyncPlanning
from fastgpu.requests import LONG_POLL_SECONDS, Call, GroupBy, Received
from fastgpu.submission import Amount, Script, Upload, gather, job_request, make, seconds_of
from fastgpu.together import AsyncSweeping, Together, submit_array

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")


class AsyncJob:
    """Handle of a job for async code: ``await job`` waits for its end and returns it as it then stands."""

    def __init__(self, client: AsyncGPUClient, snapshot: models.Job) -> None:
        self._client = client
        self.snapshot = snapshot

    def __repr__(self) -> str:
        return f"<AsyncJob {self.snapshot.id} {self.snapshot.state.value}>"

    def __await__(self) -> Generator[Any, None, models.Job]:
        return self.wait().__await__()

    @property
    def id(self) -> str:
        """The job's id, also its lease's."""
        return self.snapshot.id

    async def refresh(self) -> models.Job:
        """Ask now and return the whole answer: of its latest attempt, which the handle then is of."""
        return await self._keep(await self._client.get_job_status(self.id))

    async def _keep(self, snapshot: models.Job) -> models.Job:
        while snapshot.next_attempt is not None:
            snapshot = await self._client.get_job_status(snapshot.next_attempt)
        self.snapshot = snapshot
        return snapshot

    async def wait(self) -> models.Job:
        """Wait until its latest attempt has ended."""
        await self._keep(self.snapshot)
        while not self.snapshot.state.final:
            await self._keep(
                await self._client.get_job_status(self.id, wait_seconds=LONG_POLL_SECONDS, state=self.snapshot.state)
            )
        return self.snapshot

    async def cancel(self) -> models.Job:
        """Cancel it; what it used until then is charged."""
        self.snapshot = await self._client.cancel(self.id)
        return self.snapshot

    async def logs(self) -> str:
        """All that its latest attempt has printed so far, without terminal escape sequences."""
        await self.refresh()
        data, offset = [], 0
        while True:
            part = await self._client.log_part(self.id, offset)
            data.append(part.data)
            offset = part.next_offset
            if not part.data or offset >= part.size:
                return clean_text(b"".join(data).decode("utf-8", "replace"))


class AsyncGPUClient(AsyncPlanning, AsyncKeeping, AsyncSweeping):
    """The async twin of :class:`~fastgpu.client.GPUClient`: same environment, errors, keys and repetition."""

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        import httpx

        self._connection = find_connection(url, token)
        self._http = httpx.AsyncClient(
            headers=self._connection.headers,
            timeout=httpx.Timeout(requests.ANSWER_SECONDS, connect=CONNECT_SECONDS),
            transport=transport,
            trust_env=self._connection.through_proxies,
        )
        self._sleep = sleep

    @property
    def url(self) -> str:
        """Address of the service."""
        return self._connection.url

    def __repr__(self) -> str:
        return f"<AsyncGPUClient {self.url}>"

    async def __aenter__(self) -> AsyncGPUClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def send(self, call: Call[T]) -> T:
        """Send one call of ``fastgpu.requests`` and read its answer, repeating it while the service is away."""
        import httpx

        attempt = 0
        while True:
            received: Received | None = None
            reason = ""
            try:
                received = await self._exchange(call)
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise answers.unreachable(self.url, str(error)) from error
            except httpx.TransportError as error:
                reason = str(error) or type(error).__name__
            delay = answers.retry_delay(attempt, received, random.random())  # noqa: S311  (spreads clients, no secret)
            if delay is None or not call.repeats:
                break
            attempt += 1
            await self._sleep(delay)
        if received is None:
            raise answers.unreachable(self.url, reason)
        return answers.read(call, received, self.url)

    async def _exchange(self, call: Call[Any]) -> Received:
        import httpx

        body = await asyncio.to_thread(call.body.read_bytes) if isinstance(call.body, Path) else call.body
        response = await self._http.request(
            call.method,
            self._connection.address(call.path),
            params=call.params,
            headers=call.headers,
            content=body,
            timeout=httpx.Timeout(call.timeout_seconds, connect=CONNECT_SECONDS),
        )
        return Received(response.status_code, response.headers, response.content)

    # ---------------------------------------------------------------- jobs

    @overload
    async def submit(
        self,
        script: Script,
        gpu_type: str,
        gpu_count: int = ...,
        time_limit: str | int = ...,
        *,
        array: None = ...,
        **options: Any,
    ) -> AsyncJob: ...
    @overload
    async def submit(
        self,
        script: Script,
        gpu_type: str,
        gpu_count: int = ...,
        time_limit: str | int = ...,
        *,
        array: Mapping[str, Iterable[object]],
        **options: Any,
    ) -> AsyncJobArray: ...
    async def submit(  # type: ignore[misc]  # the options are named here only
        self,
        script: Script,
        gpu_type: str,
        gpu_count: int = 1,
        time_limit: str | int = "1h",
        *,
        args: Sequence[str] = (),
        files: Iterable[str] = (),
        env: Mapping[str, str] | None = None,
        name: str | None = None,
        account: str | None = None,
        promo_code: str | None = None,
        max_cost: Amount | None = None,
        again: bool = False,
        start: Moment = "now",
        by: Moment | None = None,
        outputs: Sequence[str] = (),
        sources: Mapping[str, str] | None = None,
        python: str | None = None,
        lock: str | None = None,
        array: Mapping[str, Iterable[object]] | None = None,
        max_running: int | None = None,
        after: object = (),
        retries: int = 0,
        grace: int | None = None,
        spot: bool = False,
        idempotency_key: str | None = None,
    ) -> AsyncJob | AsyncJobArray:
        """Send a program off as a GPU job; arguments as in :meth:`fastgpu.client.GPUClient.submit`."""
        timing = await self.timing(start, by)
        around = Around(outputs, sources or {}, python, lock)
        kind, argv, uploads = await asyncio.to_thread(gather, script, args, [*files, *around.files], Path.cwd())
        request = job_request(
            kind,
            argv,
            gpu_type,
            gpu_count,
            time_limit,
            uploads,
            name=name,
            account=account,
            promo_code=promo_code,
            max_cost=max_cost,
            env=env,
            again=again,
            timing=timing,
            around=around,
            together=Together(array, max_running, after, retries, grace, spot),
        )
        if array is not None:
            return await self.submit_sweep(request, uploads, idempotency_key=idempotency_key)
        return await self.submit_request(request, uploads, idempotency_key=idempotency_key)

    async def submit_request(
        self, request: models.JobSubmit, uploads: Iterable[Upload] = (), *, idempotency_key: str | None = None
    ) -> AsyncJob:
        """Submit a prepared request after uploading those inputs that the service does not hold yet."""
        await self.upload(uploads)
        return AsyncJob(self, await self.send(requests.submit(request, idempotency_key)))

    async def submit_sweep(
        self, request: models.JobSubmit, uploads: Iterable[Upload] = (), *, idempotency_key: str | None = None
    ) -> AsyncJobArray:
        """As :meth:`submit_request`, for a request with a sweep."""
        await self.upload(uploads)
        return AsyncJobArray(self, await self.send(submit_array(request, idempotency_key)))

    async def upload(self, uploads: Iterable[Upload]) -> None:
        """Send those inputs that the service does not hold yet."""
        for upload in uploads:
            if not await self.send(requests.has_blob(upload.sha256)):
                await self.send(requests.put_blob(upload.sha256, upload.source))

    async def job(self, job_id: str) -> AsyncJob:
        """Handle of a job by its id."""
        return AsyncJob(self, await self.send(requests.job(job_id)))

    async def get_job_status(
        self, job_id: str, *, wait_seconds: int | None = None, state: models.JobState | None = None
    ) -> models.Job:
        """A job as it stands; with ``wait_seconds`` and ``state`` once the state is another, or after that time."""
        return await self.send(requests.job(job_id, wait_seconds, state.value if state else None))

    async def jobs(self, state: Literal["active", "all"] = "all", limit: int | None = None) -> list[AsyncJob]:
        """My jobs, newest first."""
        return [AsyncJob(self, job) for job in await self.send(requests.jobs(state, limit))]

    async def cancel(self, job_id: str) -> models.Job:
        """Cancel a job; what it used until then is charged."""
        return await self.send(requests.cancel(job_id))

    async def log_part(
        self,
        job_id: str,
        offset: int = 0,
        limit_bytes: int = requests.LOG_PART_BYTES,
        *,
        wait_seconds: int | None = None,
    ) -> requests.LogPart:
        """A piece of a job's log from byte ``offset`` on; with ``wait_seconds`` once there is one, or after that."""
        return await self.send(requests.log(job_id, offset, limit_bytes, wait_seconds))

    async def job_metrics(self, job_id: str) -> list[models.Metric]:
        """The figures a job reports, each by step."""
        return await self.send(requests.metrics(job_id))

    async def job_run(self, job_id: str) -> models.Run:
        """A job with the use of its GPUs, its figures and attempts."""
        return await self.send(requests.run(job_id))

    # ---------------------------------------------------------------- what there is, what it costs

    async def me(self) -> models.Me:
        """Who I am to FastGPU."""
        return await self.send(requests.me())

    async def status(self) -> models.Status:
        """My leases, GPUs in use, jobs, quotas and accounts at a glance."""
        return await self.send(requests.status())

    async def options(
        self, owner: str = "me", account: str | None = None, promo_code: str | None = None
    ) -> models.Options:
        """What ``owner`` may choose from now; a name other than one's own needs the spawner's token."""
        return await self.send(requests.options(owner, account, promo_code))

    async def quote(
        self,
        gpu_type: str,
        gpu_count: int = 1,
        duration: str | int = "1h",
        *,
        account: str | None = None,
        promo_code: str | None = None,
        spot: bool = False,
    ) -> models.Quote:
        """What a request would cost, itemised."""
        request = make(
            models.QuoteRequest,
            gpu_type=gpu_type,
            gpu_count=gpu_count,
            duration_seconds=seconds_of(duration),
            account=account,
            promo_code=promo_code,
            spot=spot,
        )
        return await self.send(requests.quote(request))

    async def costs(self, since: datetime | None = None, by: GroupBy = "job") -> models.CostReport:
        """Settled and running cost since an instant (with a zone), grouped."""
        return await self.send(rule_requests.costs(since, by))

    async def receipt(self, lease_id: str) -> models.Receipt:
        """Every charge of a lease or job."""
        return await self.send(requests.receipt(lease_id))

    async def why(self, lease_id: str) -> models.Why:
        """Why a job or lease is where it is."""
        return await self.send(requests.why(lease_id))

    async def notices(self, after: int | None = None, limit: int | None = None) -> list[models.Notice]:
        """News for me, oldest first."""
        return await self.send(requests.notices(after, limit))

    def events(self, after: int | None = None) -> AsyncGenerator[models.Notice, None]:
        """News as it comes, without end, as :meth:`fastgpu.client.GPUClient.events`: ``async for notice in …``."""
        return streaming.follow_async(self._http, self._connection, self._sleep, after)

    # ---------------------------------------------------------------- leases (the spawner's side)

    async def request_lease(
        self, owner: str, request: models.LeaseRequest, *, idempotency_key: str | None = None
    ) -> models.Lease:
        """Request GPUs for a server of ``owner``; a repeat with the same key returns the same lease."""
        return await self.send(requests.request_lease(owner, request, idempotency_key))

    async def lease(
        self, lease_id: str, *, wait_seconds: int | None = None, state: models.LeaseState | str | None = None
    ) -> models.Lease:
        """A lease; with ``wait_seconds`` and ``state`` once state, queue place or reason is another, or after that."""
        known = state.value if isinstance(state, models.LeaseState) else state
        return await self.send(requests.lease(lease_id, wait_seconds, known))

    async def lease_started(self, lease_id: str, pid: int | None = None) -> models.Lease:
        """Tell that the lease's workload runs: billing starts."""
        return await self.send(requests.lease_started(lease_id, pid))

    async def release_lease(self, lease_id: str) -> models.Lease:
        """Tell that the lease's workload is gone: billing ends. Releasing twice is the same as once."""
        return await self.send(requests.release_lease(lease_id))
