"""A real browser for pages; tests that ask for it are skipped where Chromium is not installed."""
import shutil

import pytest


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium, one for all tests of a module."""
    webdriver = pytest.importorskip("selenium.webdriver")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic",
                     "--no-first-run", "--disable-background-networking",
                     "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield found
    found.quit()


def show_at(browser, width, scheme="light"):
    """Give the page a width in CSS pixels and the light or dark colours."""
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [
        {"name": "prefers-color-scheme", "value": scheme}]})


def overflow(browser):
    """By how many pixels the page is wider than the window."""
    return browser.execute_script("const page = document.documentElement; "
                                  "return page.scrollWidth - page.clientWidth")
