"""The page `/` in a browser, on an API with stores: controls, live numbers, and history."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Locator, Page, Request, expect

from api.params import SORTED_GROUPS_MAX
from store.clock import system_clock_ms
from store.counters import PartitionProgress, Visible
from store.redis.owners import PartitionOwners
from store.settings import Settings
from tests.support.browser import SHOWN_MS, find_chromium, open_browser, open_page
from tests.support.page_scene import PATH, TENANT, PageScene, open_page_scene
from tests.support.services.base import Services

pytestmark = pytest.mark.anyio
expect.set_options(timeout=SHOWN_MS)

#: Offer -> outcome type -> number of interactions of today.
COUNTS = {
    "off_gold": {"impression": 40, "click": 4, "convert": 1},
    "off_save": {"impression": 20, "click": 10, "convert": 1},
    "off_loan": {"impression": 10, "click": 1, "convert": 3},
}
NAMES = {"off_gold": "Gold credit card", "off_save": "Savings plus", "off_loan": "Personal loan"}

#: When the page has asked for the list, by its clock, in `askedAt`.
RECORD_TIMES_OF_REQUESTS = f"""
    window.askedAt = [];
    const send = window.fetch;
    window.fetch = (url, ...rest) => {{
        if (url.includes("{PATH[1:]}?")) askedAt.push(Date.now());
        return send(url, ...rest);
    }};
"""


@pytest.fixture
async def browser(services: Services) -> AsyncIterator[Browser]:
    async with open_browser(find_chromium(services)) as opened:
        yield opened


@pytest.fixture
async def scene(browser: Browser, settings: Settings, tmp_path: Path) -> AsyncIterator[PageScene]:
    # The browser first: without one the test is skipped before stores are filled.
    async with open_page_scene(settings, tmp_path) as opened:
        yield opened


async def fill(scene: PageScene) -> None:
    await scene.commit(COUNTS)
    await scene.commit({"off_gold": {"impression": 5}}, days_ago=1)
    await scene.commit({"off_loan": {"impression": 60}}, days_ago=20)
    scene.import_names(NAMES)


def names(page: Page) -> Locator:
    return page.locator("#rows .row-name")


def column(page: Page, key: str) -> Locator:
    return page.locator(f"#rows td.{key}")


async def test_each_control_asks_the_api_and_shows_its_answer(
    browser: Browser, scene: PageScene
) -> None:
    await fill(scene)
    async with open_page(browser, scene.url) as (page, console):
        await expect(page.locator("#caption")).to_have_text("Actions, last 7 days, by total")
        await expect(names(page)).to_have_text(
            ["Gold credit card", "Savings plus", "Personal loan"]
        )
        await expect(column(page, "total")).to_have_text(["50", "31", "14"])
        await expect(column(page, "ctr")).to_have_text(
            ["8.89\u202f%", "50.00\u202f%", "10.00\u202f%"]
        )
        await expect(column(page, "cvr")).to_have_text(
            ["2.22\u202f%", "5.00\u202f%", "30.00\u202f%"]
        )

        for days, label, words in (
            (1, "Today", "today"),
            (31, "31 days", "last 31 days"),
            (32, "All time", "all time"),
            (7, "7 days", "last 7 days"),
        ):
            await page.get_by_role("radio", name=label, exact=True).check()
            await expect(page.locator("#caption")).to_have_text(f"Actions, {words}, by total")
            await shows_the_answer(page, scene, groupBy="action", days=days)
        for group_by in ("treatment", "channel", "customer", "action"):
            await page.get_by_role("radio", name=f"{group_by}s", exact=False).check()
            await expect(page.locator("#caption")).to_contain_text(f"{group_by.capitalize()}s, ")
            await shows_the_answer(page, scene, groupBy=group_by, days=7)

        # The address is enough for the same view.
        await page.get_by_role("radio", name="31 days").check()
        await page.get_by_role("radio", name="Channels").check()
        await expect(page).to_have_url(re.compile("groupBy=channel&days=31"))
        await page.reload()
        await expect(page.locator("#caption")).to_have_text("Channels, last 31 days, by total")
        await page.go_back()
        await expect(page.locator("#caption")).to_have_text("Actions, last 31 days, by total")
        assert console.take() == []


async def shows_the_answer(page: Page, scene: PageScene, **parameters: Any) -> None:
    """Check that the table has the rows of the API, in their order."""
    response = scene.api.get(PATH, params=parameters, headers={"X-Tenant-Id": TENANT})
    rows = response.json()["summary"]
    await expect(names(page)).to_have_text(
        [row.get("name") or row.get("id") or row["customerId"] for row in rows]
    )
    for key in ("total", "impression", "click", "dismiss", "accept", "convert"):
        await expect(column(page, key)).to_have_text([f"{row[key]:,}" for row in rows])
    headers = response.headers
    await expect(page.locator("#fact-source")).to_have_text("Counters")
    assert headers["X-Summary-Source"] == "materialized"
    await expect(page.locator("#fact-zone")).to_have_text(headers["X-Summary-Timezone"])
    assert headers["X-Summary-Timezone"] == scene.zone
    start = headers.get("X-Summary-Window-Start")
    if start is None:
        await expect(page.locator("#fact-window")).to_have_text("Everything since the first event")
    else:
        await expect(page.locator("#fact-window")).to_contain_text(str(int(start[-2:])))


@pytest.mark.long
async def test_a_click_on_a_column_sorts_all_rows(browser: Browser, scene: PageScene) -> None:
    await fill(scene)
    async with open_page(browser, scene.url) as (page, console):
        total = page.get_by_role("columnheader", name="Total")
        await expect(total).to_have_attribute("aria-sort", "descending")
        orders = {
            "Clicks": ["Savings plus", "Gold credit card", "Personal loan"],
            "Conversions": ["Personal loan", "Gold credit card", "Savings plus"],
            "CTR": ["Savings plus", "Personal loan", "Gold credit card"],
            "CVR": ["Personal loan", "Savings plus", "Gold credit card"],
            "Impressions": ["Gold credit card", "Savings plus", "Personal loan"],
        }
        for label, order in orders.items():
            header = page.get_by_role("columnheader", name=label)
            await header.get_by_role("button").click()
            await expect(header).to_have_attribute("aria-sort", "descending")
            await expect(total).not_to_have_attribute("aria-sort", "descending")
            await expect(names(page)).to_have_text(order)
        assert console.take() == []


@pytest.mark.long
async def test_too_many_groups_to_sort_is_a_message_and_the_rows_stay(
    browser: Browser, scene: PageScene
) -> None:
    await scene.commit({f"off_{n:04}": {"impression": 1} for n in range(SORTED_GROUPS_MAX + 1)})
    async with open_page(browser, scene.url) as (page, console):
        await expect(names(page)).to_have_count(25)
        await page.get_by_role("columnheader", name="CTR").get_by_role("button").click()
        notice = page.locator("#notice")
        await expect(notice).to_contain_text("Not sorted by CTR: ")
        await expect(notice).to_contain_text(str(SORTED_GROUPS_MAX))
        total = page.get_by_role("columnheader", name="Total")
        await expect(total).to_have_attribute("aria-sort", "descending")
        await expect(names(page)).to_have_count(25)
        await expect(page.locator("#live-text")).to_have_text("Live")
        await notice.get_by_role("button", name="Close").click()
        await expect(notice).to_be_hidden()

        # From a grouping with few groups, which can be sorted.
        await page.get_by_role("radio", name="Channels").check()
        ctr = page.get_by_role("columnheader", name="CTR")
        await ctr.get_by_role("button").click()
        await expect(ctr).to_have_attribute("aria-sort", "descending")
        await page.get_by_role("radio", name="Actions").check()
        await expect(notice).to_contain_text("Not sorted by CTR: ")
        await expect(total).to_have_attribute("aria-sort", "descending")
        await expect(names(page)).to_have_count(25)
        assert all("status of 400" in error for error in console.take())


@pytest.mark.long
async def test_pages_of_rows(browser: Browser, scene: PageScene) -> None:
    offers = [f"off_{number:03}" for number in range(60)]
    await scene.commit({offer: {"impression": 60 - i} for i, offer in enumerate(offers)})
    async with open_page(browser, scene.url) as (page, console):
        shown, before, after = (page.locator(f"#{id_}") for id_ in ("range", "previous", "next"))
        await expect(shown).to_have_text("1–25 of 60")
        await expect(names(page)).to_have_text(offers[:25])
        await expect(before).to_have_attribute("aria-disabled", "true")
        await after.click()
        await after.click()
        await expect(shown).to_have_text("51–60 of 60")
        await expect(names(page)).to_have_text(offers[50:])
        await expect(after).to_have_attribute("aria-disabled", "true")
        await after.click(force=True)  # nothing comes after the last page
        await before.click()
        await expect(shown).to_have_text("26–50 of 60")
        await page.get_by_label("Rows", exact=True).select_option("100")
        await expect(names(page)).to_have_text(offers)
        # An address beyond the last page leads to the last page.
        await page.goto(f"{scene.url}&offset=5000")
        await expect(shown).to_have_text("51–60 of 60")
        assert console.take() == []


async def test_new_events_and_new_names_appear_without_a_reload(
    browser: Browser, scene: PageScene
) -> None:
    await fill(scene)
    async with open_page(browser, scene.url) as (page, console):
        await expect(names(page).first).to_have_text("Gold credit card")
        await page.evaluate("window.notReloaded = true")
        await names(page).nth(2).focus()
        await scene.commit({"off_loan": {"impression": 30}})
        scene.import_names({"off_loan": "Green loan"})
        await expect(names(page).nth(1)).to_have_text("Green loan")
        await expect(column(page, "total")).to_have_text(["50", "44", "31"])
        # The row has moved, and the focus with it.
        await expect(names(page).nth(1)).to_be_focused()
        assert await page.evaluate("window.notReloaded")
        assert console.take() == []


async def test_without_interactions_the_page_says_so(browser: Browser, scene: PageScene) -> None:
    async with open_page(browser, scene.url) as (page, console):
        await expect(page.locator("#empty")).to_be_visible()
        await expect(page.locator("#table-frame")).to_be_hidden()
        await scene.commit({"off_first": {"impression": 1}})
        await expect(names(page)).to_have_text(["off_first"])
        await expect(page.locator("#empty")).to_be_hidden()
        assert console.take() == []


async def test_history_answers_while_redis_is_stopped_and_the_page_says_what_that_means(
    browser: Browser, scene: PageScene, services: Services
) -> None:
    await fill(scene)
    async with open_page(browser, scene.url) as (page, console):
        await expect(page.locator("#fact-source")).to_have_text("Counters")
        await expect(page.locator("#history-note")).to_be_hidden()
        services.redis.stop()
        await expect(page.locator("#fact-source")).to_have_text("History")
        await expect(page.locator("#history-note")).to_be_visible()
        await expect(page.locator("#fact-lag")).to_have_text("Not known")
        await expect(column(page, "total")).to_have_text(["50", "31", "14"])
        await expect(page.locator("#announcement")).to_have_text("History answers now.")
        # The workers report in Redis, so nothing is known of them: the only errors in the console.
        await page.get_by_text("Workers", exact=True).click()
        await expect(page.locator("#workers-summary")).to_contain_text("Redis cannot answer now")
        assert all("status of 503" in error for error in console.take())


@pytest.mark.long
async def test_a_row_shows_its_days_beside_the_days_before(
    browser: Browser, scene: PageScene
) -> None:
    await fill(scene)
    await scene.commit({"off_gold": {"impression": 8, "click": 2}}, days_ago=8)
    async with open_page(browser, scene.url) as (page, console):
        detail, figures = page.locator("#detail"), page.locator("#figures .value")
        await expect(detail.get_by_role("heading")).to_have_text("All interactions")
        await expect(figures.first).to_have_text("95")
        await expect(page.locator("#rows .spark")).to_have_count(3)
        chart = detail.get_by_role("img")
        await expect(chart).to_have_attribute("aria-label", re.compile("Interactions per day"))

        row = page.get_by_role("button", name="Gold credit card")
        await row.click()
        await expect(row).to_have_attribute("aria-pressed", "true")
        await expect(detail.get_by_role("heading")).to_have_text("Gold credit card")
        await expect(figures.first).to_have_text("50")
        await expect(page.locator("#figures .change").first).to_have_text("+400\u202f%, before 10")
        await page.get_by_label("Per day", exact=True).select_option("Clicks")
        await expect(chart).to_have_attribute("aria-label", re.compile("Clicks per day"))
        await detail.get_by_text("The days as a table").click()
        days = detail.locator("#numbers tr")
        await expect(days).to_have_count(7)
        await expect(days.first.locator("td")).to_have_text(
            ["45", "40", "4", "1", "10.00\u202f%", "2.50\u202f%", "0"]
        )
        await expect(days.nth(1).locator("td").last).to_have_text("2")
        await expect(page).to_have_url(re.compile("id=off_gold"))
        await page.reload()
        await expect(detail.get_by_role("heading")).to_have_text("Gold credit card")
        await page.get_by_role("button", name="Show all").click()
        await expect(detail.get_by_role("heading")).to_have_text("All interactions")
        assert console.take() == []


@pytest.mark.long
async def test_sparklines_are_asked_for_a_few_rows_and_kept(
    browser: Browser, scene: PageScene
) -> None:
    await scene.commit({f"off_{n:03}": {"impression": 40 - n} for n in range(40)})
    async with open_page(browser, f"{scene.url}&limit=100") as (page, console):
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        await expect(page.locator("#rows .spark")).to_have_count(25)
        await page.get_by_role("radio", name="Channels").check()
        await page.get_by_role("radio", name="Actions").check()
        await expect(page.locator("#rows .spark")).to_have_count(25)
        of_rows = [url for url in asked if "/trend?" in url and "id=off_" in url]
        assert len(of_rows) == len(set(of_rows)) <= 25
        assert console.take() == []


@pytest.mark.long
async def test_the_page_asks_with_the_etag_and_not_while_it_is_hidden_or_paused(
    browser: Browser, scene: PageScene
) -> None:
    await fill(scene)
    async with open_page(browser, "about:blank") as (page, console):
        await page.clock.install()
        asked: list[Request] = []
        page.on("request", lambda r: asked.append(r) if f"{PATH}?" in r.url else None)
        await page.goto(scene.url)
        await page.clock.run_for(1_000)
        await expect(names(page)).to_have_count(3)
        assert "if-none-match" not in await asked[0].all_headers()

        async with page.expect_response(lambda r: f"{PATH}?" in r.url) as answered:
            await page.clock.run_for(2_500)
        answer = await answered.value
        assert answer.status == 304
        assert (await asked[1].all_headers())["if-none-match"].startswith('"')

        await page.evaluate(
            "Object.defineProperty(document, 'hidden', {get: () => true, configurable: true});"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
        asked.clear()
        await page.clock.run_for(120_000)
        assert asked == []
        async with page.expect_response(lambda r: f"{PATH}?" in r.url):
            await page.evaluate(
                "delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))"
            )
            await page.clock.run_for(100)

        await page.get_by_role("button", name="Pause").click()
        await expect(page.locator("#live-text")).to_have_text("Paused")
        asked.clear()
        await page.clock.run_for(120_000)
        assert asked == []
        async with page.expect_response(lambda r: f"{PATH}?" in r.url):
            await page.get_by_role("button", name="Resume").click()
            await page.clock.run_for(100)
        assert console.take() == []


@pytest.mark.long
async def test_an_api_that_is_gone_is_asked_less_often_and_found_again(
    browser: Browser, scene: PageScene
) -> None:
    await fill(scene)
    async with open_page(browser, "about:blank") as (page, _):
        await page.clock.install()
        await page.add_init_script(RECORD_TIMES_OF_REQUESTS)
        await page.goto(scene.url)
        await page.clock.run_for(1_000)
        await expect(names(page)).to_have_count(3)
        await page.context.set_offline(True)
        before = len(await page.evaluate("askedAt"))
        # In small steps: a request of the page must not reach its limit of 15 s by this clock.
        while len(asked_at := await page.evaluate("askedAt")) < before + 4:
            await page.clock.run_for(250)
        await expect(page.locator("#problem")).to_contain_text("No answer")
        waits_s = [(b - a) / 1_000 for a, b in pairwise(asked_at[before:])]
        assert all(at_least <= s for at_least, s in zip((4, 8, 16), waits_s, strict=True))
        await expect(names(page)).to_have_count(3)
        await page.context.set_offline(False)
        while await page.locator("#problem").is_visible():
            await page.clock.run_for(250)
        await expect(page.locator("#live-text")).to_have_text("Live")


@pytest.mark.long
async def test_the_workers_are_shown(browser: Browser, scene: PageScene) -> None:
    await fill(scene)
    reports = scene.pair.counters.reports
    now_ms = system_clock_ms()
    await reports.report_progress(
        [
            PartitionProgress("topic-1", 0, 90, 100, now_ms + 60_000, Visible(9, 80, 99), 12.5),
            PartitionProgress("topic-1", 1, 70, 70, now_ms - 60_000, None, 3.0),
        ]
    )
    owners = PartitionOwners(scene.pair.client, scene.settings.redis_prefix)
    await owners.claim("topic-1", [0], "host-a:7:x")
    await owners.claim("topic-1", [1], "host-b:8:y")
    async with open_page(browser, scene.url) as (page, console):
        await expect(page.locator("#fact-rate")).to_have_text("12.5 events/s")
        await expect(page.locator("#fact-fresh")).to_have_text("80 ms")
        await expect(page.locator("#worker-table")).to_be_hidden()
        await page.get_by_text("Workers", exact=True).click()
        await expect(page.locator("#workers-summary")).to_have_text(
            "1 worker · 12.5 events/s · lag not known"
        )
        cells = page.locator("#worker-rows tr").nth(0).locator("th, td")
        await expect(cells).to_have_text(["host-a:7", "counting", "0", "12.5", "10", "0 ms ago"])
        cells = page.locator("#worker-rows tr").nth(1).locator("th, td")
        await expect(cells).to_have_text(
            ["host-b:8", "no report", "1", "–", "–", re.compile(r"^6\d s ago$")]
        )
        assert console.take() == []


async def test_the_parts_that_compute(browser: Browser, scene: PageScene) -> None:
    """Pure functions of the scripts, called in the browser."""
    async with open_page(browser, scene.url) as (page, _):

        async def call(module: str, expression: str) -> Any:
            return await page.evaluate(
                f"import('/page/{module}.js').then((module) => {expression})"
            )

        default = {
            "groupBy": "action", "days": 7, "sort": "total", "limit": 25, "offset": 0,
            "tenant": None, "id": None,
        }  # fmt: skip
        assert await call("state", "module.parseState('')") == default
        wrong = "?groupBy=constructor&days=8&sort=name&limit=7&offset=-1&tenant=%20&id="
        assert await call("state", f"module.parseState('{wrong}')") == default
        kept = "?groupBy=customer&days=31&sort=ctr&limit=500&offset=1000&tenant=acme&id=%3Cb%3E"
        back = f"module.formatState(module.parseState('{kept}'))"
        assert await call("state", back) == kept
        assert await call("state", "module.formatState(module.parseState(''))") == ""

        steps = "[[1, 1], [4, 1], [5, 1], [9, 1], [95, 1], [1e6, 1], [0, 1], [0.3, 0.1]]"
        nice = f"{steps}.map(([max, least]) => module.niceStep(max, 4, least))"
        assert await call("chart", nice) == [1, 1, 2, 5, 50, 500_000, 1, 0.1]

        waits = await call("poller", "[1, 2, 3, 9].map((n) => module.backoff(2000, n, 0))")
        assert [4_000 <= waits[0] <= 5_000, 8_000 <= waits[1] <= 10_000] == [True, True]
        assert [16_000 <= waits[2] <= 20_000, 60_000 <= waits[3] <= 75_000] == [True, True]
        assert await call("poller", "module.backoff(2000, 1, 90000)") >= 90_000

        day = "{impression: 4, click: 1, dismiss: 0, accept: 0, convert: 2, total: 7}"
        compared = f"module.comparisonOf(7, {{points: [{day}, {day}], previous: []}})"
        found = await call("detail", compared)
        assert (found["now"]["total"], found["now"]["ctr"], found["now"]["cvr"]) == (14, 25, 50)
        assert (found["before"]["total"], found["before"]["ctr"]) == (0, 0)
