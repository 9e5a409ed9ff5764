"""A headless Chromium for tests of a page, with what it fetched and complained about.

Without Chromium and its driver the tests that need one are skipped; with
CONVC_REQUIRE_BROWSER=1 they fail.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

SCHEMES = ("light", "dark")
LAPTOP = (1366, 768)

_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """A browser on a laptop's screen, with a profile of its own."""
    browser, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    missing = not browser or not driver
    if missing and os.environ.get("CONVC_REQUIRE_BROWSER") != "1":
        pytest.skip("needs chromium and chromedriver")
    assert not missing, "CONVC_REQUIRE_BROWSER=1, but there is no chromium or driver"
    webdriver = pytest.importorskip("selenium.webdriver")
    service = pytest.importorskip("selenium.webdriver.chrome.service")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for option in (*_OPTIONS, f"--user-data-dir={profile}"):
        options.add_argument(option)
    options.set_capability(
        "goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"}
    )
    found = webdriver.Chrome(options=options, service=service.Service(driver))
    try:
        resize(found, *LAPTOP)
        yield found
    finally:
        found.quit()


def resize(browser: Any, width: int, height: int) -> None:
    """Give the page exactly so many pixels."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def prefer(browser: Any, scheme: str) -> None:
    """Prefer the light or the dark colours."""
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def complaints(browser: Any) -> list[str]:
    """What the console has said since the last call."""
    return [entry["message"] for entry in browser.get_log("browser")]


def requests(browser: Any) -> list[str]:
    """The addresses that were asked for since the last call."""
    entries = browser.get_log("performance")
    messages = (json.loads(entry["message"])["message"] for entry in entries)
    return [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
