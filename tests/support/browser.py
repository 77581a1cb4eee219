"""Chromium of the system, driven by Playwright, with what its console says."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright

from tests.support.services.base import Services

#: Longest wait for what a page should show. Other processes use the same cores.
SHOWN_MS = 20_000


def find_chromium(services: Services) -> str:
    """Return the path of Chromium. Without one: skip the test; on real servers, fail."""
    chromium = shutil.which("chromium")
    if chromium is None:
        assert services.kind != "real", (
            "chromium is not installed (on Debian: apt install chromium)"
        )
        pytest.skip("needs chromium")
    return chromium


@asynccontextmanager
async def open_browser(chromium: str) -> AsyncIterator[Browser]:
    """Yield a browser for which every name but 127.0.0.1 fails to resolve."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium,
            args=["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
        )
        try:
            yield browser
        finally:
            await browser.close()


class Console:
    """Errors of a page: those of its scripts, of its security policy, and of its requests."""

    def __init__(self, page: Page) -> None:
        self.errors: list[str] = []
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _note(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def take(self) -> list[str]:
        """Return the errors since the last call."""
        taken, self.errors = self.errors, []
        return taken


@asynccontextmanager
async def open_page(
    browser: Browser, url: str, **options: Any
) -> AsyncIterator[tuple[Page, Console]]:
    """Yield a page in a tab and profile of its own; `options` are those of the context."""
    context = await browser.new_context(locale="en-GB", **options)
    context.set_default_timeout(SHOWN_MS)
    page = await context.new_page()
    console = Console(page)
    await page.goto(url)
    yield page, console
    await context.close()
