"""``GPUClient``: the synchronous sender. What is sent and how answers read is in ``requests`` and ``answers``."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from fastgpu import answers, models, requests
from fastgpu.connection import CONNECT_SECONDS, find_connection
from fastgpu.job import Job
from fastgpu.requests import Call, GroupBy, Received
from fastgpu.submission import (
    Amount,
    Script,
    Upload,
    gather,
    job_request,
    make,
    micros_of,
    seconds_of,
)

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")


class GPUClient:
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

    # ---------------------------------------------------------------- jobs

    def submit(
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
        idempotency_key: str | None = None,
    ) -> Job:
        """Send a program off as a GPU job and return its handle at once.

        ``script`` is a ``.py`` or ``.ipynb`` file, or a command as a list of words. It and the files that ``files``
        names (patterns relative to the current folder) are uploaded; nothing else is. ``time_limit`` is text such as
        ``"2h"`` or seconds; ``max_cost`` an amount in whole units (``"2.50"``), above which the job is refused.
        """
        kind, argv, uploads = gather(script, args, files, Path.cwd())
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
        )
        return self.submit_request(request, uploads, idempotency_key=idempotency_key)

    def submit_request(
        self, request: models.JobSubmit, uploads: Iterable[Upload] = (), *, idempotency_key: str | None = None
    ) -> Job:
        """Submit a prepared request after uploading those inputs that the service does not hold yet."""
        for upload in uploads:
            if not self.send(requests.has_blob(upload.sha256)):
                self.send(requests.put_blob(upload.sha256, upload.source))
        return Job(self, self.send(requests.submit(request, idempotency_key)))

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
    ) -> list[Job]:
        """Jobs, newest first; ``owner`` and ``account`` are for teachers and administrators."""
        return [Job(self, job) for job in self.send(requests.jobs(state, limit, owner, account))]

    def cancel(self, job_id: str) -> models.Job:
        """Cancel a job; what it used until then is charged."""
        return self.send(requests.cancel(job_id))

    def log_part(self, job_id: str, offset: int = 0, limit_bytes: int = requests.LOG_PART_BYTES) -> requests.LogPart:
        """A piece of a job's log from byte ``offset`` on."""
        return self.send(requests.log(job_id, offset, limit_bytes))

    def job_files(self, job_id: str) -> list[models.JobFile]:
        """The files a job left behind."""
        return self.send(requests.files(job_id))

    def read_file(self, job_id: str, path: str) -> bytes:
        """The bytes of one file a job left behind."""
        return self.send(requests.file(job_id, path))

    def save_file(self, job_id: str, path: str, destination: Path) -> None:
        """Stream one file of a job to disk; ``destination`` appears only when whole."""
        import httpx

        call = requests.file(job_id, path)
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
        )
        return self.send(requests.quote(request))

    def leases(self) -> list[models.Lease]:
        """My live leases."""
        return self.send(requests.leases())

    def costs(self, since: datetime | None = None, by: GroupBy = "job") -> models.CostReport:
        """Settled and running cost since an instant (with a zone), grouped by job, gpu, day or person."""
        return self.send(requests.costs(since, by))

    def receipt(self, lease_id: str) -> models.Receipt:
        """Every charge of a lease or job, each naming its rule."""
        return self.send(requests.receipt(lease_id))

    def why(self, lease_id: str) -> models.Why:
        """Why a job or lease is where it is, and how it came there."""
        return self.send(requests.why(lease_id))

    def promotions(self, promo_code: str | None = None) -> list[models.Promotion]:
        """Promotions I can see; with a code also the one it opens."""
        return self.send(requests.promotions(promo_code))

    def quotas(self) -> list[models.QuotaUse]:
        """The limits that apply to me: used, reserved, left, when they reset."""
        return self.send(requests.quotas())

    def prices(self) -> list[models.Price]:
        """The price book."""
        return self.send(requests.prices())

    # ---------------------------------------------------------------- teachers and administrators

    def set_price(
        self,
        gpu_type: str,
        per_gpu_hour: Amount = 0,
        *,
        per_task_hour: Amount = 0,
        per_start: Amount = 0,
        valid_from: datetime | None = None,
    ) -> models.Price:
        """New list price of a GPU type, in whole units; valid from now on or from ``valid_from``."""
        request = make(
            models.PriceSet,
            gpu_type=gpu_type,
            per_gpu_hour_micros=micros_of(per_gpu_hour),
            per_task_hour_micros=micros_of(per_task_hour),
            per_start_micros=micros_of(per_start),
            valid_from=valid_from,
        )
        return self.send(requests.set_price(request))

    def set_quota(
        self, scope: models.QuotaScope | str, metric: models.QuotaMetric | str, limit: int, **more: Any
    ) -> models.QuotaUse:
        """Set a limit, in the metric's unit; ``more`` are the other fields of :class:`~fastgpu.models.QuotaSet`."""
        return self.send(requests.set_quota(make(models.QuotaSet, scope=scope, metric=metric, limit=limit, **more)))

    def remove_quota(self, quota_id: int) -> None:
        """Lift a limit."""
        self.send(requests.remove_quota(quota_id))

    def add_promotion(self, name: str, starts_at: datetime, ends_at: datetime, **more: Any) -> models.Promotion:
        """Set up a promotion; ``more`` are the other fields of :class:`~fastgpu.models.PromotionSet`."""
        request = make(models.PromotionSet, name=name, starts_at=starts_at, ends_at=ends_at, **more)
        return self.send(requests.add_promotion(request))

    def end_promotion(self, promotion_id: int) -> models.Promotion:
        """End a promotion now; what was granted under it keeps its price."""
        return self.send(requests.end_promotion(promotion_id))

    def grant(self, account: str, amount: Amount, note: str = "") -> models.Account:
        """Give credit (whole units) to ``class:NAME`` or ``person:NAME``."""
        return self.send(
            requests.grant(make(models.GrantSet, account=account, amount_micros=micros_of(amount), note=note))
        )

    def class_report(self, name: str) -> models.ClassReport:
        """A class as its teacher sees it."""
        return self.send(requests.class_report(name))

    def inventory(self) -> list[models.InventoryGpu]:
        """Every device and who holds it."""
        return self.send(requests.inventory())

    def audit(self) -> list[models.AuditLine]:
        """Who changed which rule."""
        return self.send(requests.audit())
