"""What a browser's fields become, and how pages say it: forms, promotions in both directions, run-out dates, words."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from fastgpu import models as m
from fastgpu_hub.service.pages import forms, promotion_forms, words
from fastgpu_hub.service.pages.admin import price_states
from fastgpu_hub.service.pages.outlook import runs_out_at
from fastgpu_hub.service.pages.render import window_text
from fastgpu_hub.service.pages.typed import Typed
from fastgpu_hub.service.wire import Refusal

NOW = datetime(2025, 11, 21, 12, 0, tzinfo=timezone.utc)
DAY = timedelta(days=1)
TIMES = {"starts_at": "2030-01-01T00:00", "ends_at": "2030-02-01T00:00"}


def refusal(call: Any, *arguments: Any) -> tuple[str, str]:
    """The field that is named and what is said about it."""
    with pytest.raises(Refusal) as refused:
        call(*arguments)
    return str(refused.value.refused.numbers.get("field", "")), refused.value.refused.message


# ---------------------------------------------------------------- limits, credit, asking


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"metric": "gpu_seconds", "limit": "1.5", "window": "week"}, {"limit": 5400, "window": "week"}),
        ({"metric": "credit_share_percent", "limit": "40"}, {"limit": 40, "window": "always"}),
        ({"metric": "spend_micros", "limit": "2", "soft": "on"}, {"limit": 2_000_000, "soft": True}),
        (
            {"metric": "gpu_seconds", "limit": "1", "window": "rolling", "rolling": "36h"},
            {"window": "rolling", "rolling_seconds": 129_600, "starts_at": None},
        ),
        (
            {"metric": "gpu_seconds", "limit": "1", "window": "term", **TIMES},
            {"starts_at": datetime(2029, 12, 31, 23, tzinfo=timezone.utc), "rolling_seconds": None},
        ),
    ],
)
def test_every_kind_of_limit_can_be_written_in_a_form(fields: dict[str, str], wanted: dict[str, Any]) -> None:
    quota = forms.quota({"scope": "member", **fields}, "Europe/Berlin", klass="cs101")
    assert quota.name == "cs101"
    assert {name: getattr(quota, name) for name in wanted} == wanted


def test_a_field_that_cannot_be_read_is_named_in_the_forms_own_words() -> None:
    base = {"scope": "member", "metric": "gpu_seconds", "window": "rolling", "limit": "4"}
    assert refusal(forms.quota, base, "UTC", "cs101") == ("rolling", "The length is empty.")
    assert refusal(forms.quota, {**base, "limit": "four"}, "UTC", "cs101")[0] == "limit"
    assert refusal(forms.quota, {**base, "metric": "cats"}, "UTC", "cs101")[0] == "metric"
    assert refusal(forms.price, {"gpu_type": "H 100", "per_start": "1"}, "UTC")[0] == "gpu_type"
    assert refusal(forms.grant, {"account": "cs101", "amount": "1"}, "UTC")[0] == "account"
    field, said = refusal(forms.grant, {"account": "class:a", "amount": "1", "rollover_percent": "101"}, "UTC")
    assert (field, said[:37]) == ("rollover_percent", "What rolls over cannot be 101: it sho")
    assert refusal(forms.grant, {"member": "", "amount": "0"}, "UTC", "cs101")[0] in ("amount", "member")
    assert refusal(forms.refund, {"reason": " "})[0] == "reason"
    assert refusal(forms.redeem, {"code": " "}) == ("code", "The code is empty.")


def test_a_members_grant_is_always_of_the_class_whatever_the_form_says() -> None:
    form = {"account": "class:bio7", "member": "alice", "amount": "2", "expires_at": "2030-01-01T00:00"}
    wanted = forms.grant(form, "UTC", klass="cs101")
    assert (wanted.account, wanted.from_account, wanted.amount_micros) == ("person:alice", "class:cs101", 2_000_000)


def test_more_is_asked_for_in_the_unit_of_what_is_short() -> None:
    metrics = {4: "gpu_seconds", 5: "concurrent_gpus"}
    reason = {"reason": "thesis"}
    assert forms.ask({"about": "limit:4", "amount": "1.5", **reason}, metrics).amount == 5400
    assert forms.ask({"about": "limit:5", "amount": "2", **reason}, metrics).amount == 2
    of_credit = forms.ask({"about": "account:person:a b", "amount": "2", **reason}, metrics)
    assert (of_credit.account, of_credit.amount) == ("person:a b", 2_000_000)
    assert refusal(forms.ask, {"about": "", "amount": "1", **reason}, metrics)[0] == "about"
    assert refusal(forms.ask, {"about": "limit:x", "amount": "1", **reason}, metrics)[0] == "about"


def test_a_declined_request_gives_nothing_even_if_the_amount_is_filled_in() -> None:
    form = {"amount": "5", "until": "2030-01-01T00:00", "answer": "No."}
    declined = forms.decision({**form, "decision": "decline"}, "spend_micros", "UTC")
    assert (declined.amount, declined.until, declined.answer) == (None, None, "No.")
    approved = forms.decision({**form, "decision": "approve"}, "gpu_seconds", "UTC")
    assert (approved.amount, approved.until is None) == (18_000, False)


def test_ticked_lines_are_refunded_and_nothing_else() -> None:
    form = {"reason": "fan", "charge_3": "on", "charge_12": "on", "charge_x": "on", "key": "k"}
    assert forms.refund(form).charge_ids == (3, 12)


# ---------------------------------------------------------------- promotions


def shown(**changes: Any) -> m.Promotion:
    base = {"id": 1, "name": "Launch", "percent_off": 50, "audience": ("class:cs101",), "starts_at": NOW}
    return m.Promotion.model_validate({**base, "ends_at": NOW + 7 * DAY, **changes})


NIGHTS = (
    m.WeeklyWindow(days=(0, 1, 4), from_minute=18 * 60, to_minute=0),
    m.WeeklyWindow(days=(6,), from_minute=0, to_minute=90),
)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"percent_off": None, "fixed_per_gpu_hour_micros": 123_456, "weekly": NIGHTS},
        {"weekly": NIGHTS, "time_zone": "Asia/Kolkata"},
        {"percent_off": None, "free_gpu_seconds": 100, "budget_micros": 1, "audience": ("new", "class:a b")},
        {"percent_off": None, "credit_micros": 5_000_000, "credit_days": 30, "max_redemptions": 50},
        {"stacks": True, "gpu_types": ("h100-80gb", "a100-40gb"), "needs_code": True, "max_per_person": 3},
    ],
)
def test_a_promotion_that_is_edited_without_a_change_stays_what_it_is(changes: dict[str, Any]) -> None:
    before = shown(**changes)
    fields = {name: text for name, text in promotion_forms.fields(before).items() if text}
    after = promotion_forms.promotion(fields, "Europe/Berlin")
    for name in set(m.PromotionSet.model_fields) - {"code", "draft"}:
        assert getattr(after, name) == getattr(before, name), name


def test_a_promotion_form_names_the_field_that_is_wrong() -> None:
    base = {"name": "Lab", "kind": "percent", "percent_off": "10", **TIMES}
    for changes, field in (
        ({"name": ""}, "name"),
        ({"percent_off": ""}, "percent_off"),
        ({"kind": "free", "free_gpu_hours": "x"}, "free_gpu_hours"),
        ({"starts_at": "soon"}, "starts_at"),
        ({"gpu_types": "H100!"}, "gpu_types"),
        ({"audience": "cs101"}, "audience"),
        ({"code": "a b"}, "code"),
        ({"max_redemptions": "0"}, "max_redemptions"),
        ({"hours_0_from": "18:00"}, "hours_0_from"),
        ({"hours_0_1": "on", "hours_0_from": "18:00"}, "hours_0_to"),
        ({"hours_0_1": "on", "hours_0_from": "18:75", "hours_0_to": "19:00"}, "hours_0_from"),
    ):
        assert refusal(promotion_forms.promotion, {**base, **changes}, "UTC")[0] == field


def test_only_the_chosen_kind_counts_when_other_amounts_are_left_in_the_form() -> None:
    form = {
        "name": "Lab",
        "kind": "fixed",
        "percent_off": "10",
        "fixed_per_gpu_hour": "0.2",
        "credit_days": "3",
        **TIMES,
    }
    wanted = promotion_forms.promotion(form, "UTC")
    assert (wanted.percent_off, wanted.fixed_per_gpu_hour_micros, wanted.credit_days) == (None, 200_000, None)


def test_a_promotion_is_told_in_words() -> None:
    assert words.saving_words(shown(gpu_types=("h100-80gb",), stacks=True), "credits") == (
        "50 % off on h100-80gb, on top of another promotion"
    )
    free = shown(percent_off=None, free_gpu_seconds=7200)
    assert words.saving_words(free, "credits") == "the first 2.00 GPU-h of each person free"
    credit = shown(percent_off=None, credit_micros=5_000_000, credit_days=1)
    assert words.saving_words(credit, "credits") == "5.00 credits of credit, valid for 1 day"
    assert (
        words.audience_words(shown(audience=("class:cs101", "person:alice", "new"))) == "class cs101, alice, new users"
    )
    assert words.audience_words(shown(audience=())) == "everyone"
    assert words.left_words(shown(max_redemptions=50, places_left=38), "credits") == ["38 of 50 places left"]
    workdays = m.WeeklyWindow(days=(0, 1, 2, 3, 4), from_minute=1080, to_minute=480)
    assert window_text((workdays, NIGHTS[0])) == "Mon–Fri 18:00–08:00; Mon, Tue, Fri 18:00–00:00"


# ---------------------------------------------------------------- what is shown beside


def grant(number: int, left: int, days: int | None = None, priority: int = 100) -> m.Grant:
    expires = None if days is None else NOW + days * DAY
    values = {"id": number, "account": "class:a", "amount_micros": left, "left_micros": left, "priority": priority}
    return m.Grant.model_validate({**values, "granted_at": NOW, "expires_at": expires})


def test_when_credit_runs_out_at_last_weeks_pace_counts_what_expires_before_it_is_spent() -> None:
    pace = 7_000_000
    assert runs_out_at([grant(1, 10_000_000)], pace, NOW) == NOW + 10 * DAY
    assert runs_out_at([grant(1, 10_000_000, days=4)], pace, NOW) == NOW + 4 * DAY
    # 4 of the first are spent before it expires, then the second lasts 3 days more.
    assert runs_out_at([grant(2, 3_000_000), grant(1, 10_000_000, days=4)], pace, NOW) == NOW + 7 * DAY
    # The one with the lower priority number burns first, so the other one expires unspent.
    assert runs_out_at([grant(1, 5_000_000, priority=1), grant(2, 9_000_000, days=4)], pace, NOW) == NOW + 5 * DAY
    assert runs_out_at([grant(1, 10_000_000, days=-1)], pace, NOW) == NOW
    assert runs_out_at([], pace, NOW) == NOW


def test_credit_that_is_not_spent_has_no_end_to_foresee() -> None:
    assert runs_out_at([grant(1, 5)], 0, NOW) is None
    assert runs_out_at([grant(1, 10**15)], 1, NOW) is None


def test_only_the_form_that_was_sent_comes_back_as_it_was_typed() -> None:
    problem = m.Explanation(code="invalid_request", message="No.", numbers={"field": "amount"})
    typed = Typed("classes/a%20b/grants", {"amount": "x"}, problem)
    sent, other = typed.of("classes/a b/grants"), typed.of("classes/a b/quotas", {"amount": "1"})
    assert (sent.value("amount"), sent.wrong("amount"), sent.wrong_elsewhere) == ("x", "No.", "")
    assert (other.value("amount"), other.wrong("amount"), other.refused) == ("1", "", False)
    assert sent.id != other.id
    whole = Typed("p", {"amount": "x"}, problem.model_copy(update={"numbers": {"field": "elsewhere"}})).of("p")
    assert (whole.wrong("amount"), whole.wrong_elsewhere) == ("", "No.")


def test_a_refusal_links_to_asking_for_more_of_what_stood_in_the_way() -> None:
    def of(code: str, **numbers: int | str) -> str:
        return words.ask_link(m.Explanation(code=code, message="", numbers=numbers))

    assert of("quota_gpu_hours", quota_id=3) == "limit=3"
    assert of("credit", account="class:cs101") == "account=class:cs101"
    assert of("quota_credit_share", quota_id=3) == of("capacity", quota_id=3) == of("credit") == ""
    assert words.ask_link(None) == ""


@pytest.mark.parametrize(
    ("used", "reserved", "limit", "parts"),
    [
        (0, 0, 10, (0, 0, 0)),
        (5, 5, 10, (500, 500, 1)),
        (1, 0, 10**6, (8, 0, 0)),
        (30, 0, 10, (1000, 0, 1)),
        (0, 0, 0, (0, 0, 0)),
    ],
)
def test_a_bar_shows_the_smallest_part_and_never_leaves_its_frame(
    used: int, reserved: int, limit: int, parts: tuple[int, int, int]
) -> None:
    assert tuple(words.bar(used, reserved, limit).values()) == parts


def test_the_price_book_says_which_version_is_in_force() -> None:
    def price(number: int, gpu_type: str, days: int) -> m.Price:
        return m.Price(id=number, gpu_type=gpu_type, rate=m.Rate(), valid_from=NOW + days * DAY)

    book = [price(1, "h100", -9), price(2, "h100", -2), price(3, "h100", 4), price(4, "a100", -1)]
    assert [(state, one.id) for state, one in price_states(book, NOW)] == [
        ("now", 4),
        ("now", 2),
        ("to come", 3),
        ("before", 1),
    ]


def test_a_countdown_is_told_in_words_and_ends() -> None:
    assert words.countdown_words(NOW + timedelta(hours=3, minutes=12, seconds=9), NOW) == "in 3 h 12 min"
    assert words.countdown_words(NOW, NOW) == "over"
