"""Picture of the page `/` for README.md.

While `make up` runs: `python -m tests.support.screenshot "http://127.0.0.1:8000/?id=off_001"
docs/page.png`. The address chooses what is shown; `--help` has the options.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys

from playwright.async_api import expect

from tests.support.browser import open_browser, open_page


async def take(url: str, path: str, *, width: int, height: int, dark: bool, full: bool) -> None:
    """Write the PNG once the numbers, the chart and the sparklines are shown."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("chromium is not installed (on Debian: apt install chromium)")
    scheme = "dark" if dark else "light"
    viewport = {"width": width, "height": height}
    async with (
        open_browser(chromium) as browser,
        open_page(
            browser, url, viewport=viewport, color_scheme=scheme, reduced_motion="reduce"
        ) as (page, _),
    ):
        await expect(page.locator("#rows tr").first).to_be_visible()
        await expect(page.locator("#rows tr:nth-child(-n+5) .spark")).to_have_count(5)
        await expect(page.locator("#chart svg")).to_be_visible()
        await page.screenshot(path=path, full_page=full)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("url")
    parser.add_argument("path")
    parser.add_argument("--width", type=int, default=1_360)
    parser.add_argument("--height", type=int, default=960)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--full", action="store_true", help="the whole page, not the window")
    chosen = parser.parse_args()
    asyncio.run(
        take(
            chosen.url,
            chosen.path,
            width=chosen.width,
            height=chosen.height,
            dark=chosen.dark,
            full=chosen.full,
        )
    )


if __name__ == "__main__":
    main()
