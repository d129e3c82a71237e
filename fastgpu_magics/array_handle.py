"""The array handle of notebooks: an SDK ``JobArray`` that shows itself as a table by its parameters."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from fastgpu import array_views, models
from fastgpu.errors import FastGPUError
from fastgpu.job_array import JobArray
from fastgpu.models import json_of
from fastgpu.view import Lens, View
from fastgpu.words import array_words
from fastgpu_magics.display import Bundle, bundle_of


class NotebookJobArray(JobArray):
    """An array as the magics return it: ``.wait() .results() .cancel() .jobs .pull('loss')``."""

    @classmethod
    def of(cls, array: JobArray) -> NotebookJobArray:
        """The same array with a notebook's manners."""
        return cls(array._client, array.snapshot)

    @property
    def view(self) -> View:
        """The array for a person's eyes: as it is now, or as it was when the service last answered."""
        with suppress(FastGPUError):
            self.refresh()
        return array_views.array(self.snapshot, Lens())

    @property
    def data(self) -> Any:
        """Plain data."""
        return json_of(self.snapshot)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Bundle:
        return bundle_of(self.view)

    def follow_to_end(self, tell: Callable[[str], object]) -> bool:
        """Say how far it is until it is done; an interrupt cancels it, a second one leaves it to itself.

        Returns False when it was left to itself.
        """
        said = [""]

        def tick(answer: models.JobArray) -> None:
            if (words := array_words(answer)) != said[-1]:
                said.append(words)
                tell(words)

        try:
            self.wait(tick=tick)
        except KeyboardInterrupt:
            tell(f"Cancelling array {self.id}; interrupt again to detach from it.")
            try:
                self.cancel().wait(tick=tick)
            except KeyboardInterrupt:
                tell(f"Detached from array {self.id}; see it with: jobs --array {self.id}, cancel {self.id}.")
                return False
        return True
