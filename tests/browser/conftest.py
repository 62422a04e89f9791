"""What the tests with a browser share: one Chromium per process of pytest, and a server of pages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser.chromium import Chromium, Page
from tests.browser.pages import serving_pages


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    """Started once; afterwards nothing of it may be left."""
    browser = Chromium()
    try:
        yield browser
    finally:
        browser.close()
    assert browser.left_over() == [], "processes of the browser are left"


@pytest.fixture(scope="session")
def origin() -> Iterator[str]:
    """Where pages come from: ``http://127.0.0.1:PORT``."""
    with serving_pages() as url:
        yield url


@pytest.fixture(scope="module")
def page(chromium: Chromium, origin: str) -> Iterator[Page]:
    """An empty page, for all tests of a module. Errors that nobody catches in it are failures."""
    page = chromium.open(f"{origin}/")
    yield page
    uncaught = [line["text"] for line in page.close() if line["type"] == "pageerror"]
    assert uncaught == [], "errors that nobody caught in the page"
