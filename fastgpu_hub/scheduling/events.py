"""What the scheduler is told, and what it orders. Every event carries its instant: the scheduler has no clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from fastgpu_hub.pricing.explain import Explained
from fastgpu_hub.scheduling.inventory import Device
from fastgpu_hub.scheduling.policies import Want


@dataclass(frozen=True, slots=True)
class Discovered:
    """The devices there are now (all of them)."""

    devices: tuple[Device, ...]
    at_ms: int


@dataclass(frozen=True, slots=True)
class Vanished:
    """A device that is not found, though somebody holds it."""

    device: Device
    at_ms: int


@dataclass(frozen=True, slots=True)
class Fenced:
    """A device must not be given out: lost, or its last holder is not known gone."""

    uuid: str
    reason: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class Unfenced:
    """A fenced device is well again."""

    uuid: str
    at_ms: int


class Arrived(NamedTuple):
    """A request joins the queue."""

    want: Want
    at_ms: int


@dataclass(frozen=True, slots=True)
class Resumed:
    """A request that has held devices since an instant (known from before a restart)."""

    want: Want
    uuids: tuple[str, ...]
    since_ms: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class Progressed:
    """A running request says which part of its work, 0–1, is done."""

    id: str
    fraction: float
    at_ms: int


class Gone(NamedTuple):
    """A request is over: cancelled while waiting, or its last process is known gone. Its devices are free.

    ``ran``: it ran as it was meant to, so that its time tells something about others like it.
    """

    id: str
    at_ms: int
    ran: bool = True


@dataclass(frozen=True, slots=True)
class Declined:
    """A grant could not be carried out (money, quota). The request waits, skipped, until reconsidered."""

    id: str
    reason: Explained
    at_ms: int


@dataclass(frozen=True, slots=True)
class Reconsider:
    """Something outside changed (credit, quota window, price): try the declined ones again."""

    at_ms: int


@dataclass(frozen=True, slots=True)
class LimitsChanged:
    """New concurrent-GPU limits of requests, by request id; those of requests not named stay."""

    limits: dict[str, tuple[tuple[str, int], ...]]
    at_ms: int


@dataclass(frozen=True, slots=True)
class Weighed:
    """What accounts are entitled to in comparison with one another: twice the weight, twice the use. 1 if not named."""

    weights: dict[str, float]
    at_ms: int


@dataclass(frozen=True, slots=True)
class Remembered:
    """Runs of the past, oldest first: the request, when it was asked for, how long it ran in ms."""

    runs: tuple[tuple[Want, int, int], ...]
    at_ms: int


@dataclass(frozen=True, slots=True)
class Foretold:
    """A waiting request was told that it will probably wait so long from now on."""

    id: str
    wait_ms: int
    at_ms: int


Event = (
    Discovered
    | Vanished
    | Fenced
    | Unfenced
    | Arrived
    | Resumed
    | Progressed
    | Gone
    | Declined
    | Reconsider
    | LimitsChanged
    | Weighed
    | Remembered
    | Foretold
)


class Grant(NamedTuple):
    """Instruction: give these devices to this request. The devices are taken already."""

    id: str
    uuids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Preempt:
    """Instruction: stop this running spot request, so that another can have its devices."""

    id: str
    wanted_by: str


Instruction = Grant | Preempt
