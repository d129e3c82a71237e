"""Guessing codes is kept hopeless: after so many wrong ones a person waits. No clock of its own."""

from __future__ import annotations

from collections import deque

from fastgpu_hub.pricing.explain import Refused

LIMIT = 10
WINDOW_MS = 10 * 60_000
# People whose last wrong code is long ago are forgotten when so many are remembered.
_TIDY_ABOVE = 1000


class Guesses:
    """The wrong codes of each person in the last ten minutes.

    Kept in memory: who guesses cannot restart the service, and codes are long enough that ten more tries after each
    restart do not matter. Belongs to one event loop.
    """

    def __init__(self) -> None:
        self._wrong: dict[str, deque[int]] = {}

    def wrong(self, owner: str, now_ms: int) -> None:
        """This person gave a code that is not theirs."""
        if len(self._wrong) > _TIDY_ABOVE:
            self._wrong = {name: times for name, times in self._wrong.items() if times[-1] > now_ms - WINDOW_MS}
        self._wrong.setdefault(owner, deque(maxlen=LIMIT)).append(now_ms)

    def refusal(self, owner: str, now_ms: int) -> Refused | None:
        """Why this person may try no code now; None when they may."""
        times = self._wrong.get(owner, deque())
        if len(times) < LIMIT or times[0] <= now_ms - WINDOW_MS:
            return None
        frees_ms = times[0] + WINDOW_MS
        minutes = -(-(frees_ms - now_ms) // 60_000)
        return Refused(
            "too_many_guesses",
            f"You gave {LIMIT} wrong codes within {WINDOW_MS // 60_000} minutes.",
            {"limit": LIMIT, "window_seconds": WINDOW_MS // 1000, "wait_seconds": -(-(frees_ms - now_ms) // 1000)},
            frees_ms,
            f"Try again in {minutes} minute{'s' * (minutes != 1)}, with the code as it was given to you.",
        )
