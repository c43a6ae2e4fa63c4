"""A real browser for tests of pages: Debian's Chromium, without a window."""

import contextlib
import io
import shutil

import numpy as np
import pytest
from PIL import Image

_OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-dev-shm-usage "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--window-size=1280,1000 --force-device-scale-factor=1"
)


@contextlib.contextmanager
def chromium(profile):
    """A Selenium driver; skips where there is none to drive. `profile` is an empty folder."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    paths = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in paths:
        pytest.skip("no chromium and chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = paths[0]
    for option in [*_OPTIONS.split(), f"--user-data-dir={profile}"]:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(paths[1]))
    driver.set_script_timeout(60)
    try:
        yield driver
    finally:
        driver.quit()


@contextlib.contextmanager
def phone(driver):
    """A phone's window and touch screen, for what follows."""
    size = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    try:
        yield
    finally:
        driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@contextlib.contextmanager
def preferring(driver, **features):
    """What a user prefers, such as color_scheme="dark"."""
    emulated = [{"name": f"prefers-{k.replace('_', '-')}", "value": v} for k, v in features.items()]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": emulated})
    try:
        yield
    finally:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def pixels(element):
    """What is seen of an element: uint8 [H, W, 3]."""
    return np.asarray(Image.open(io.BytesIO(element.screenshot_as_png)).convert("RGB"))


def unnamed(driver):
    """Controls that a screen reader has no name for, by role."""
    nodes = driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    controls = {"slider", "radio", "combobox", "button", "link", "img", "image", "progressbar"}
    found = [n for n in nodes if n.get("role", {}).get("value") in controls and not n["ignored"]]
    assert found
    return [n["role"]["value"] for n in found if not n.get("name", {}).get("value", "").strip()]


def weakest_contrast(driver):
    """The lowest contrast of text with what is behind it, by WCAG 2.2's formula, 1 to 21."""
    pairs = driver.execute_script(
        """
        const seen = [...document.querySelectorAll("body *")].filter((e) =>
          e.checkVisibility() && e.tagName !== "SCRIPT" && e.tagName !== "OPTION"
          && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()));
        return seen.map((e) => {
          let behind = e;
          while (behind && getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") {
            behind = behind.parentElement;
          }
          return [getComputedStyle(e).color, getComputedStyle(behind).backgroundColor];
        });
        """
    )
    # What lies on pictures is not uniform: tags are dark enough by themselves.
    solid = {tuple(pair) for pair in pairs if not any("rgba" in color for color in pair)}
    assert solid
    return min(_contrast(*pair) for pair in solid)


def _contrast(*colors):
    lights = sorted(_luminance(color) for color in colors)
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def _luminance(color):
    levels = np.array([float(v) for v in color[4:-1].split(",")]) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])
