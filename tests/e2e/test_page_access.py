"""The page `/` with AUTH_MODE=keys: it asks for a key, keeps it, and explains refusals."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from store.api_keys import Role, make_key
from store.postgres.api_keys import create_key, revoke_key
from store.settings import Settings
from tests.support.browser import SHOWN_MS, find_chromium, open_browser, open_page
from tests.support.page_scene import PageScene, open_page_scene
from tests.support.services.base import Services

pytestmark = pytest.mark.anyio
expect.set_options(timeout=SHOWN_MS)

PEPPER = "p" * 64


@pytest.fixture
async def browser(services: Services) -> AsyncIterator[Browser]:
    async with open_browser(find_chromium(services)) as opened:
        yield opened


@pytest.fixture
async def scene(browser: Browser, settings: Settings, tmp_path: Path) -> AsyncIterator[PageScene]:
    async with open_page_scene(
        settings, tmp_path, AUTH_MODE="keys", API_KEY_PEPPER=PEPPER
    ) as opened:
        await opened.commit({"off_gold": {"impression": 3}})
        yield opened


async def new_key(
    scene: PageScene, role: Role = "viewer", limit: int | None = None
) -> tuple[str, str]:
    """Return the id and the key of a new API key of the tenant."""
    listed, key = await create_key(
        scene.pair.pool, "acme", role, name="", pepper=PEPPER, rate_limit_per_minute=limit
    )
    return listed.id, key


async def enter(page: Page, key: str) -> None:
    await page.get_by_label("The key of your tenant").fill(key)
    await page.keyboard.press("Enter")


async def test_it_asks_for_a_key_keeps_it_in_the_tab_and_asks_again_once_it_is_revoked(
    browser: Browser, scene: PageScene
) -> None:
    key_id, key = await new_key(scene)
    url = scene.url.partition("?")[0]
    async with open_page(browser, url) as (page, console):
        dialog, rows = page.get_by_role("dialog"), page.locator("#rows tr")
        await expect(dialog).to_be_visible()
        await expect(page.get_by_label("The key of your tenant")).to_be_focused()
        await expect(page.locator("#problem")).to_contain_text("An API key is needed")

        await page.keyboard.press("Escape")
        await expect(dialog).to_be_hidden()
        await page.get_by_role("button", name="Enter a key").click()
        await enter(page, "no spaces allowed")
        await expect(page.locator("#key-reason")).to_contain_text("only letters")
        await enter(page, make_key())
        await expect(page.locator("#key-reason")).to_contain_text("not valid, or revoked")
        await enter(page, key)
        await expect(dialog).to_be_hidden()
        await expect(rows).to_have_count(1)
        await expect(page.locator("#problem")).to_be_hidden()

        # It is in this tab only, and not in the address.
        assert key not in page.url
        assert await page.evaluate("Object.values({...localStorage})") == []
        assert await page.evaluate("document.cookie") == ""
        assert await page.evaluate("Object.values({...sessionStorage})") == [key]
        await page.reload()
        await expect(rows).to_have_count(1)
        other = await page.context.new_page()
        await other.goto(url)
        await expect(other.get_by_role("dialog")).to_be_visible()
        await other.close()

        assert all("status of 401" in error for error in console.take())
        await revoke_key(scene.pair.pool, key_id, "acme")
        await expect(dialog).to_be_visible()
        await expect(page.locator("#key-reason")).to_contain_text("not valid, or revoked")
        _, another = await new_key(scene)
        await enter(page, another)
        await expect(dialog).to_be_hidden()
        await page.get_by_role("button", name="Forget the key").click()
        await expect(dialog).to_be_visible()
        await expect(rows).to_have_count(0)
        assert await page.evaluate("sessionStorage.length") == 0


@pytest.mark.long
async def test_what_the_role_may_not_see_and_another_tenant_are_explained(
    browser: Browser, scene: PageScene
) -> None:
    _, viewer = await new_key(scene)
    _, admin = await new_key(scene, "admin")
    url = scene.url.partition("?")[0]
    async with open_page(browser, url) as (page, console):
        await enter(page, viewer)
        await expect(page.locator("#rows tr")).to_have_count(1)
        console.take()
        # Nothing is asked that a viewer may not see, until the panel is opened.
        await expect(page.locator("#worker-table")).to_be_hidden()
        await page.get_by_text("Workers", exact=True).click()
        await expect(page.locator("#workers-summary")).to_have_text(
            "Not shown: this needs the role admin; the API key has viewer."
        )
        assert len(console.take()) == 1  # the browser's own line about the status 403

        await page.goto(f"{url}?tenant=other")
        await expect(page.locator("#problem")).to_contain_text("is not the tenant of the API key")
        await expect(page.locator("#live-text")).to_have_text("Stopped")

        await page.goto(url)
        await page.get_by_role("button", name="Forget the key").click()
        await enter(page, admin)
        await page.get_by_text("Workers", exact=True).click()
        await expect(page.locator("#workers-summary")).to_have_text("No worker has reported yet.")


@pytest.mark.long
async def test_the_rate_limit_is_explained_and_kept(browser: Browser, scene: PageScene) -> None:
    _, key = await new_key(scene, limit=3)
    url = scene.url.partition("?")[0]
    async with open_page(browser, url) as (page, _):
        await page.clock.install()
        await page.goto(url)
        await page.clock.run_for(1_000)
        await enter(page, key)
        for _attempt in range(6):
            await page.clock.run_for(2_000)
        await expect(page.locator("#problem")).to_contain_text(
            "Too many requests with this API key"
        )
        await expect(page.locator("#problem")).to_contain_text("Next attempt in")
        asked: list[str] = []
        page.on("request", lambda r: asked.append(r.url) if "/api/" in r.url else None)
        await page.get_by_role("radio", name="31 days").check()
        await page.clock.run_for(500)
        assert asked == []
