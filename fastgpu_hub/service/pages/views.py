"""Which function serves which row of ``routes.PAGES``, and on which page each form is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.resources import files

from fastgpu_hub.service.pages import admin, classes, mine, promotions, runs
from fastgpu_hub.service.pages.visit import Done, Download, Page, Streamed, Visit

Result = Page | Done | Download | Streamed | bytes
View = Callable[[Visit], Awaitable[Result]]

_STATIC = files("fastgpu_hub.service") / "static"
STYLESHEET = (_STATIC / "fastgpu.css").read_bytes()
SCRIPT = (_STATIC / "fastgpu.js").read_bytes()


async def stylesheet(_visit: Visit) -> bytes:
    """How pages look."""
    return STYLESHEET


async def script(_visit: Visit) -> bytes:
    """Lets countdowns tick; every page is complete without it."""
    return SCRIPT


VIEWS: dict[str, View] = {
    view.__name__: view
    for view in (
        *(mine.home_page, mine.redeem_promotion, runs.job_page, runs.whole_log, runs.cancel_own_job),
        *(mine.asks_page, mine.ask_for_more, mine.withdraw_own_ask, mine.answer_ask),
        *(mine.receipt_page, mine.refund_lease),
        *(classes.find_class, classes.class_page, classes.set_class_quota, classes.remove_class_quota),
        *(classes.give_member_credit, classes.answer_class_ask, classes.stop_class_job),
        *(promotions.promotion_form_page, promotions.promotion_page, promotions.preview_promotion),
        *(promotions.start_promotion, promotions.change_promotion, promotions.publish_draft),
        *(promotions.stop_promotion, promotions.restore_version),
        *(promotions.make_promotion_codes, promotions.promotion_codes_file),
        *(admin.admin_page, admin.set_list_price, admin.account_page, admin.give_credit),
        *(admin.set_any_quota, admin.remove_any_quota, admin.audit_page),
        *(stylesheet, script),
    )
}

# A refused form comes back on the page it is on.
PAGE_OF_FORM: dict[str, Callable[[Visit], Awaitable[Page]]] = {
    "redeem_promotion": mine.home_page,
    "cancel_own_job": runs.page_of_stop,
    **dict.fromkeys(("ask_for_more", "withdraw_own_ask", "answer_ask"), mine.asks_page),
    "refund_lease": mine.receipt_page,
    **dict.fromkeys(
        ("set_class_quota", "remove_class_quota", "give_member_credit", "answer_class_ask", "stop_class_job"),
        classes.class_page,
    ),
    **dict.fromkeys(
        (
            *("preview_promotion", "start_promotion", "change_promotion", "publish_draft", "stop_promotion"),
            *("restore_version", "make_promotion_codes"),
        ),
        promotions.form_again,
    ),
    **dict.fromkeys(("set_list_price", "give_credit", "set_any_quota", "remove_any_quota"), admin.admin_page),
}
