"""What the documents say in words and tables: figures, kinds, scopes, variables, metrics, pages."""

from __future__ import annotations

import doctest
import re
from typing import Any, get_args

import yaml

from fastgpu import models


def test_the_arithmetic_of_money_comes_out(root):
    failed, tried = doctest.testfile(str(root / "docs" / "explanation" / "money.md"), module_relative=False)
    assert tried >= 40
    assert failed == 0


def test_the_figures_that_money_and_security_name_are_the_codes(root):
    from fastgpu_hub.broker import funding, guesses, promotion_rules
    from fastgpu_hub.engines.local import LocalEngine
    from fastgpu_hub.service.main import FastGPUService

    money = (root / "docs" / "explanation" / "money.md").read_text()
    horizon = FastGPUService.server_horizon_minutes.default_value
    assert f"the next {horizon} minutes (`server_horizon_minutes`)" in money
    warned = "{}, {} and {} minutes".format(*funding.WARN_MINUTES)
    assert f"| {warned} |" in money
    assert warned in (root / "README.md").read_text()
    assert f"| {LocalEngine.stop_grace_seconds.default_value:.0f} seconds (`stop_grace_seconds`) |" in money
    for trait in (FastGPUService.list_price_changes, FastGPUService.promotion_changes):
        assert f'`c.FastGPUService.{trait.name}` | `"{trait.default_value}"`: ' in money

    wrong = f"{guesses.LIMIT} wrong codes within {guesses.WINDOW_MS // 60_000} minutes"
    signs = promotion_rules.GROUPS * promotion_rules.GROUP_SIGNS
    security = (root / "docs" / "explanation" / "security.md").read_text()
    assert wrong in security
    assert f"{signs} signs out of {len(promotion_rules.ALPHABET)}" in security
    assert wrong in (root / "docs" / "how-to" / "submit-jobs.md").read_text()


def test_kinds_of_news_entries_and_limits_are_all_explained(root):
    from fastgpu_hub.pricing import ledger

    def first_column(path: str, heading: str) -> set[str]:
        table = (root / path).read_text().split(f"| {heading} |")[1].split("\n\n")[0]
        return {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}

    notices = set(get_args(models.Notice.model_fields["kind"].annotation))
    assert first_column("docs/how-to/submit-jobs.md", "kind") == notices
    assert first_column("docs/explanation/money.md", "metric") == {metric.value for metric in models.QuotaMetric}
    assert first_column("docs/how-to/run-a-class.md", "metric") == {metric.value for metric in models.QuotaMetric}
    assert first_column("docs/explanation/money.md", "window") == set(get_args(models.QuotaWindow))
    assert first_column("docs/how-to/run-a-class.md", "window") == set(get_args(models.QuotaWindow))
    kinds = set(re.findall(r"^    \* ``(\w+)``", ledger.Transfer.__doc__ or "", re.MULTILINE))
    assert first_column("docs/explanation/money.md", "kind") == kinds


async def test_metrics_named_are_metrics_served(written):
    from fastgpu_hub.broker.broker import Broker
    from fastgpu_hub.service.clock import SystemClock
    from fastgpu_hub.service.metrics import ServiceMetrics
    from fastgpu_hub.store import open_store

    store = open_store("sqlite://")
    try:
        unused: Any = None  # engine, probe and hub: nothing is started
        gauges = await Broker(store, unused, unused, unused, SystemClock()).metrics_snapshot()
    finally:
        await store.close()
    metrics = ServiceMetrics()
    metrics.answered("me", "GET", 200, 0.1)
    served = set(re.findall(r"^(fastgpu_\w+)", metrics.text(gauges).decode(), re.MULTILINE))
    named = {
        (document.name, span)
        for document in written
        for span in document.spans
        if re.fullmatch(r"fastgpu_(?!magics$|hub$)\w+", span)
    }
    assert len(named) > 8
    assert not {(name, span) for name, span in named if not {span, f"{span}_count"} & served}


def test_the_scopes_are_those_the_hub_is_given(root):
    from fastgpu_hub.setup import CUSTOM_SCOPES

    text = (root / "docs" / "explanation" / "security.md").read_text()
    listed = dict(re.findall(r"^\| `(custom:fastgpu:\w+)` \| (.+) \|$", text, re.MULTILINE))
    assert listed == {scope: about["description"] for scope, about in CUSTOM_SCOPES.items()}


def test_a_job_finds_the_variables_the_guide_lists(root):
    from fastgpu_hub.broker.jobs_input import check_environment
    from fastgpu_hub.broker.ports.world import Launch
    from fastgpu_hub.engines.launching import SystemUser, job_environment

    text = (root / "docs" / "how-to" / "submit-jobs.md").read_text()
    rows = text.split("A job finds these variables:")[1].split("\n\nWith `--env`")[0]
    listed = set(re.findall(r"`([A-Z_]+)`", "".join(row.split("|")[1] for row in rows.splitlines() if "|" in row)))
    launch = Launch("j-1", "alice", "script", ("a.py",), ("GPU-1",), 1000, simulated=True, parameters={"lr": "1"})
    user = SystemUser("alice", 1000, 1000, (), "/home/alice")
    assert listed == set(job_environment(launch, "/usr/bin/python3", user, {}, "/progress", "/saved", 1000))

    refused = text.split("you add your own. ")[1].split(" are refused.")[0]
    names = re.findall(r"`([A-Z_]+)`", refused)
    assert len(names) > 8
    for name in names:
        assert check_environment({name if not name.endswith("_") else f"{name}X": "1"}) is not None, name


def test_pages_named_are_pages_served(written):
    from fastgpu_hub.service.routes import ROUTES

    served = [re.compile(route.regex) for route in ROUTES if route.method == "GET"]
    named = {
        match[1]
        for document in written
        for span in document.spans
        for match in re.finditer(r"/services/fastgpu/(\S+)", span)
    }
    assert named
    assert not {path for path in named if not any(pattern.fullmatch(path) for pattern in served)}


def test_the_changelog_is_about_this_version(root):
    version = re.search(r'^version = "(.+)"$', (root / "pyproject.toml").read_text(), re.MULTILINE)
    heading = re.search(r"^## \[(.+?)\]", (root / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert version
    assert heading
    assert version[1] == heading[1]


def test_pre_commit_needs_no_network_and_checks_what_make_lint_checks(root):
    hooks = yaml.safe_load((root / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    entries = [hook["entry"] for hook in hooks[0]["hooks"]]
    assert all(entry.startswith(".venv/bin/") for entry in entries)
    lint = (root / "Makefile").read_text().split("lint:")[1].split("\n\n")[0]
    mypy = re.search(r"\$\(BIN\)/(mypy .+)", lint)
    assert mypy
    assert f".venv/bin/{mypy[1]}" in entries
    for program in ("ruff check", "ruff format", "lint-imports"):
        assert any(entry.startswith(f".venv/bin/{program}") for entry in entries)
