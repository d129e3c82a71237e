"""Promotions for those who make them: the form with its preview, codes, versions, and what can be done with each."""

from __future__ import annotations

from datetime import timedelta

from fastgpu import models as m
from fastgpu_hub.service.pages import forms, promotion_forms
from fastgpu_hub.service.pages.visit import Done, Download, Page, Visit, must
from fastgpu_hub.service.receipts import csv_text

CODES_SHOWN = 20
PREVIEW = timedelta(days=7)


async def promotion_form_page(visit: Visit) -> Page:
    """The form of a new promotion, for a class or as a copy of another one."""
    begins = visit.now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    klass = visit.form.get("class", "")
    defaults = {
        "kind": "percent",
        "starts_at": promotion_forms.local(begins, visit.time_zone),
        "ends_at": promotion_forms.local(begins + timedelta(days=7), visit.time_zone),
        **({f"for_class:{klass}": "on", "audience": f"class:{klass}"} if klass else {}),
    }
    if (copied := visit.form.get("copy", "")).isdigit():
        for source in must(await visit.broker.managed_promotions(visit.actor)):
            if source.id == int(copied[:18]):
                ends = begins + (source.ends_at - source.starts_at)
                times = (promotion_forms.local(moment, source.time_zone) for moment in (begins, ends))
                defaults = {**promotion_forms.fields(source), **dict(zip(("starts_at", "ends_at"), times, strict=True))}
    return Page("promotion_form.html", {"defaults": defaults, "promotion": None, "preview": None, "klass": klass})


async def promotion_page(visit: Visit) -> Page:
    """A promotion with its codes and versions."""
    versions = must(await visit.broker.promotion_versions(visit.actor, visit.number))
    codes = must(await visit.broker.promotion_codes(visit.actor, visit.number))
    promotion = versions[0]
    return Page(
        "promotion.html",
        {
            "promotion": promotion,
            "versions": versions,
            "codes": codes[-CODES_SHOWN:][::-1],
            "codes_made": len(codes),
            "codes_used": sum(1 for code in codes if code.uses),
            "defaults": promotion_forms.fields(promotion),
            "preview": None,
            "now_at": visit.now,
        },
    )


async def form_again(visit: Visit) -> Page:
    """The page that the sent form is on: that of the promotion it is about, or of a new one."""
    number = visit.path.get("number") or visit.form.get("number", "")
    if number.isascii() and number.isdigit() and len(number) < 18:
        return await promotion_page(_about(visit, number))
    return await promotion_form_page(visit)


def _about(visit: Visit, number: str) -> Visit:
    return Visit(visit.broker, visit.actor, visit.time_zone, {"number": number}, visit.form)


async def preview_promotion(visit: Visit) -> Page:
    """What last week would have cost, above the form as it was typed."""
    wanted = promotion_forms.promotion(visit.form, visit.time_zone)
    now = visit.now
    wish = m.PreviewSet(promotion=wanted.model_copy(update={"code": None}), since=now - PREVIEW, until=now)
    preview = must(await visit.broker.preview(visit.actor, wish))
    page = await form_again(visit)
    return Page(page.template, {**page.context, "preview": preview})


async def start_promotion(visit: Visit) -> Done:
    """Set up a promotion or save a draft of one."""
    wanted = promotion_forms.promotion(visit.form, visit.time_zone)
    made = must(await visit.broker.add_promotion(visit.actor, wanted, key=visit.key))
    done = "promotion-coded" if wanted.needs_code and wanted.code is None else "promotion-started"
    return Done(f"promotions/{made.id}", "promotion-drafted" if wanted.draft else done)


async def change_promotion(visit: Visit) -> Done:
    """Make a new version of a promotion."""
    wanted = promotion_forms.promotion(visit.form, visit.time_zone)
    must(await visit.broker.edit_promotion(visit.actor, visit.number, wanted, key=visit.key))
    return _back(visit, "promotion-drafted" if wanted.draft else "promotion-edited")


async def publish_draft(visit: Visit) -> Done:
    """Make a draft count."""
    must(await visit.broker.publish_promotion(visit.actor, visit.number, key=visit.key))
    return _back(visit, "promotion-published")


async def stop_promotion(visit: Visit) -> Done:
    """End a promotion now."""
    must(await visit.broker.end_promotion(visit.actor, visit.number, key=visit.key))
    return _back(visit, "promotion-ended")


async def restore_version(visit: Visit) -> Done:
    """Make an earlier version count again."""
    version = forms.whole(visit.form, "version", "the version")
    must(await visit.broker.restore_promotion(visit.actor, visit.number, version, key=visit.key))
    return _back(visit, "promotion-restored")


async def make_promotion_codes(visit: Visit) -> Done:
    """Make random codes."""
    data = {
        "count": forms.whole(visit.form, "count", "the number of codes"),
        "max_uses": forms.whole(visit.form, "max_uses", "the uses of each code")
        if forms.given(visit.form, "max_uses")
        else None,
    }
    labels = {"count": ("count", "the number of codes"), "max_uses": ("max_uses", "the uses of each code")}
    wanted = forms.checked(m.CodesSet, data, labels)
    must(await visit.broker.make_codes(visit.actor, visit.number, wanted, key=visit.key))
    return _back(visit, "codes-made")


async def promotion_codes_file(visit: Visit) -> Download:
    """All codes of a promotion, as CSV."""
    codes = must(await visit.broker.promotion_codes(visit.actor, visit.number))
    rows = ((code.code, code.max_uses, code.uses, code.created_at.isoformat()) for code in codes)
    return Download(f"codes-{visit.number}.csv", csv_text(("code", "max_uses", "uses", "created_at"), rows))


def _back(visit: Visit, done: str) -> Done:
    return Done(f"promotions/{visit.number}", done)
