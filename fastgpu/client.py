"""``GPUClient``: the synchronous sender. What is sent and how answers read is in ``requests`` and ``answers``."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from fastgpu import answers, models, requests, streaming
from fastgpu.connection import CONNECT_SECONDS, find_connection
from fastgpu.deadlines import Moment
from fastgpu.job import Job
from fastgpu.job_array import JobArray
from fastgpu.keeping import Around, Keeping
from fastgpu.managing import Managing
from fastgpu.planning import Planning
from fastgpu.requests import Call, Received
from fastgpu.standing import Standing
from fastgpu.submission import (
    Amount,
    Script,
    Upload,
    gather,
    job_request,
    make,
    seconds_of,
)
from fastgpu.together import Sweeping, Together, submit_array

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")


class GPUClient(Planning, Keeping, Sweeping, Standing, Managing):
    """FastGPU for Python programs: quotes, jobs, quotas, costs.

    ``url`` and ``token`` default to the environment, which a server started by the hub has set. Every method raises a
    :class:`~fastgpu.errors.FastGPUError` of the matching kind when refused; calls that change something carry an
    idempotency key and are repeated with the same key (at most four times) when the service cannot be reached.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        # httpx is the dearest import of the SDK; naming the class must not cost it.
        import httpx

        self._connection = find_connection(url, token)
        self._http = httpx.Client(
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
        return f"<GPUClient {self.url}>"

    def __enter__(self) -> GPUClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # ---------------------------------------------------------------- sending

    def send(self, call: Call[T]) -> T:
        """Send one call of ``fastgpu.requests`` and read its answer, repeating it while the service is away."""
        import httpx

        attempt = 0
        while True:
            received: Received | None = None
            reason = ""
            try:
                received = self._exchange(call)
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise answers.unreachable(self.url, str(error)) from error
            except httpx.TransportError as error:
                reason = str(error) or type(error).__name__
            delay = answers.retry_delay(attempt, received, random.random())  # noqa: S311  (spreads clients, no secret)
            if delay is None or not call.repeats:
                break
            attempt += 1
            self._sleep(delay)
        if received is None:
            raise answers.unreachable(self.url, reason)
        return answers.read(call, received, self.url)

    def _exchange(self, call: Call[Any]) -> Received:
        with ExitStack() as stack:
            body = stack.enter_context(call.body.open("rb")) if isinstance(call.body, Path) else call.body
            response = self._http.request(
                call.method,
                self._connection.address(call.path),
                params=call.params,
                headers=call.headers,
                content=body,
                timeout=self._timeout(call),
            )
        return Received(response.status_code, response.headers, response.content)

    def _timeout(self, call: Call[Any]) -> httpx.Timeout:
        import httpx

        return httpx.Timeout(call.timeout_seconds, connect=CONNECT_SECONDS)

    def pause(self, seconds: float) -> None:
        """Sleep as between two attempts."""
        self._sleep(seconds)

    def page(self, path: str) -> str:
        """Address of one of the service's pages, for a browser."""
        return self._connection.page(path)

    # ---------------------------------------------------------------- jobs

    @overload
    def submit(
        self,
        script: Script,
        gpu_type: str,
        gpu_count: int = ...,
        time_limit: str | int = ...,
        *,
        array: None = ...,
        **options: Any,
    ) -> Job: ...
    @overload
    def submit(
        self,
        script: Script,
        gpu_type: str,
        gpu_count: int = ...,
        time_limit: str | int = ...,
        *,
        array: Mapping[str, Iterable[object]],
        **options: Any,
    ) -> JobArray: ...
    def submit(  # type: ignore[misc]  # the options are named here only
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
    ) -> Job | JobArray:
        """Send a program off as a GPU job and return its handle at once.

        ``script`` is a ``.py`` or ``.ipynb`` file, or a command as a list of words. It and the files that ``files``
        names (patterns relative to the current folder) are uploaded; nothing else is. ``time_limit`` is text such as
        ``"2h"`` or seconds; ``max_cost`` an amount in whole units (``"2.50"``), above which the job is refused.
        ``start="cheapest"`` puts it off to the start that costs least and still ends ``by``; ``start`` may also be an
        instant. Instants are aware datetimes, or text such as ``"Fri 18:00"`` in the service's time zone.

        ``outputs`` are patterns of the files to keep after its end (``["results/*.csv", "model/"]``); ``sources`` maps
        paths in the job's folder to addresses that the service fetches them from, also ``artifact:JOB/PATH`` for what
        was kept of an earlier job. ``python`` names one of the service's environments; ``lock`` is a file with pinned
        packages (requirements.txt, pylock.toml) to make one from.

        ``array={"lr": [1e-3, 1e-4]}`` makes a job for each combination of values, at most ``max_running`` of them at
        once, and returns a :class:`~fastgpu.job_array.JobArray`; ``{lr}`` in ``args`` becomes the value, and
        :func:`fastgpu.parameters` gives all of them. ``after`` names jobs or arrays, by handle or id, that must have
        succeeded before it starts. ``retries`` counts further attempts after a failure that is not the program's own;
        ``grace`` are the seconds between the order to stop (SIGTERM) and the kill. ``spot=True`` is cheaper; the job is
        interrupted and put back into the queue when one that pays in full needs its GPUs.
        """
        around = Around(outputs, sources or {}, python, lock)
        timing = self.timing(start, by)
        kind, argv, uploads = gather(script, args, (*files, *around.files), Path.cwd())
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
            return self.submit_sweep(request, uploads, idempotency_key=idempotency_key)
        return self.submit_request(request, uploads, idempotency_key=idempotency_key)

    def submit_request(
        self, request: models.JobSubmit, uploads: Iterable[Upload] = (), *, idempotency_key: str | None = None
    ) -> Job:
        """Submit a prepared request after uploading those inputs that the service does not hold yet."""
        self.upload(uploads)
        return Job(self, self.send(requests.submit(request, idempotency_key)))

    def submit_sweep(
        self, request: models.JobSubmit, uploads: Iterable[Upload] = (), *, idempotency_key: str | None = None
    ) -> JobArray:
        """As :meth:`submit_request`, for a request with a sweep."""
        self.upload(uploads)
        return JobArray(self, self.send(submit_array(request, idempotency_key)))

    def upload(self, uploads: Iterable[Upload]) -> None:
        """Send those inputs that the service does not hold yet."""
        for upload in uploads:
            if not self.send(requests.has_blob(upload.sha256)):
                self.send(requests.put_blob(upload.sha256, upload.source))

    def job(self, job_id: str) -> Job:
        """Handle of a job by its id."""
        return Job(self, self.send(requests.job(job_id)))

    def get_job_status(
        self, job_id: str, *, wait_seconds: int | None = None, state: models.JobState | None = None
    ) -> models.Job:
        """A job as it stands: state, progress, expected end, cost.

        With ``wait_seconds`` and ``state`` the answer comes once the state is another, at the latest after that time.
        """
        return self.send(requests.job(job_id, wait_seconds, state.value if state else None))

    def jobs(
        self,
        state: Literal["active", "all"] = "all",
        limit: int | None = None,
        *,
        owner: str | None = None,
        account: str | None = None,
        array: str | None = None,
    ) -> list[Job]:
        """Jobs, newest first, or those of an array; ``owner`` and ``account`` are for teachers and administrators."""
        return [Job(self, job) for job in self.send(requests.jobs(state, limit, owner, account, array=array))]

    def cancel(self, job_id: str) -> models.Job:
        """Cancel a job; what it used until then is charged."""
        return self.send(requests.cancel(job_id))

    def log_part(
        self,
        job_id: str,
        offset: int = 0,
        limit_bytes: int = requests.LOG_PART_BYTES,
        *,
        wait_seconds: int | None = None,
    ) -> requests.LogPart:
        """A piece of a job's log from byte ``offset`` on.

        With ``wait_seconds`` the answer comes once there is a byte or the job has ended, at the latest after that time.
        """
        return self.send(requests.log(job_id, offset, limit_bytes, wait_seconds))

    def job_metrics(self, job_id: str) -> list[models.Metric]:
        """The figures a job reports, each by step."""
        return self.send(requests.metrics(job_id))

    def job_run(self, job_id: str) -> models.Run:
        """A job with the use of its GPUs, its figures and attempts: all that its result page shows."""
        return self.send(requests.run(job_id))

    def job_files(self, job_id: str) -> list[models.JobFile]:
        """The files a job left behind."""
        return self.send(requests.files(job_id))

    def read_file(self, job_id: str, path: str) -> bytes:
        """The bytes of one file a job left behind."""
        return self.send(requests.file(job_id, path))

    def save_file(self, job_id: str, path: str, destination: Path) -> None:
        """Stream one file of a job to disk; ``destination`` appears only when whole."""
        self.save(requests.file(job_id, path), destination)

    def save(self, call: Call[bytes], destination: Path) -> None:
        """Stream an answer to disk; ``destination`` appears only when whole."""
        import httpx

        unfinished = destination.with_name(destination.name + ".part")
        try:
            with self._http.stream(
                call.method, self._connection.address(call.path), timeout=self._timeout(call)
            ) as response:
                if response.status_code not in call.accept:
                    received = Received(response.status_code, response.headers, response.read())
                    raise answers.error_of(received, self.url)
                with unfinished.open("wb") as file:
                    for chunk in response.iter_bytes():
                        file.write(chunk)
            unfinished.replace(destination)
        except httpx.TransportError as error:
            raise answers.unreachable(self.url, str(error)) from error
        finally:
            unfinished.unlink(missing_ok=True)

    # ---------------------------------------------------------------- what there is, what it costs

    def me(self) -> models.Me:
        """Who I am to FastGPU: classes, role, currency."""
        return self.send(requests.me())

    def status(self) -> models.Status:
        """My leases, GPUs in use, jobs, quotas and accounts at a glance."""
        return self.send(requests.status())

    def options(self, account: str | None = None, promo_code: str | None = None) -> models.Options:
        """GPU types I may choose from with their present price and expected wait."""
        return self.send(requests.options("me", account, promo_code))

    def quote(
        self,
        gpu_type: str,
        gpu_count: int = 1,
        duration: str | int = "1h",
        *,
        account: str | None = None,
        promo_code: str | None = None,
        starts_at: datetime | None = None,
        spot: bool = False,
    ) -> models.Quote:
        """What a request would cost, itemised; ``allowed`` and ``refusal`` say whether it would be taken."""
        request = make(
            models.QuoteRequest,
            gpu_type=gpu_type,
            gpu_count=gpu_count,
            duration_seconds=seconds_of(duration),
            account=account,
            promo_code=promo_code,
            starts_at=starts_at,
            spot=spot,
        )
        return self.send(requests.quote(request))

    def leases(self) -> list[models.Lease]:
        """My live leases."""
        return self.send(requests.leases())

    def why(self, lease_id: str) -> models.Why:
        """Why a job or lease is where it is, and how it came there."""
        return self.send(requests.why(lease_id))

    def notices(self, after: int | None = None, limit: int | None = None) -> list[models.Notice]:
        """News for me, oldest first: what ends soon, was stopped, changed its price, was answered."""
        return self.send(requests.notices(after, limit))

    def events(self, after: int | None = None) -> Iterator[models.Notice]:
        """News as it comes, without end: from now on, or what came after the notice with that id.

        A lost connection is made anew and goes on where it was: nothing is missed, nothing comes twice. Raises
        Unavailable when the service is away at the beginning, and the refusal's error when it refuses.
        """
        return streaming.follow(self._http, self._connection, self._sleep, after)
