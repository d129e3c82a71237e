"""What the administrator chooses for the scheduler reaches it, and what makes no sense is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from traitlets import TraitError
from traitlets.config import Config

from fastgpu_hub.artifacts import JobFiles
from fastgpu_hub.engines.local import LocalEngine
from fastgpu_hub.scheduling.policies import POLICIES
from fastgpu_hub.service.main import FastGPUService


def test_the_schedulers_settings_are_the_administrators(tmp_path: Path) -> None:
    given = {"scheduling_policy": "fair-share", "interactive_seats": {"l4": 2}, "spot_percent_off": 30}
    app = FastGPUService(config=Config({"FastGPUService": given}))
    settings = app._settings(LocalEngine(state_dir=str(tmp_path)), JobFiles())
    assert (settings.policy, settings.seats, settings.spot_percent_off) == ("fair-share", {"l4": 2}, 30)
    for name, wrong in (
        ("scheduling_policy", "luck"),
        ("interactive_seats", {"l4": -1}),
        ("spot_percent_off", 100),
        ("shared_gpus", {"l4": 1}),
    ):
        with pytest.raises(TraitError):
            FastGPUService(config=Config({"FastGPUService": {name: wrong}}))


def test_the_policies_are_explained_one_by_one_where_they_are_chosen() -> None:
    text = FastGPUService.scheduling_policy.help
    for policy in POLICIES.values():
        assert f"- ``{policy.name}``: {policy.summary}\n" in text
