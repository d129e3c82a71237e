"""Wire models: everything that crosses HTTP between FastGPU's service and its clients.

Conventions, the same everywhere: money is an integer in micro-units of the one configured currency (``*_micros``,
1 000 000 = one unit), instants are ISO 8601 with a zone (UTC from the service), durations are whole seconds
(``*_seconds``), memory is bytes. Requests refuse unknown fields; answers ignore them, so an older client reads a
newer service.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

MAX_MICROS = 10**15
MAX_SECONDS = 366 * 24 * 3600


def _plain_text(value: str) -> str:
    if any(ord(c) < 32 or 0xD800 <= ord(c) <= 0xDFFF or ord(c) in range(0x202A, 0x202F) for c in value):
        raise ValueError("must not contain control characters")
    return value.strip()


Micros = Annotated[int, Field(strict=True, ge=0, le=MAX_MICROS)]
Seconds = Annotated[int, Field(strict=True, ge=1, le=MAX_SECONDS)]
GpuCount = Annotated[int, Field(strict=True, ge=1, le=1024)]
Name = Annotated[str, Field(min_length=1, max_length=120), AfterValidator(_plain_text)]
GpuTypeName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.\-]{0,62}$")]
AccountId = Annotated[str, Field(pattern=r"^(class|person):.{1,200}$"), AfterValidator(_plain_text)]
Audience = Annotated[str, Field(pattern=r"^((class|person):.{1,200}|new)$"), AfterValidator(_plain_text)]
Reason = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_plain_text)]
PromoCode = Annotated[str, Field(pattern=r"^[A-Za-z0-9\-]{1,64}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Request(BaseModel):
    """Base of request bodies: immutable, unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Answer(BaseModel):
    """Base of answers: immutable, unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Explanation(Answer):
    """Why something was allowed, refused, priced, charged, stopped, or still waits.

    ``code`` is stable (``quota_spend``, ``credit``, ``capacity``, ``turn`` …), ``message`` one sentence with its
    numbers, ``numbers`` the same for machines, ``frees_at`` when it changes by itself, ``instead`` what to do now.
    """

    code: str
    message: str
    numbers: dict[str, int | str] = {}
    frees_at: AwareDatetime | None = None
    instead: str = ""


class ErrorAnswer(Answer):
    """Body of every non-2xx answer."""

    error: Explanation
    request_id: str = ""


# ---------------------------------------------------------------- prices, promotions, quotas, accounts


class Rate(Answer):
    """A price: any mix of per GPU-hour, per task-hour and per start, in micro-units."""

    per_gpu_hour_micros: Micros = 0
    per_task_hour_micros: Micros = 0
    per_start_micros: Micros = 0


class PriceSet(Request):
    """New version of a GPU type's list price, valid from an instant on (default: now)."""

    gpu_type: GpuTypeName
    per_gpu_hour_micros: Micros = 0
    per_task_hour_micros: Micros = 0
    per_start_micros: Micros = 0
    valid_from: AwareDatetime | None = None


class Price(Answer):
    """One version in the price book; versions are never edited, only followed by newer ones."""

    id: int
    gpu_type: str
    rate: Rate
    valid_from: AwareDatetime
    created_by: str = ""


class WeeklyWindow(Request):
    """Recurring local hours: ``days`` 0 = Monday … 6 = Sunday, minutes after local midnight.

    ``to_minute`` less than or equal to ``from_minute`` means the window runs past midnight into the next day.
    """

    days: tuple[Annotated[int, Field(strict=True, ge=0, le=6)], ...] = Field(min_length=1, max_length=7)
    from_minute: Annotated[int, Field(strict=True, ge=0, le=1439)]
    to_minute: Annotated[int, Field(strict=True, ge=0, le=1440)]


class PromotionSet(Request):
    """A time-limited or conditional price change, or credit for those who redeem it.

    Exactly one of ``percent_off`` (1–100), ``fixed_per_gpu_hour_micros``, ``free_gpu_seconds`` (the first so much GPU
    time of each person is free) and ``credit_micros`` (granted to who redeems it; it expires ``credit_days`` later) is
    given. An empty ``gpu_types`` means all. ``audience`` names classes and people (``class:cs101``, ``person:alice``)
    or ``new`` (people who had not used a GPU before it started); empty means everyone. ``code`` is one code for all;
    ``needs_code`` without it means that codes are made later. ``max_redemptions`` and ``max_per_person`` cap who takes
    part, ``budget_micros`` what it may take off prices in all. ``stacks`` (a percentage only): applies on top of the
    best other promotion. A ``draft`` is seen by those who may edit it, and changes no price.
    """

    name: Name
    percent_off: Annotated[int, Field(strict=True, ge=1, le=100)] | None = None
    fixed_per_gpu_hour_micros: Micros | None = None
    free_gpu_seconds: Seconds | None = None
    credit_micros: Annotated[int, Field(strict=True, ge=1, le=MAX_MICROS)] | None = None
    credit_days: Annotated[int, Field(strict=True, ge=1, le=3660)] | None = None
    gpu_types: tuple[GpuTypeName, ...] = ()
    audience: tuple[Audience, ...] = ()
    code: PromoCode | None = None
    needs_code: bool = False
    starts_at: AwareDatetime
    ends_at: AwareDatetime
    weekly: tuple[WeeklyWindow, ...] = ()
    time_zone: str = "UTC"
    stacks: bool = False
    max_redemptions: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] | None = None
    max_per_person: Annotated[int, Field(strict=True, ge=1, le=1000)] = 1
    budget_micros: Annotated[int, Field(strict=True, ge=1, le=MAX_MICROS)] | None = None
    draft: bool = False


PromotionState = Literal["draft", "scheduled", "live", "ended"]


class Promotion(Answer):
    """A promotion as its caller sees it; ``eligible`` and ``why_not`` are about the caller, ``active`` about now.

    ``id`` stays the same through all versions; ``version_id`` is what charge lines name. ``changes_at`` is when it next
    opens or closes. ``places_left``, ``budget_left_micros`` and ``free_left_seconds`` (the caller's) are None where
    there is no such cap. ``editable``: the caller may change it.
    """

    id: int
    version: int = 1
    version_id: int = 0
    name: str
    state: PromotionState = "live"
    percent_off: int | None = None
    fixed_per_gpu_hour_micros: int | None = None
    free_gpu_seconds: int | None = None
    credit_micros: int | None = None
    credit_days: int | None = None
    gpu_types: tuple[str, ...] = ()
    audience: tuple[str, ...] = ()
    needs_code: bool = False
    starts_at: AwareDatetime
    ends_at: AwareDatetime
    weekly: tuple[WeeklyWindow, ...] = ()
    time_zone: str = "UTC"
    stacks: bool = False
    max_redemptions: int | None = None
    max_per_person: int = 1
    places_left: int | None = None
    budget_micros: int | None = None
    budget_left_micros: int | None = None
    free_left_seconds: int | None = None
    active: bool = False
    changes_at: AwareDatetime | None = None
    redeemed: bool = False
    eligible: bool = True
    why_not: Explanation | None = None
    editable: bool = False


class Redeem(Request):
    """Take a place in a promotion: by its code, or by its id where it needs none. ``account`` gets credit, if any."""

    code: PromoCode | None = None
    promotion_id: Annotated[int, Field(strict=True, ge=1)] | None = None
    account: AccountId | None = None


class Redeemed(Answer):
    """A place was taken. ``granted_micros`` is the credit it gave, to ``account``."""

    promotion: Promotion
    granted_micros: int = 0
    account: str = ""


class CodesSet(Request):
    """Make ``count`` codes at random; each can be redeemed ``max_uses`` times (None: any number)."""

    count: Annotated[int, Field(strict=True, ge=1, le=10_000)]
    max_uses: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] | None = 1


class PromotionCode(Answer):
    """A code of a promotion, for those who may edit it."""

    code: str
    max_uses: int | None = None
    uses: int = 0
    created_at: AwareDatetime


class PreviewSet(Request):
    """What would this promotion have cost in ``[since, until)``?"""

    promotion: PromotionSet
    since: AwareDatetime
    until: AwareDatetime


class PreviewRow(Answer):
    """One person in a preview."""

    owner: str
    charged_micros: int
    would_be_micros: int
    gpu_seconds: int


class Preview(Answer):
    """What settled lines of a period would have cost under a promotion. ``saved = charged - would_be``.

    Use is taken as it was: that a lower price draws more use is not foreseen. Caps and budget are respected.
    """

    since: AwareDatetime
    until: AwareDatetime
    charged_micros: int
    would_be_micros: int
    saved_micros: int
    rows: tuple[PreviewRow, ...] = ()
    currency: str


class QuotaScope(str, Enum):
    """Whom a quota limits: everyone together, a class together, each member of a class, or one person."""

    site = "site"
    klass = "class"
    member = "member"
    person = "person"


class QuotaMetric(str, Enum):
    """What a quota counts. Its unit: GPUs, GPU-seconds, micro-units of money, percent, or bytes.

    ``credit_share_percent``: what a member of a class holds of what is left of the class's credit. ``artifact_bytes``:
    what is kept of jobs in the artifact store.
    """

    concurrent_gpus = "concurrent_gpus"
    gpu_seconds = "gpu_seconds"
    spend_micros = "spend_micros"
    credit_share_percent = "credit_share_percent"
    artifact_bytes = "artifact_bytes"


QuotaWindow = Literal["day", "week", "month", "term", "rolling", "always"]


class QuotaSet(Request):
    """A limit. ``name`` is the class (scopes class, member) or the person; empty for the site.

    A ``term`` counts from ``starts_at`` to ``ends_at`` and does not apply outside; ``rolling`` counts the last
    ``rolling_seconds``. A ``soft`` limit warns and refuses nothing.
    """

    scope: QuotaScope
    name: Annotated[str, Field(max_length=200), AfterValidator(_plain_text)] = ""
    metric: QuotaMetric
    limit: Annotated[int, Field(strict=True, ge=0, le=MAX_MICROS)]
    window: QuotaWindow = "always"
    gpu_type: GpuTypeName | None = None
    time_zone: str = "UTC"
    soft: bool = False
    starts_at: AwareDatetime | None = None
    ends_at: AwareDatetime | None = None
    rolling_seconds: Seconds | None = None


class ComesBack(Answer):
    """So much of a limit's use comes back at that instant, in the metric's unit."""

    at: AwareDatetime
    amount: int


class QuotaUse(Answer):
    """One limit as it stands for its subject: ``used + reserved + left == limit`` (left never below 0).

    ``limit`` includes ``extra``, which was granted on request. ``resets_at`` is when all of it comes back,
    ``comes_back`` what comes back step by step.
    """

    quota_id: int
    label: str
    scope: QuotaScope
    name: str = ""
    metric: QuotaMetric
    window: QuotaWindow
    gpu_type: str | None = None
    soft: bool = False
    starts_at: AwareDatetime | None = None
    ends_at: AwareDatetime | None = None
    rolling_seconds: int | None = None
    limit: int
    extra: int = 0
    used: int
    reserved: int
    left: int
    resets_at: AwareDatetime | None = None
    comes_back: tuple[ComesBack, ...] = ()


class GrantSet(Request):
    """Credit given to an account. Grants burn by ``priority`` (lower first), then expiry, then age.

    Of what is left at ``expires_at``, ``rollover_percent`` rolls over, once, into a grant of the same length.
    ``from_account``: the class whose credit it is taken from (a teacher's grant to a member); None: from the site.
    """

    account: AccountId
    amount_micros: Annotated[int, Field(strict=True, ge=1, le=MAX_MICROS)]
    note: Annotated[str, Field(max_length=500), AfterValidator(_plain_text)] = ""
    priority: Annotated[int, Field(strict=True, ge=1, le=255)] = 100
    expires_at: AwareDatetime | None = None
    rollover_percent: Annotated[int, Field(strict=True, ge=0, le=100)] = 0
    from_account: AccountId | None = None


class Grant(Answer):
    """One grant as it stands: ``left_micros`` may still be spent, and expires at ``expires_at``."""

    id: int
    account: str
    amount_micros: int
    left_micros: int
    priority: int
    granted_at: AwareDatetime
    expires_at: AwareDatetime | None = None
    rollover_percent: int = 0
    source: str = ""
    note: str = ""
    by: str = ""


class Account(Answer):
    """Who pays. ``left_micros = granted - spent - held - expired - given`` and never falls below zero.

    ``given_micros`` went on to members as grants; ``expires_micros`` of what is left is gone at ``expires_at``, the
    next expiry.
    """

    id: str
    granted_micros: int = 0
    spent_micros: int = 0
    held_micros: int = 0
    expired_micros: int = 0
    given_micros: int = 0
    left_micros: int = 0
    expires_at: AwareDatetime | None = None
    expires_micros: int = 0


class AskSet(Request):
    """Ask for more of a limit (``quota_id``; the amount in its metric's unit) or of credit (micro-units)."""

    quota_id: Annotated[int, Field(strict=True, ge=1)] | None = None
    account: AccountId | None = None
    amount: Annotated[int, Field(strict=True, ge=1, le=MAX_MICROS)]
    reason: Reason


class AskDecision(Request):
    """The answer to a request for more. ``amount`` None: as asked. ``until``: how long it holds (a limit's default: to
    the end of its window; credit: no end)."""

    amount: Annotated[int, Field(strict=True, ge=1, le=MAX_MICROS)] | None = None
    until: AwareDatetime | None = None
    answer: Annotated[str, Field(max_length=500), AfterValidator(_plain_text)] = ""


class Ask(Answer):
    """A request for more, as both sides see it. ``label`` names the limit or account; ``decidable``: by the caller."""

    id: int
    owner: str
    account: str
    quota_id: int | None = None
    metric: QuotaMetric = QuotaMetric.spend_micros
    label: str
    amount: int
    reason: str
    state: Literal["open", "approved", "declined", "withdrawn"]
    asked_at: AwareDatetime
    decided_at: AwareDatetime | None = None
    decided_by: str = ""
    answer: str = ""
    decidable: bool = False
    currency: str = ""


class Notice(Answer):
    """News for a person: a workload is ending (30, 10, 2 minutes before), was stopped, a limit warns, a price changed,
    a request was answered, outputs were not kept, a job may miss its deadline."""

    id: int
    at: AwareDatetime
    kind: Literal["ending", "stopped", "soft_limit", "price_changed", "answered", "not_kept", "late"]
    explanation: Explanation
    workload_id: str | None = None
    ends_at: AwareDatetime | None = None


class RefundSet(Request):
    """Give back what was charged for a lease: all of it, or the charge lines with these ids."""

    reason: Reason
    charge_ids: tuple[Annotated[int, Field(strict=True, ge=1)], ...] = Field(default=(), max_length=10_000)


class Problem(Answer):
    """Something that does not fit together and that no evidence repairs: for the administrator to look at."""

    since: AwareDatetime
    sentence: str


# ---------------------------------------------------------------- quotes, ledger


class QuoteRequest(Request):
    """What would this cost? ``account`` defaults to the caller's first class, else to the caller's own account.

    ``spot``: as a spot job, which is cheaper and may be interrupted.
    """

    gpu_type: GpuTypeName
    gpu_count: GpuCount = 1
    duration_seconds: Seconds = 3600
    account: AccountId | None = None
    promo_code: PromoCode | None = None
    starts_at: AwareDatetime | None = None
    spot: bool = False


class ChargeLine(Answer):
    """One priced interval: of a quote, of a hold, or settled on a receipt.

    ``unit`` is ``gpu_hour`` (quantity = GPU-seconds), ``task_hour`` (quantity = seconds) or ``start`` (quantity = 1);
    ``rate_micros`` is per that unit. ``amount_micros`` is rounded down, once per line. ``price_note`` says what the
    price is where it is not the list price of the GPU type: ``spot, 50 % off``, or ``spot price``.
    """

    unit: Literal["gpu_hour", "task_hour", "start"]
    starts_at: AwareDatetime
    ends_at: AwareDatetime
    gpu_count: int
    quantity: int
    rate_micros: int
    list_rate_micros: int
    amount_micros: int
    price_id: int
    price_note: str = ""
    promotion_id: int | None = None
    promotion_name: str = ""
    stacked_promotion_id: int | None = None
    stacked_promotion_name: str = ""
    charge_id: int | None = None
    refunded: bool = False


class Quote(Answer):
    """What a request would cost if it started at ``starts_at``, itemised by interval.

    ``max_micros`` is the whole duration (the amount a grant holds), ``min_micros`` what a start alone costs,
    ``likely_micros`` equals the maximum until there is history to predict from. ``allowed`` repeats the checks a
    submission makes; ``refusal`` says what stands in the way. ``spot_saves_micros`` is what a spot job costs less than
    the same at the full price.
    """

    gpu_type: str
    gpu_count: int
    account: str
    starts_at: AwareDatetime
    duration_seconds: int
    lines: tuple[ChargeLine, ...]
    min_micros: int
    likely_micros: int
    max_micros: int
    list_micros: int
    currency: str
    allowed: bool = True
    refusal: Explanation | None = None
    wait_seconds: int | None = None
    quotas: tuple[QuotaUse, ...] = ()
    warnings: tuple[Explanation, ...] = ()
    simulated: bool = False
    spot: bool = False
    spot_saves_micros: int = 0


class StartPlanRequest(Request):
    """When should this run? ``by``: when it must have ended at the latest; None: it starts within a day.

    ``max_cost_micros`` is the most that it may cost.
    """

    gpu_type: GpuTypeName
    gpu_count: GpuCount = 1
    duration_seconds: Seconds = 3600
    account: AccountId | None = None
    promo_code: PromoCode | None = None
    max_cost_micros: Micros | None = None
    by: AwareDatetime | None = None
    spot: bool = False


class StartOption(Answer):
    """One start: when it would end, what it costs at most, what that saves against starting now (negative: it is
    dearer), and ``why``: the rule that makes the difference.

    ``allowed`` repeats the checks a submission makes. ``risk`` says what might make it miss the deadline.
    """

    starts_at: AwareDatetime
    ends_at: AwareDatetime
    cost_micros: int
    saving_micros: int = 0
    why: str = ""
    allowed: bool = True
    why_not: Explanation | None = None
    risk: str = ""
    now: bool = False
    chosen: bool = False


class StartPlan(Answer):
    """Starts worth a look, ascending; the first is now, after the expected wait. At most one is ``chosen``: the
    cheapest that is allowed and surely ends ``by``; of equals the earliest. ``explanation`` says why, or why none is.

    ``time_zone`` is the service's, in which deadlines are read and windows written.
    """

    gpu_type: str
    gpu_count: int
    account: str
    duration_seconds: int
    by: AwareDatetime
    options: tuple[StartOption, ...]
    explanation: Explanation
    wait_seconds: int | None = None
    currency: str
    time_zone: str
    simulated: bool = False

    @property
    def chosen(self) -> StartOption | None:
        """The start that a submission with ``start="cheapest"`` would take."""
        return next((option for option in self.options if option.chosen), None)


class Receipt(Answer):
    """All lines of one lease.

    ``total_micros`` adds up the lines less those refunded, ``ledger_micros`` what the ledger booked: equal.
    """

    lease_id: str
    workload_id: str
    name: str
    owner: str
    account: str
    gpu_type: str
    lines: tuple[ChargeLine, ...]
    total_micros: int
    ledger_micros: int
    saved_micros: int = 0
    refunded_micros: int = 0
    currency: str
    settled: bool
    simulated: bool = False


class CostRow(Answer):
    """One group of a cost report."""

    key: str
    amount_micros: int
    gpu_seconds: int


class CostReport(Answer):
    """Settled cost grouped by job, GPU type or day, plus what is still running; rows add up to ``settled_micros``."""

    by: Literal["job", "gpu", "day", "person"]
    rows: tuple[CostRow, ...]
    settled_micros: int
    running_micros: int
    currency: str


# ---------------------------------------------------------------- GPUs, leases, jobs


class Gpu(Answer):
    """One leasable device: a whole GPU or a MIG slice."""

    uuid: str
    index: int
    name: str
    gpu_type: str
    memory_bytes: int | None = None
    node: str = ""
    simulated: bool = False


class GpuUse(Answer):
    """One sample of a device in use. ``None`` means the device does not tell (shown as a dash, never as 0)."""

    gpu: Gpu
    sampled_at: AwareDatetime
    utilisation_percent: int | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    power_watts: int | None = None
    temperature_celsius: int | None = None
    lost: bool = False


class Offer(Answer):
    """A GPU type as the caller may take it now: the row on the spawn page."""

    gpu_type: str
    label: str
    memory_bytes: int | None = None
    suited_for: str = ""
    simulated: bool = False
    total: int
    free: int
    rate: Rate
    list_rate: Rate
    rate_until: AwareDatetime | None = None
    promotion_name: str = ""
    wait_seconds: int | None = None
    allowed: bool = True
    why_not: Explanation | None = None


class LeaseState(str, Enum):
    """Life of a lease: waiting in the queue, granted GPUs, running (billed), released; or refused / cancelled."""

    queued = "queued"
    granted = "granted"
    running = "running"
    released = "released"
    refused = "refused"
    cancelled = "cancelled"


class LeaseRequest(Request):
    """A server's request for GPUs, posted by the spawner on behalf of the server's owner.

    ``server_name`` is empty for the default server. Without a ``time_limit_seconds`` the lease is open-ended: its
    hold is a rolling horizon.
    """

    server_name: Annotated[str, Field(pattern=r"^([a-z][a-z0-9-]{0,29})?$")] = ""
    gpu_type: GpuTypeName
    gpu_count: GpuCount = 1
    account: AccountId | None = None
    promo_code: PromoCode | None = None
    time_limit_seconds: Seconds | None = None


class LeaseStarted(Request):
    """Evidence that the workload runs with its GPUs: the process id of its root on this machine, if it has one."""

    pid: Annotated[int, Field(strict=True, ge=1)] | None = None


class Lease(Answer):
    """GPUs held by one workload from grant to release, with what it costs so far.

    ``eta_start`` is when one that waits starts at the latest, as far as that is known. ``ends_at`` is when one that
    runs will be stopped, where that is known, and ``ending`` says why and what helps.
    """

    id: str
    owner: str
    server_name: str | None = None
    job_id: str | None = None
    account: str
    gpu_type: str
    gpu_count: int
    state: LeaseState
    gpus: tuple[Gpu, ...] = ()
    environment: dict[str, str] = {}
    queue_place: int | None = None
    explanation: Explanation | None = None
    requested_at: AwareDatetime
    eta_start: AwareDatetime | None = None
    granted_at: AwareDatetime | None = None
    started_at: AwareDatetime | None = None
    ended_at: AwareDatetime | None = None
    rate_per_hour_micros: int = 0
    cost_micros: int = 0
    held_micros: int = 0
    funded_until: AwareDatetime | None = None
    ends_at: AwareDatetime | None = None
    ending: Explanation | None = None
    promotion_name: str = ""
    currency: str
    simulated: bool = False


class InputFile(Request):
    """A file placed in the job's directory before it starts; its bytes were put under their hash before."""

    path: Annotated[str, Field(min_length=1, max_length=500)]
    sha256: Sha256
    size_bytes: Annotated[int, Field(strict=True, ge=0)]


WorkloadId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_\-]{0,99}$")]
ParameterName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
ParameterValue = Annotated[str, Field(max_length=1000), AfterValidator(_plain_text)]


class JobSubmit(Request):
    """A job: what to run, on which GPUs, for how long at most, who pays.

    ``kind`` ``script`` runs ``argv[0]`` (a .py file) with the job's Python, ``notebook`` runs ``argv[0]`` (an .ipynb
    file) through nbclient, ``command`` runs ``argv`` as it is. There is never a shell.

    ``sweep`` makes an array of jobs, one for each combination of values; at most ``max_running`` of them run at once.
    ``after`` names jobs that must have succeeded before. ``retries`` counts new attempts after a failure that is not
    the job's own. ``start`` ``cheapest`` waits for the start time that costs least and still ends ``by``; ``start_at``
    sets it. ``spot``: cheaper, and may be interrupted and put back into the queue, which ``retries`` do not count.
    ``grace_seconds`` lie between the order to stop and the kill. ``python`` names one of the service's environments,
    ``lock`` an input file with pinned packages to make one from. ``outputs`` are patterns of the files to keep as
    artifacts, ``sources`` addresses of inputs that the service fetches.
    """

    name: Name = "job"
    kind: Literal["script", "notebook", "command"]
    argv: tuple[Annotated[str, Field(max_length=4096)], ...] = Field(min_length=1, max_length=256)
    gpu_type: GpuTypeName
    gpu_count: GpuCount = 1
    time_limit_seconds: Seconds = 3600
    account: AccountId | None = None
    promo_code: PromoCode | None = None
    max_cost_micros: Micros | None = None
    inputs: tuple[InputFile, ...] = Field(default=(), max_length=1000)
    environment: dict[str, Annotated[str, Field(max_length=32768)]] = {}
    fingerprint: Sha256 | None = None
    again: bool = False
    sweep: dict[ParameterName, Annotated[tuple[ParameterValue, ...], Field(min_length=1, max_length=1000)]] = {}
    max_running: Annotated[int, Field(strict=True, ge=1, le=10_000)] | None = None
    after: tuple[WorkloadId, ...] = Field(default=(), max_length=100)
    retries: Annotated[int, Field(strict=True, ge=0, le=10)] = 0
    start: Literal["now", "cheapest"] = "now"
    start_at: AwareDatetime | None = None
    by: AwareDatetime | None = None
    spot: bool = False
    grace_seconds: Annotated[int, Field(strict=True, ge=0, le=600)] | None = None
    python: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._\-]{0,62}$")] | None = None
    lock: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    outputs: tuple[Annotated[str, Field(min_length=1, max_length=500)], ...] = Field(default=(), max_length=100)
    sources: dict[Annotated[str, Field(max_length=500)], Annotated[str, Field(max_length=2000)]] = {}


class JobState(str, Enum):
    """Life of a job. The last five are final."""

    queued = "queued"
    starting = "starting"
    running = "running"
    stopping = "stopping"
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"
    timed_out = "timed_out"
    lost = "lost"

    @property
    def final(self) -> bool:
        """True when the job has ended, one way or another."""
        return self in _FINAL


_FINAL = {JobState.succeeded, JobState.failed, JobState.cancelled, JobState.timed_out, JobState.lost}


class JobFile(Answer):
    """A file the job left behind, path relative to its directory."""

    path: str
    size_bytes: int


class Artifact(Answer):
    """A file of a job that is kept in the artifact store, whatever becomes of the job's folder."""

    job_id: str
    path: str
    size_bytes: int
    kept_at: AwareDatetime


class KeptFiles(Answer):
    """What is kept of one job: how many files, their bytes, when the last of them was kept."""

    job_id: str
    job_name: str
    files: int
    size_bytes: int
    kept_at: AwareDatetime


class ArtifactsKeep(Request):
    """Keep a job's outputs (again): those it was submitted with, or those that these patterns name."""

    outputs: tuple[Annotated[str, Field(min_length=1, max_length=500)], ...] = Field(default=(), max_length=100)


class Job(Answer):
    """A job as it stands. ``progress`` is 0–1, ``eta_end`` the best estimate of its end.

    ``progress_from`` is ``report`` where the job itself reports its progress, ``output`` where it is that of the last
    progress bar in its output.

    One of an array has ``array_id``, its place in it from 0 (``array_index``) and its ``parameters``. ``attempt``
    counts from 1; ``retry_of`` is the first attempt's id, ``next_attempt`` that of the one which follows this one.
    ``after`` are the jobs that must have succeeded before it starts, ``not_before`` when it starts at the earliest.
    ``artifacts`` says whether its outputs are (being) kept and ``artifacts_note`` how many or why not;
    ``files_removed_at`` is when its folder and log were removed by their age. A ``spot`` job is cheaper and may be
    interrupted; ``interruptions`` counts how often its earlier attempts were.
    """

    id: str
    name: str
    kind: str
    owner: str
    account: str
    gpu_type: str
    gpu_count: int
    time_limit_seconds: int
    state: JobState
    submitted_at: AwareDatetime
    started_at: AwareDatetime | None = None
    ended_at: AwareDatetime | None = None
    exit_code: int | None = None
    progress: float | None = None
    progress_from: Literal["report", "output"] | None = None
    queue_place: int | None = None
    eta_start: AwareDatetime | None = None
    eta_start_early: AwareDatetime | None = None
    eta_start_late: AwareDatetime | None = None
    eta_end: AwareDatetime | None = None
    eta_end_early: AwareDatetime | None = None
    eta_end_late: AwareDatetime | None = None
    cost_micros: int = 0
    held_micros: int = 0
    rate_per_hour_micros: int = 0
    promotion_name: str = ""
    currency: str
    lease_id: str
    ends_at: AwareDatetime | None = None
    ending: Explanation | None = None
    explanation: Explanation | None = None
    array_id: str | None = None
    array_index: int | None = None
    parameters: dict[str, str] = {}
    attempt: int = 1
    retry_of: str | None = None
    next_attempt: str | None = None
    after: tuple[str, ...] = ()
    not_before: AwareDatetime | None = None
    spot: bool = False
    interruptions: int = 0
    log_bytes: int = 0
    artifacts: Literal["keeping", "kept", "failed"] | None = None
    artifacts_note: Explanation | None = None
    files_removed_at: AwareDatetime | None = None
    simulated: bool = False


class ArrayJob(Answer):
    """One job of an array: its latest attempt's id and state; ``cost_micros`` is that of all its attempts."""

    id: str
    index: int
    parameters: dict[str, str] = {}
    state: JobState
    attempt: int = 1
    exit_code: int | None = None
    cost_micros: int = 0
    held_micros: int = 0


class JobArray(Answer):
    """An array: one job for each combination of ``parameters``, the last name's values changing fastest.

    ``counts`` says how many jobs are in which state (states that none is in are left out). ``max_running``: at most so
    many run at once; None: no such limit.
    """

    id: str
    name: str
    owner: str
    account: str
    gpu_type: str
    gpu_count: int
    submitted_at: AwareDatetime
    parameters: dict[str, tuple[str, ...]] = {}
    max_running: int | None = None
    size: int
    counts: dict[JobState, int] = {}
    cost_micros: int = 0
    held_micros: int = 0
    currency: str
    simulated: bool = False
    jobs: tuple[ArrayJob, ...] = ()

    @property
    def done(self) -> bool:
        """True when every job has ended, one way or another."""
        return all(state.final for state in self.counts)


class MetricPoint(Answer):
    """One reported figure. ``value`` is None where it was not a finite number: NaN or infinite."""

    step: int
    value: float | None
    at: AwareDatetime | None = None


class Metric(Answer):
    """A figure that a job reports by :func:`fastgpu.log_metric`, by step; at most 500 points that show its course.

    ``count`` is how many values were read, ``last`` the one reported last. ``best`` is ``lowest`` where the name says
    that less is better, as that of a loss does, else ``highest``; None where no value was a finite number, and for what
    is set, not reached, such as a learning rate.
    """

    name: str
    count: int
    last: MetricPoint
    lowest: MetricPoint | None = None
    highest: MetricPoint | None = None
    best: MetricPoint | None = None
    less_is_better: bool = False
    points: tuple[MetricPoint, ...] = ()


class RunUsePoint(Answer):
    """The use of a run's GPUs in one stretch of it, from ``at`` on; None where no device told it."""

    at: AwareDatetime
    mean_percent: float | None = None
    peak_percent: float | None = None
    memory_peak_bytes: int | None = None


class RunUse(Answer):
    """The use of all GPUs of a run, as it was read every few seconds: utilisation in percent of all of them together.

    Each point stands for ``every_seconds`` of the run.
    """

    mean_percent: float | None = None
    peak_percent: float | None = None
    memory_peak_bytes: int | None = None
    memory_total_bytes: int | None = None
    every_seconds: int
    points: tuple[RunUsePoint, ...] = ()


class Run(Answer):
    """A job with what its result page shows: use, figures, attempts.

    ``progress`` is also told of a run that has ended: what it reported last. ``attempts`` are all there were at the
    same job, this one too, where there was more than one.
    """

    job: Job
    argv: tuple[str, ...] = ()
    progress: float | None = None
    use: RunUse | None = None
    metrics: tuple[Metric, ...] = ()
    attempts: tuple[Job, ...] = ()


class Status(Answer):
    """Everything the caller's screen needs at a glance: leases, their GPUs' use, jobs, quotas, accounts."""

    user: str
    currency: str
    now: AwareDatetime
    leases: tuple[Lease, ...] = ()
    gpus: tuple[GpuUse, ...] = ()
    jobs: tuple[Job, ...] = ()
    quotas: tuple[QuotaUse, ...] = ()
    accounts: tuple[Account, ...] = ()
    promotions: tuple[Promotion, ...] = ()


class Options(Answer):
    """What a person may choose from on the spawn page, in one answer."""

    user: str
    currency: str
    offers: tuple[Offer, ...] = ()
    accounts: tuple[Account, ...] = ()
    quotas: tuple[QuotaUse, ...] = ()
    promotions: tuple[Promotion, ...] = ()


class WhyStep(Answer):
    """One recorded event in a workload's life."""

    at: AwareDatetime
    kind: str
    detail: dict[str, Any] = {}


class RunEstimate(Answer):
    """How long something will run, by what is known of others like it: the likely time, and bounds that four of five
    fall into."""

    low_seconds: int
    likely_seconds: int
    high_seconds: int


class Why(Answer):
    """Why a job or lease is where it is, and how it came there.

    ``sooner`` are ways to start one that waits sooner, or for less, with their numbers; ``frees_at`` of each is when.
    ``run`` is how long it is expected to run.
    """

    id: str
    state: str
    explanation: Explanation
    history: tuple[WhyStep, ...] = ()
    currency: str = ""
    sooner: tuple[Explanation, ...] = ()
    run: RunEstimate | None = None


class InventoryGpu(Answer):
    """One device as the administrator sees it: who holds it, or why it is fenced (not given out)."""

    gpu: Gpu
    state: Literal["free", "leased", "fenced"]
    lease_id: str | None = None
    owner: str | None = None
    reason: str = ""


class AuditLine(Answer):
    """Who changed which rule, or stopped whom. ``sha256`` chains each entry to the one before."""

    id: int = 0
    sha256: str = ""
    at: AwareDatetime
    actor: str
    action: str
    subject: str
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None


class Member(Answer):
    """A class member on the teacher's page."""

    name: str
    gpus: int = 0
    running_jobs: int = 0
    queued_jobs: int = 0
    spent_micros: int = 0
    held_micros: int = 0


class ClassReport(Answer):
    """A class as its teacher sees it. ``week_micros`` was charged to it in the last seven days, less refunds."""

    name: str
    account: Account
    week_micros: int = 0
    members: tuple[Member, ...] = ()
    quotas: tuple[QuotaUse, ...] = ()
    promotions: tuple[Promotion, ...] = ()
    grants: tuple[Grant, ...] = ()
    asks: tuple[Ask, ...] = ()
    currency: str


class Me(Answer):
    """Who the caller is to FastGPU."""

    name: str
    classes: tuple[str, ...] = ()
    teaches: tuple[str, ...] = ()
    admin: bool = False
    currency: str
    time_zone: str = "UTC"


_DURATION = re.compile(r"^\s*(?:(\d+)\s*d)?\s*(?:(\d+)\s*h)?\s*(?:(\d+)\s*m(?:in)?)?\s*(?:(\d+)\s*s)?\s*$")


def parse_duration(text: str | int) -> int:
    """Seconds of a written duration: ``90`` (seconds), ``"2h"``, ``"1h30m"``, ``"45m"``, ``"1d"``, ``"00:30:00"``.

    Raises ValueError naming the accepted forms when the text is none of them, or is zero.
    """
    raw = str(text).strip()
    seconds = 0
    if raw.isascii() and raw.isdigit():
        seconds = int(raw)
    elif re.fullmatch(r"\d+:[0-5]\d:[0-5]\d", raw, re.ASCII):
        hours, minutes, rest = (int(part) for part in raw.split(":"))
        seconds = hours * 3600 + minutes * 60 + rest
    elif raw and raw.isascii() and (match := _DURATION.match(raw)):
        days, hours, minutes, rest = (int(part or 0) for part in match.groups())
        seconds = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    if not 1 <= seconds <= MAX_SECONDS:
        raise ValueError(f"cannot read {raw!r} as a duration; write for example 45m, 2h, 1h30m, 1d or 01:30:00")
    return seconds


def json_of(answer: BaseModel) -> Any:
    """Plain data of a model, as ``--json`` prints it."""
    return answer.model_dump(mode="json")
