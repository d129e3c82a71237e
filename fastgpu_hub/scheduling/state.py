"""What the scheduler knows: inventory, queue, who runs. Only ``scheduler.handle`` changes it."""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter

from fastgpu_hub.pricing.explain import Explained
from fastgpu_hub.scheduling.inventory import Inventory, Node, Pool
from fastgpu_hub.scheduling.parts import Pause, in_parts, no_pause
from fastgpu_hub.scheduling.policies import POLICIES, Policy, Score, Standing, Want
from fastgpu_hub.scheduling.prediction import COVERAGE, Batch, Prediction, Predictor, Quantile
from fastgpu_hub.scheduling.shares import Shares

NEVER_MS = 1 << 62
TAIL = 2.0
WAIT_BASE_MS = 60_000.0
STRICT_FACTOR = 3.0
MOST_OUT_OF_DATE = 100
LOOK_AGAIN_MS = 600_000


class Lot:
    """Requests of one batch that differ in nothing the scheduler looks at, in the order they were asked for.

    ``numbers`` count the arrivals: of two with the same score the one that came first is first. ``entry`` is the number
    of the lot's entry in the heap, with the ``score`` of its first request; 0 while the lot is in no heap. ``lane`` is
    in which heap: the GPU count, for notebook servers negative. ``gate`` is what it stands behind, or came out of.
    """

    __slots__ = ("batch", "entry", "gate", "gpu_count", "key", "lane", "numbers", "score", "wants")

    def __init__(self, key: Hashable, batch: Batch, gpu_count: int, lane: int) -> None:
        self.key, self.batch, self.gpu_count, self.lane = key, batch, gpu_count, lane
        self.wants: deque[Want] = deque()
        self.numbers: deque[int] = deque()
        self.entry = 0
        self.gate: Gate | None = None
        self.score: Score = None

    def place_of(self, want_id: str) -> int:
        """Where a request stands in it."""
        last = len(self.wants) - 1
        return last if self.wants[last].id == want_id else [want.id for want in self.wants].index(want_id)


Entry = tuple[Score, int, int, Lot]


@dataclass(slots=True)
class Reservation:
    """Devices kept for a request that does not fit: from ``from_ms`` on they are expected to be free.

    ``spare`` are the nodes it will use, with how many devices of each it leaves over. ``made_room``: others are being
    interrupted for it, so it comes before everybody else. ``strict``: only time limits are relied on. ``leave``: how
    many devices jobs leave free, where it waits because of seats that are kept.
    """

    want_id: str
    from_ms: float
    spare: dict[Node, int]
    until_ms: float = 0
    made_room: bool = False
    strict: bool = False
    leave: int = 0


class Gate:
    """A heap of the lots of one lane that wait for a limit; ``out`` are those in the lane, that may find room.

    ``which`` of the gates of the limit's key: GPU type, lane and limit.
    """

    __slots__ = ("heap", "key", "line", "out", "which")

    def __init__(self, key: str, which: tuple[str, int, int], line: Line) -> None:
        self.key, self.which, self.line = key, which, line
        self.heap: list[Entry] = []
        self.out: dict[Lot, None] = {}


class Line:
    """The queue of one GPU type: a heap of lots per lane. ``review_ms`` is when somebody runs out of patience.

    ``overdue`` is a heap of (since when nobody may go ahead of it, number, id) of what waits, and of some that do not.
    """

    __slots__ = (
        "by_owner",
        "gpu_type",
        "heaps",
        "lots",
        "overdue",
        "rebase_ms",
        "reservation",
        "review_ms",
        "size",
        "spot",
    )

    def __init__(self, gpu_type: str) -> None:
        self.gpu_type = gpu_type
        self.heaps: dict[int, list[Entry]] = {}
        self.lots: dict[Hashable, Lot] = {}
        self.by_owner: dict[Hashable, dict[Lot, None]] = {}
        self.size = 0
        self.review_ms: float = NEVER_MS
        self.rebase_ms = 0
        self.overdue: list[tuple[float, int, str]] = []
        self.reservation: Reservation | None = None
        self.spot: dict[str, None] = {}


class Running:
    """A request that holds devices. ``told`` is the log mean and deviation of the run time that was predicted for it.

    ``noted`` is what was written down of its use when it started; ``ends_ms`` the end by its own report.
    """

    __slots__ = ("batch", "ends_ms", "noted", "number", "since_ms", "told", "want")

    def __init__(self, want: Want, batch: Batch, number: int, since_ms: int, told: tuple[float, float] | None) -> None:
        self.want, self.batch, self.number, self.since_ms, self.told = want, batch, number, since_ms, told
        self.noted = 0.0
        self.ends_ms: float | None = None


@dataclass(slots=True)
class State:
    """Inventory, a line per GPU type, who holds devices, GPUs held per limit, who was declined, what is predicted.

    ``seats`` are devices per GPU type that jobs leave to notebook servers, ``weights`` what accounts are entitled to.
    """

    policy: Policy = POLICIES["default"]
    inventory: Inventory = field(default_factory=Inventory)
    predictor: Predictor = field(default_factory=Predictor)
    shares: dict[str, Shares] = field(default_factory=dict)
    seats: dict[str, int] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    lines: dict[str, Line] = field(default_factory=dict)
    lots_of: dict[Batch, dict[Lot, None]] = field(default_factory=dict)
    lot_of: dict[str, Lot] = field(default_factory=dict)
    told: dict[str, tuple[float, float]] = field(default_factory=dict)
    holding: dict[str, Running] = field(default_factory=dict)
    held_per_key: Counter[str] = field(default_factory=Counter)
    held_by_servers: Counter[str] = field(default_factory=Counter)
    blocked: dict[str, dict[tuple[str, int, int], Gate]] = field(default_factory=dict)
    declined: dict[str, Explained] = field(default_factory=dict)
    set_aside: dict[str, tuple[Want, Batch, int]] = field(default_factory=dict)
    preempting: dict[str, str] = field(default_factory=dict)
    turns: dict[str, int] = field(default_factory=dict)
    foretold: dict[str, tuple[int, int]] = field(default_factory=dict)
    wait_low: Quantile = field(default_factory=lambda: Quantile((1 - COVERAGE) / 2, -2.0, 0.2))
    wait_high: Quantile = field(default_factory=lambda: Quantile((1 + COVERAGE) / 2, 2.0, 0.2))
    arrivals: int = 0
    grants: int = 0
    version: int = 0
    _entries: int = 0

    # ------------------------------------------------------------ looking
    def waiting(self, want_id: str) -> Want | None:
        """The waiting request of this id, or None."""
        lot = self.lot_of.get(want_id)
        if lot is not None:
            return lot.wants[lot.place_of(want_id)]
        return self.set_aside[want_id][0] if want_id in self.set_aside else None

    def knows(self, want_id: str) -> bool:
        """Whether a request waits or holds devices."""
        return want_id in self.lot_of or want_id in self.holding or want_id in self.set_aside

    def waits_for_turn(self, want_id: str) -> bool:
        """Whether a request waits."""
        return want_id in self.lot_of or want_id in self.set_aside

    def wants_waiting(self) -> Iterator[Want]:
        """Every waiting request, in no order."""
        for line in self.lines.values():
            for lot in line.lots.values():
                yield from lot.wants
        for want, *_ in self.set_aside.values():
            yield want

    @property
    def waits(self) -> int:
        """How many requests wait."""
        return len(self.lot_of) + len(self.set_aside)

    def batch_of(self, want_id: str) -> Batch | None:
        """The batch of a request that is known."""
        if (lot := self.lot_of.get(want_id)) is not None:
            return lot.batch
        if want_id in self.holding:
            return self.holding[want_id].batch
        return self.set_aside[want_id][1] if want_id in self.set_aside else None

    def likely_ms(self, want: Want, batch: Batch, now_ms: int) -> float:
        """How long a request will probably run."""
        return self.predictor.likely_ms(batch, now_ms) if want.expected_ms is None else want.expected_ms

    def prediction(self, want: Want, batch: Batch, now_ms: int) -> Prediction:
        """How long a request will run, with an interval."""
        if want.expected_ms is not None:
            return Prediction(want.expected_ms, want.expected_ms, want.expected_ms)
        return self.predictor.predict(batch, now_ms)

    def runs_ms(self, want: Want, batch: Batch, now_ms: int, strict: bool = False) -> float:
        """How long to count on a request running: as predicted, or up to its time limit.

        By the limit where the policy says so, and where it is ``strict``, that is to be relied on: then a request
        without a limit runs for ever.
        """
        if strict:
            return math.inf if want.duration_ms is None else float(want.duration_ms)
        if self.policy.times == "requested" and want.duration_ms is not None:
            return want.duration_ms
        return self.predictor.likely_ms(batch, now_ms) if want.expected_ms is None else want.expected_ms

    def ends_ms(self, running: Running, now_ms: int, strict: bool = False) -> float:
        """When a running request is expected to end, later than now; ``strict``: at the latest, where it has a limit.

        Run times have heavy tails: one that has run for long is expected to run on for twice as long, to its limit.
        """
        want = running.want
        since_ms, limit_ms = running.since_ms, want.duration_ms
        if strict and limit_ms is not None:
            return max(since_ms + limit_ms, now_ms + 1)
        if running.ends_ms is not None and running.ends_ms > now_ms:
            return running.ends_ms if limit_ms is None else min(running.ends_ms, max(since_ms + limit_ms, now_ms + 1))
        end_ms = since_ms + self.runs_ms(want, running.batch, now_ms)
        if want.expected_ms is None and self.policy.times == "predicted":
            tail_ms = now_ms + TAIL * (now_ms - since_ms)
            if tail_ms > end_ms:
                end_ms = tail_ms
        if limit_ms is not None and since_ms + limit_ms < end_ms:
            end_ms = since_ms + limit_ms
        return end_ms if end_ms > now_ms else now_ms + 1

    def seats_left(self, gpu_type: str) -> int:
        """How many devices jobs leave to notebook servers that may come."""
        seats = self.seats.get(gpu_type, 0)
        return max(0, seats - self.held_by_servers[gpu_type]) if seats else 0

    def could_ever(self, pool: Pool, want: Want) -> bool:
        """Whether a request could start if nobody held anything."""
        seats = 0 if want.kind == "server" else self.seats.get(want.gpu_type, 0)
        return want.gpu_count + seats <= pool.usable and pool.could_ever(want.gpu_count)

    def patient_ms(self, want: Want, batch: Batch, now_ms: int) -> float:
        """Until when a request is overtaken freely."""
        patience = self.policy.patience
        return want.requested_ms + (0.0 if patience is None else patience(self.likely_ms(want, batch, now_ms)))

    def strict(self, want: Want, now_ms: int) -> bool:
        """Whether a request has waited so long that nobody may go ahead on a prediction, which may be wrong, any more.

        From then on it waits no longer than the longest time limit of what runs: that is the bound on anybody's wait.
        """
        batch = self.batch_of(want.id)
        return batch is not None and self.policy.patience is not None and now_ms > self.strict_ms(want, batch, now_ms)

    def strict_ms(self, want: Want, batch: Batch, now_ms: int) -> float:
        """Since when a request has waited so long."""
        return want.requested_ms + STRICT_FACTOR * (self.patient_ms(want, batch, now_ms) - want.requested_ms)

    def standing(self, want: Want) -> Standing:
        """What the policy looks at of a request's owner."""
        kind = self.policy.standing
        if kind == "share":
            shares = self.shares.get(want.gpu_type)
            return shares.share(want.owner) if shares is not None else 0.0
        if kind == "turn":
            return self.turns.get(want.owner, 0)
        if kind == "use":
            shares = self.shares.get(want.gpu_type)
            if shares is None:
                return 0.0, 0.0
            account_use = shares.account_use(want.account) / self.weights.get(want.account, 1.0)
            return account_use, shares.owner_use(want.owner)
        return 0

    def score(self, want: Want, batch: Batch, now_ms: int) -> Score:
        """Where a request stands: lower is earlier."""
        likely_ms: float | None = want.expected_ms
        if likely_ms is None:
            likely_ms = self.predictor.likely_ms(batch, now_ms)
        return self.policy.score(want, likely_ms, self.standing(want))

    def in_order(self, gpu_type: str, now_ms: int, pause: Pause = no_pause) -> list[Want]:
        """The waiting requests of a GPU type in the order in which they are to be served.

        While there is a ``pause`` the state may change: then it is about so that they stood.
        """
        line = self.lines.get(gpu_type)
        found: list[tuple[Score, int, Want]] = []
        add, score = found.append, self.policy.score
        for lot in in_parts(list(line.lots.values()) if line else (), pause):
            if not lot.wants:  # they have left since
                continue
            want = lot.wants[0]  # nothing but its instant distinguishes the others from it
            likely_ms, standing = self.likely_ms(want, lot.batch, now_ms), self.standing(want)
            for want, number in zip(lot.wants, lot.numbers, strict=True):
                add((score(want, likely_ms, standing), number, want))
        for want, batch, number in list(self.set_aside.values()):
            if want.gpu_type == gpu_type:
                add((self.score(want, batch, now_ms), number, want))
        found.sort(key=itemgetter(0, 1))
        return [want for *_, want in found]

    # ------------------------------------------------------------ the heaps
    def push(self, line: Line, lot: Lot, score: Score) -> None:
        """Put a lot where its first request belongs; whatever older entry it has is worth nothing from now on."""
        self._entries += 1
        lot.score, lot.entry = score, self._entries
        gate = lot.gate
        heap = line.heaps.get(lot.lane) if gate is None or lot in gate.out else gate.heap
        if heap is None:
            heap = line.heaps[lot.lane] = []
        if len(heap) > MOST_OUT_OF_DATE + 2 * len(line.lots):
            heap[:] = [entry for entry in heap if entry[3].entry == entry[2]]
            heapq.heapify(heap)
        heapq.heappush(heap, (score, lot.numbers[0], self._entries, lot))

    def improve(self, line: Line, lot: Lot, now_ms: int) -> None:
        """Move a lot up if it stands better now. Whoever stands worse is moved down when its turn comes."""
        if (score := self.score(lot.wants[0], lot.batch, now_ms)) < lot.score:
            self.move_up(line, lot, score, now_ms)

    def move_up(self, line: Line, lot: Lot, score: Score, now_ms: int) -> None:
        """Put a lot where it stands better."""
        self.push(line, lot, score)
        if lot.gate is not None and lot not in lot.gate.out:
            self.let_out(lot.gate, now_ms)  # it may be before who is out

    def let_out(self, gate: Gate, now_ms: int) -> None:
        """Let the next one out of a gate, if the limit has room for it."""
        _, lane, limit = gate.which
        if self.held_per_key[gate.key] + abs(lane) <= limit:
            entry = self.top(gate.line, gate.heap, now_ms)
            if entry is not None:
                heapq.heappop(gate.heap)
                gate.out[entry[3]] = None
                self.push(gate.line, entry[3], entry[0])

    def top(self, line: Line, heap: list[Entry], now_ms: int) -> Entry | None:
        """The best entry of a heap, with its score as of now; entries that are out of date are removed on the way."""
        while heap:
            entry = heap[0]
            lot = entry[3]
            if lot.entry != entry[2]:
                heapq.heappop(heap)
                continue
            score = self.score(lot.wants[0], lot.batch, now_ms)
            if score > entry[0]:  # it stands worse than when it was put there
                self._entries += 1
                lot.score, lot.entry = score, self._entries
                heapq.heapreplace(heap, (score, entry[1], self._entries, lot))
                if lot.gate is not None and lot in lot.gate.out:
                    self.let_out(lot.gate, now_ms)  # another may be before it
                continue
            return entry
        return None

    # ------------------------------------------------------------ who has waited too long
    def expect(self, line: Line, want: Want, batch: Batch, number: int, now_ms: int) -> None:
        """Note when a request that joins a line is to be looked at again, whatever its score."""
        patient_ms = self.patient_ms(want, batch, now_ms)
        line.review_ms = min(line.review_ms, patient_ms)
        overdue = line.overdue
        if len(overdue) > MOST_OUT_OF_DATE + 2 * line.size:
            overdue[:] = [entry for entry in overdue if entry[2] in self.lot_of]
            heapq.heapify(overdue)
        strict_ms = want.requested_ms + STRICT_FACTOR * (patient_ms - want.requested_ms)
        heapq.heappush(overdue, (strict_ms, number, want.id))

    def overdue(self, line: Line, now_ms: int) -> Want | None:
        """Of those that nobody may go ahead of any more the one for which that has been so for longest."""
        heap = line.overdue
        while heap and heap[0][0] < now_ms:
            _, number, want_id = heap[0]
            want = self.waiting(want_id) if want_id in self.lot_of else None
            if want is None:
                heapq.heappop(heap)
                continue
            strict_ms = self.strict_ms(want, self.lot_of[want_id].batch, now_ms)
            if strict_ms < now_ms:
                return want
            heapq.heapreplace(heap, (strict_ms, number, want_id))
        return None

    def put_off(self, line: Line, now_ms: int) -> None:
        """What is overdue waits for something else than devices: it is looked at again later."""
        _, number, want_id = line.overdue[0]
        heapq.heapreplace(line.overdue, (now_ms + LOOK_AGAIN_MS, number, want_id))
