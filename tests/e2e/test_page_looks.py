"""The page `/` for everybody: any width, any text, by keyboard, and with assistive technology."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, expect

from store.settings import Settings
from tests.support.browser import SHOWN_MS, find_chromium, open_browser, open_page
from tests.support.page_scene import PageScene, open_page_scene
from tests.support.services.base import Services

pytestmark = pytest.mark.anyio
expect.set_options(timeout=SHOWN_MS)

HOSTILE = {
    "off_long": "Extraordinarily" + "long" * 28 + "!",
    "off_words": ("many words " * 12)[:128],
    "off_rtl": "بطاقة الائتمان الذهبية (2026)",
    "off_html": "<img src=x onerror=alert(1)><script>alert(2)</script>",
    "off_override": "\u202eevil\u2066 card",
    "x" * 128: "",
}
WIDTHS = (360, 768, 1280, 2560)


@pytest.fixture
async def browser(services: Services) -> AsyncIterator[Browser]:
    async with open_browser(find_chromium(services)) as opened:
        yield opened


@pytest.fixture
async def scene(browser: Browser, settings: Settings, tmp_path: Path) -> AsyncIterator[PageScene]:
    async with open_page_scene(settings, tmp_path) as opened:
        yield opened


async def has_no_violation(page: Page, where: str) -> None:
    """Run all rules of axe, and its best practices too."""
    found: list[dict[str, Any]] = (await Axe().run(page)).response["violations"]
    assert [(v["id"], v["nodes"][0]["html"][:200]) for v in found] == [], where


async def fits_the_window(page: Page) -> None:
    """Check that only frames of tables scroll sideways, and nothing is outside of the page."""
    wide = await page.evaluate(
        """() => {
          const width = document.documentElement.clientWidth;
          const inFrame = (e) => e.closest('.scroll:not(.fits), .unseen, .skip');
          const beyond = [...document.querySelectorAll('body *')].filter(
            (e) => !inFrame(e) && e.getBoundingClientRect().right > width + 1);
          return [document.documentElement.scrollWidth > width,
                  beyond.map((e) => e.outerHTML.slice(0, 120))];
        }"""
    )
    assert wide == [False, []]


@pytest.mark.long
async def test_any_name_at_any_width(browser: Browser, scene: PageScene) -> None:
    await scene.commit({offer: {"impression": 3, "click": 1} for offer in HOSTILE})
    scene.import_names({offer: name for offer, name in HOSTILE.items() if name})
    async with open_page(browser, scene.url) as (page, console):
        page.on("dialog", lambda _: console.errors.append("a script of the data ran"))
        await expect(page.locator("#rows tr")).to_have_count(len(HOSTILE))
        texts = await page.locator("#rows .row-name bdi").all_text_contents()
        assert set(texts) == {name or offer for offer, name in HOSTILE.items()}
        await page.locator("#rows .row-name").first.click()
        for width in WIDTHS:
            await page.set_viewport_size({"width": width, "height": 900})
            await fits_the_window(page)
        assert console.take() == []


@pytest.mark.long
async def test_five_hundred_rows(browser: Browser, scene: PageScene) -> None:
    await scene.commit({f"off_{n:03}": {"impression": 1} for n in range(510)})
    async with open_page(browser, f"{scene.url}&limit=500") as (page, console):
        await expect(page.locator("#rows tr")).to_have_count(500)
        await expect(page.locator("#range")).to_have_text("1–500 of 510")
        for width in WIDTHS:
            await page.set_viewport_size({"width": width, "height": 900})
            await fits_the_window(page)
        # The head of the table stays in view.
        await page.locator("#rows tr").nth(400).scroll_into_view_if_needed()
        await expect(page.get_by_role("columnheader", name="Clicks")).to_be_in_viewport()
        assert console.take() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_no_rule_of_accessibility_is_broken(
    browser: Browser, scene: PageScene, scheme: Any
) -> None:
    async with open_page(browser, scene.url, color_scheme=scheme) as (page, console):
        await expect(page.locator("#empty")).to_be_visible()
        await has_no_violation(page, "no rows")
        await scene.commit({offer: {"impression": 3, "click": 1} for offer in HOSTILE})
        scene.import_names({offer: name for offer, name in HOSTILE.items() if name})
        await expect(page.locator("#rows tr")).to_have_count(len(HOSTILE))
        await page.locator("#rows .row-name").first.click()
        await page.locator("#detail summary").click()
        await page.evaluate(
            "for (const id of ['history-note', 'notice', 'problem']) {"
            " const shown = document.getElementById(id); shown.hidden = false;"
            " if (!shown.textContent.trim()) shown.textContent = 'No answer'; }"
        )
        await has_no_violation(page, "rows, a chart, and all notices")
        await page.set_viewport_size({"width": 360, "height": 800})
        await has_no_violation(page, "narrow")
        await page.evaluate("document.getElementById('key-dialog').showModal()")
        await has_no_violation(page, "the dialog")
        assert console.take() == []


async def test_everything_is_done_by_keyboard(browser: Browser, scene: PageScene) -> None:
    await scene.commit({"off_a": {"impression": 5}, "off_b": {"impression": 3, "click": 1}})
    async with open_page(browser, scene.url) as (page, console):
        await expect(page.locator("#rows tr")).to_have_count(2)
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="Skip to the table")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.locator("#table-frame")).to_be_focused()
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("button", name="Total")).to_be_focused()
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert await page.evaluate(outline) == "solid"
        for _column in range(6):
            await page.keyboard.press("Tab")
        first = page.locator("#rows .row-name").first
        await expect(first).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(first).to_have_attribute("aria-pressed", "true")

        group = page.get_by_role("radio", name="Actions")
        await group.focus()
        await page.keyboard.press("ArrowRight")
        await expect(page.get_by_role("radio", name="Treatments")).to_be_checked()
        await expect(page.locator("#caption")).to_contain_text("Treatments")
        assert console.take() == []


@pytest.mark.long
async def test_less_motion_where_the_reader_wants_less(browser: Browser, scene: PageScene) -> None:
    await scene.commit({"off_a": {"impression": 5}})
    moving = "document.getAnimations().length"
    async with open_page(browser, scene.url) as (page, _):
        await expect(page.locator("#live-text")).to_have_text("Live")
        assert await page.evaluate(moving) > 0
    async with open_page(browser, scene.url, reduced_motion="reduce") as (page, _):
        await expect(page.locator("#live-text")).to_have_text("Live")
        await scene.commit({"off_a": {"impression": 5}})
        await expect(page.locator("#rows td.total")).to_have_text("10")
        assert await page.evaluate(moving) == 0
