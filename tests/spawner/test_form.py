"""The spawn page's form: whole pages against golden files, hostile names, and a service that does not answer."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fastgpu.errors import Unavailable
from fastgpu.models import Account, Explanation, Offer, Options, Promotion, QuotaUse, Rate
from fastgpu_hub.spawner.form import cost_micros, render_form
from fastgpu_hub.spawner.refusal import ShowForm

GOLDEN = Path(__file__).parent / "golden"
SIX = datetime(2026, 12, 1, 18, tzinfo=timezone.utc)


def offer(**changes):
    fields = {
        "gpu_type": "h100-80gb",
        "label": "NVIDIA H100 80 GB",
        "memory_bytes": 80 * 2**30,
        "suited_for": "training large models",
        "simulated": True,
        "total": 4,
        "free": 3,
        "rate": Rate(per_gpu_hour_micros=1_000_000),
        "list_rate": Rate(per_gpu_hour_micros=2_000_000),
        "rate_until": SIX,
        "promotion_name": "Night owls",
    }
    return Offer(**{**fields, **changes})


@pytest.fixture
def options():
    same = Rate(per_gpu_hour_micros=500_000, per_start_micros=10_000)
    return Options(
        user="alice",
        currency="credits",
        offers=(
            offer(),
            offer(
                gpu_type="a100-40gb",
                label="NVIDIA A100 40 GB",
                memory_bytes=40 * 2**30,
                suited_for="",
                simulated=False,
                total=2,
                free=0,
                rate=same,
                list_rate=same,
                rate_until=None,
                promotion_name="",
                wait_seconds=900,
                allowed=False,
                why_not=Explanation(
                    code="quota_spend",
                    message="class cs101 has 0.20 of 10.00 credits left this week",
                    frees_at=SIX,
                    instead="Choose a smaller GPU",
                ),
            ),
        ),
        accounts=(Account(id="class:cs101", left_micros=8_000_000), Account(id="person:alice")),
        quotas=(
            QuotaUse(
                quota_id=1,
                label="class cs101: 40 GPU-hours per week",
                scope="class",
                name="cs101",
                metric="gpu_seconds",
                window="week",
                limit=144_000,
                used=3_600,
                reserved=7_200,
                left=133_200,
                resets_at=SIX,
            ),
            QuotaUse(
                quota_id=2,
                label="site: 4 GPUs at a time",
                scope="site",
                metric="concurrent_gpus",
                window="always",
                limit=4,
                used=1,
                reserved=0,
                left=3,
            ),
        ),
        promotions=(
            Promotion(
                id=7,
                name="Thesis",
                percent_off=50,
                needs_code=True,
                starts_at=datetime(2020, 1, 1, tzinfo=timezone.utc),
                ends_at=SIX,
                eligible=False,
                why_not=Explanation(code="code", message="It needs a code"),
            ),
        ),
    )


def check_golden(name: str, html: str) -> None:
    path = GOLDEN / name
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_text(html, encoding="utf-8")
        pytest.fail(f"{path} was missing and is written now: look at it, then run again")
    assert html == path.read_text(encoding="utf-8"), f"{name} differs; to renew it, delete it and run again"


@pytest.mark.parametrize(
    ("name", "shown", "answered"),
    [
        (
            "full.html",
            {"gpu_type": "h100-80gb", "gpu_count": "2", "account": "person:alice", "time_limit": "90m"},
            True,
        ),
        ("not_allowed.html", {"gpu_type": "a100-40gb"}, True),
        ("no_service.html", {"gpu_type": "h100-80gb"}, False),
    ],
)
def test_the_form_is_the_one_looked_at(name, shown, answered, options):
    trouble = "" if answered else "The GPU service does not answer right now."
    html = render_form(options if answered else None, shown, trouble=trouble)
    check_golden(name, html)


class Fields(HTMLParser):
    """Inputs with their state, labels with what they are for, ids: enough to check a form."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.radios: dict[str, set[str]] = {}
        self.controls: set[str] = set()
        self.labels: set[str] = set()
        self.tags: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        if tag == "input" and given.get("type") == "radio":
            self.radios[given["value"]] = {name for name in given if name in ("checked", "disabled")}
        if tag in ("input", "select", "meter"):
            self.controls.add(given["id"])
        if tag == "label":
            self.labels.add(given["for"])


def test_every_control_has_a_label_and_the_choice_a_legend(options):
    fields = Fields(render_form(options, {}))
    assert fields.controls <= fields.labels
    assert fields.tags.count("legend") == fields.tags.count("fieldset") == 2
    assert "script" not in fields.tags, "the form works without JavaScript"


def test_no_gpu_is_first_and_chosen_until_something_else_is(options):
    fields = Fields(render_form(options, {}))
    assert list(fields.radios) == ["", "h100-80gb", "a100-40gb"]
    assert fields.radios[""] == {"checked"}
    assert Fields(render_form(options, {"gpu_type": "h100-80gb"})).radios["h100-80gb"] == {"checked"}


def test_a_type_that_is_not_allowed_is_disabled_and_says_why(options):
    html = render_form(options, {"gpu_type": "a100-40gb"})
    radios = Fields(html).radios
    assert radios["a100-40gb"] == {"disabled"}
    assert radios[""] == {"checked"}
    assert html.count("class cs101 has 0.20 of 10.00 credits left this week") == 2, "in the row and above the form"


def test_the_page_shows_price_list_price_promotion_end_and_costs(options):
    words = " ".join(re.sub(r"<[^>]+>", " ", render_form(options, {"gpu_count": "2"})).split())
    for told in (
        "1.00 credits/h per GPU instead of the list price 2.00 credits/h per GPU",
        "80 GiB memory · 3 of 4 free · starts at once · suited for training large models",
        "Promotion “Night owls” until Tue 1 Dec 2026, 18:00 UTC",
        "simulated",
        "wait about 15 min",
        "NVIDIA H100 80 GB 2.00 credits 4.00 credits 8.00 credits",
        "NVIDIA A100 40 GB 1.01 credits 2.01 credits 4.01 credits",
        "class:cs101 (8.00 credits left)",
        "site: 4 GPUs at a time 3 GPUs left, 1 GPU used",
        "Thesis: until Tue 1 Dec 2026, 18:00 UTC. It needs a code.",
    ):
        assert told in words


HOSTILE = "\"><script>alert('x')</script>\x1b[31m\u202e"


def test_hostile_names_are_text_everywhere(options):
    why = Explanation(code="x", message=HOSTILE, instead=HOSTILE)
    promotion = options.promotions[0].model_copy(update={"name": HOSTILE, "why_not": why})
    hostile = options.model_copy(
        update={
            "currency": HOSTILE,
            "offers": (
                offer(label=HOSTILE, suited_for=HOSTILE, promotion_name=HOSTILE),
                offer(gpu_type=HOSTILE, label=HOSTILE, allowed=False, why_not=why),
            ),
            "accounts": (Account(id=f"class:{HOSTILE}"),),
            "quotas": (options.quotas[0].model_copy(update={"label": HOSTILE}),),
            "promotions": (promotion,),
        }
    )
    shown = dict.fromkeys(("gpu_type", "gpu_count", "account", "promo_code", "time_limit"), HOSTILE)
    html = render_form(hostile, shown, trouble=HOSTILE)
    fields = Fields(html)
    assert "script" not in fields.tags
    assert all(len(control) < 40 for control in fields.controls)


def test_cost_is_count_times_price_times_time_rounded_down_per_part():
    assert cost_micros(Rate(per_gpu_hour_micros=500_000), 8, 4 * 3600) == 16_000_000
    assert cost_micros(Rate(per_gpu_hour_micros=1_000_000), 10, 24 * 3600) == 240_000_000
    rate = Rate(per_gpu_hour_micros=1, per_task_hour_micros=1, per_start_micros=3)
    assert cost_micros(rate, 1, 1800) == 3


async def test_without_the_service_the_page_still_offers_a_server_without_gpu(make_spawner, service):
    service.options_answer = Unavailable("connection refused")
    html = await make_spawner({}).get_options_form()
    assert list(Fields(html).radios) == [""]
    assert "The GPU service does not answer right now. You can start a server without a GPU" in html


async def test_a_link_shows_the_prefilled_form_and_never_starts_a_server(make_spawner, service, options):
    service.options_answer = options
    spawner = make_spawner({})
    with pytest.raises(ShowForm) as shown:
        spawner.options_from_query({"gpu": ["h100-80gb"], "promo": ["NIGHT"], "account": ["class:cs101"]})
    assert (shown.value.status_code, shown.value.jupyterhub_message) == (200, "")
    html = await spawner.get_options_form()
    assert Fields(html).radios["h100-80gb"] == {"checked"}
    assert service.calls == [("options", "alice", "class:cs101", "NIGHT")]
    assert Fields(await spawner.get_options_form()).radios[""] == {"checked"}, "a link followed once chooses once"


async def test_a_code_that_has_ended_can_be_corrected(make_spawner, service, options):
    service.options_answer = options
    html = await make_spawner({"gpu_type": "h100-80gb", "promo_code": "ENDED"}).get_options_form()
    assert "The code ENDED has ended.</p>" in html
    assert 'name="promo_code" maxlength="64" autocomplete="off" spellcheck="false" value="ENDED"' in html
    assert Fields(html).radios["h100-80gb"] == {"checked"}


async def test_what_was_typed_survives_a_refusal(make_spawner, service, options):
    service.options_answer = options
    spawner = make_spawner({})
    typed = {"gpu_type": ["h100-80gb"], "gpu_count": ["99999"], "promo_code": ["NIGHT"], "time_limit": ["4h"]}
    with pytest.raises(Exception, match="gpu_count 99999 is not possible"):
        spawner.run_options_from_form(typed)
    html = await spawner.get_options_form()
    assert 'value="99999"' in html
    assert 'value="NIGHT"' in html
    assert '<option value="4h" selected>' in html


async def test_the_form_of_a_sound_choice_becomes_user_options(make_spawner):
    form = {"gpu_type": ["h100-80gb"], "gpu_count": ["2"], "time_limit": ["2h"], "account": [""], "promo_code": [""]}
    assert make_spawner({}).run_options_from_form(form) == {
        "gpu_type": "h100-80gb",
        "gpu_count": 2,
        "time_limit_seconds": 7200,
    }
