"""Completion after ``%fastgpu`` and ``%%fastgpu``: commands, options, GPU types, accounts, jobs, variables.

Answers come from what earlier commands showed, so they are there at once. A name nobody has asked for yet is fetched
in the background for the next keystroke; that thread never prints.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher

from fastgpu import models
from fastgpu.client import GPUClient
from fastgpu.deadlines import CHEAPEST
from fastgpu.errors import FastGPUError
from fastgpu.formatting import one_line
from fastgpu_magics.arguments import CELL_COMMANDS, GROUPS, LINE_COMMANDS

STALE_SECONDS = 60.0
MATCHER_NAME = "fastgpu"
_CHOICES = {"group": GROUPS, "start": ("now", CHEAPEST)}
_LINE = re.compile(r"^\s*(?:[\w, ]+=\s*)?(%%?)fastgpu\s+(.*)$")


class Known:
    """Names seen in answers: GPU types, accounts, jobs. May be read from any thread."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._names: dict[str, tuple[str, ...]] = {}
        self._fetched: float | None = None

    def learn(
        self,
        offers: Iterable[models.Offer] = (),
        accounts: Iterable[models.Account] = (),
        jobs: Iterable[models.Job] = (),
    ) -> None:
        """Remember the names in an answer."""
        seen = {
            "gpu": tuple(offer.gpu_type for offer in offers),
            "account": tuple(account.id for account in accounts),
            "job": tuple(job.id for job in jobs),
        }
        with self._lock:
            for kind, found in seen.items():
                if found:
                    self._names[kind] = tuple(dict.fromkeys((*found, *self._names.get(kind, ()))))[:200]

    def names(self, kind: str) -> tuple[str, ...]:
        """Names of a kind, newest first."""
        with self._lock:
            return self._names.get(kind, ())

    def claim_fetch(self) -> bool:
        """True for the one caller that should fetch now: nothing was fetched for a minute."""
        with self._lock:
            now = self._monotonic()
            if self._fetched is not None and now - self._fetched < STALE_SECONDS:
                return False
            self._fetched = now
            return True


def fetch(known: Known, make_client: Callable[[], GPUClient]) -> None:
    """Ask the service for names; silent when it does not answer."""
    try:
        with make_client() as client:
            options = client.options()
            known.learn(options.offers, options.accounts, [job.snapshot for job in client.jobs("all", 20)])
    except FastGPUError:
        return


def candidates(text: str, is_cell: bool, known: Known, variables: Iterable[str]) -> tuple[list[str], str]:
    """What may stand where the cursor is, and the part of it that is typed already.

    ``text`` is the line from after the magic's name up to the cursor.
    """
    words = text.split()
    typed = "" if not words or text[-1].isspace() else words.pop()
    commands = CELL_COMMANDS if is_cell else LINE_COMMANDS
    if not words and not typed.startswith("-"):
        return list(commands), typed
    command = commands.get(words[0]) if words else commands.get("status")
    if command is None:
        return [], typed
    if typed.startswith("-"):
        return [option for option in command.parser.options if option not in words], typed
    kind = command.completes.get(words[-1], "") if words[-1].startswith("-") else command.completes.get("", "")
    if kind in _CHOICES:
        return list(_CHOICES[kind]), typed
    if kind == "name":
        # After a comma the next name begins.
        return sorted(name for name in variables if not name.startswith("_")), typed.rpartition(",")[2]
    return list(known.names(kind)) if kind else [], typed


Matcher = Callable[[CompletionContext], SimpleMatcherResult]


def make_matcher(shell: Any, known: Known, make_client: Callable[[], GPUClient]) -> Matcher:
    """The matcher to append to ``shell.Completer.custom_matchers``."""

    def fastgpu_matcher(context: CompletionContext) -> SimpleMatcherResult:
        match = _LINE.match(context.text_until_cursor)
        if not match:
            return {"completions": []}
        if known.claim_fetch():
            threading.Thread(target=fetch, args=(known, make_client), daemon=True, name="fastgpu-names").start()
        found, typed = candidates(match[2], match[1] == "%%", known, shell.user_ns)
        fitting = [SimpleCompletion(one_line(name)) for name in found if name.startswith(typed)]
        return {"completions": fitting, "matched_fragment": typed, "suppress": True, "ordered": True}

    matcher: Matcher = context_matcher(identifier=MATCHER_NAME)(fastgpu_matcher)
    return matcher
