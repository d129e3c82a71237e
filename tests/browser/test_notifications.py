"""News reaches a person in JupyterLab as notifications: in time, once, in every open tab, and not when muted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

TOAST = ".Toastify__toast"
SERVICE_TOKEN = "service-token-canary-5b1f"
ITEM = ".jp-FastGPU-status-text"
IN_TEN = "“lab” will be stopped in 10 minutes."
IN_TWO = "“lab” will be stopped in 2 minutes."
DETAILS = (
    "This may cost 0.25 credits but class:cs101 has only 0.10 credits left (of 100.00 credits 99.90 credits are spent)."
)


def wait_for_lab(page: Any) -> None:
    page.wait_for_selector("#jupyterlab-splash", state="detached", timeout=60_000)
    page.locator(ITEM).wait_for(state="visible", timeout=30_000)


def toasts(page: Any) -> list[str]:
    return [text for toast in page.locator(TOAST).all() if (text := toast.inner_text()) and "FastGPU" in text]


def toast(page: Any, text: str) -> Any:
    found = page.locator(TOAST, has_text=text)
    found.wait_for(state="visible", timeout=10_000)
    return found


@pytest.fixture
def heard(page: Any) -> list[str]:
    """Every message on the page's news socket, from the next reload on."""
    messages: list[str] = []

    def listen(socket: Any) -> None:
        if socket.url.endswith("/user/alice/fastgpu/api/events"):
            socket.on("framereceived", lambda message: messages.append(str(message)))

    page.on("websocket", listen)
    return messages


def test_an_end_is_announced_once_with_what_helps_and_the_last_call_stays(
    page: Any, heard: list[str], service: Any, tmp_path: Path
) -> None:
    wait_for_lab(page)
    page.wait_for_selector(".jp-LauncherCard")
    service.tell(1, f"{IN_TEN} {DETAILS}", 10, instead="Ask your teacher for more.")
    first = toast(page, IN_TEN)
    assert "Ask your teacher for more." in first.inner_text()
    assert "This may cost" not in first.inner_text()
    page.wait_for_timeout(700)  # it slides in
    page.screenshot(path=tmp_path / "notification-ending.png")
    first.get_by_role("button", name="More").click()
    assert DETAILS in toast(page, "This may cost").inner_text()
    page.wait_for_timeout(700)
    page.screenshot(path=tmp_path / "notification-details.png")

    service.tell(2, IN_TWO, 2, instead="Save your work.")
    last = toast(page, IN_TWO)
    page.locator(TOAST, has_text=IN_TEN).wait_for(state="detached")  # it would be untrue by now
    with page.context.expect_page() as opened:
        last.get_by_role("button", name="Open FastGPU").click()
    assert opened.value.url.endswith("/services/fastgpu/")
    opened.value.close()

    service.tell(3, "The price of “lab” changed.", kind="price_changed")
    toast(page, "The price of “lab” changed.")
    page.reload()
    wait_for_lab(page)
    while not heard:  # the socket stands, and brought again what there was
        page.wait_for_timeout(50)
    service.tell(4, "Your request was approved.", kind="answered")
    toast(page, "Your request was approved.")
    assert not [text for text in toasts(page) if "lab" in text]
    assert "will be stopped" in "".join(heard)
    assert SERVICE_TOKEN not in "".join(heard)


def test_two_tabs_share_one_stream_and_muting_leaves_only_ends(page: Any, service: Any) -> None:
    wait_for_lab(page)
    other = page.context.new_page()
    other.goto(page.url)
    wait_for_lab(other)
    service.tell(1, IN_TWO, 2)
    for tab in (page, other):
        toast(tab, IN_TWO)
    assert service.streams == 1
    other.close()

    settings = "window.jupyterapp.serviceManager.settings"
    page.evaluate(f"{settings}.save('fastgpu:notifications', JSON.stringify({{ mute: 'minor' }}))")
    page.reload()
    wait_for_lab(page)
    service.tell(2, "The price of “lab” changed.", kind="price_changed")
    service.tell(3, "“lab” was stopped.", kind="stopped")
    toast(page, "“lab” was stopped.")
    assert not [text for text in toasts(page) if "price" in text]
