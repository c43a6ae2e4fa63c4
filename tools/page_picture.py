"""Makes the README's picture of the local page, with a photograph that was restored on it.

    python tools/page_picture.py

Needs the extras serve and test, Chromium and its driver. The photograph is scikit-image's
`astronaut` (NASA, public domain), saved at quality 20.
"""

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dmcnn_jax.cli.exit_signals import exit_on_signals

if __name__ == "__main__":
    exit_on_signals("page_picture: interrupted")  # imports take seconds

from PIL import Image

from dmcnn_jax.cli.interrupts import run_main
from dmcnn_jax.cli.process import command_parser
from dmcnn_jax.system.atomic_write import write_file

_BROWSER = "--headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1120,1040"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script and returns its exit status."""
    parser = command_parser(None, __doc__)
    parser.add_argument("-o", "--output", default="docs/page.png", help="default: %(default)s")
    options = parser.parse_args(argv)
    return run_main("page_picture", lambda: _write_picture(options), argv)


def _write_picture(options: argparse.Namespace) -> None:
    """Serves the page, restores a photograph on it, and writes what is seen."""
    import skimage.data

    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "photo.jpg"
        Image.fromarray(skimage.data.astronaut()).save(photo, quality=20)
        code = "import sys; from dmcnn_jax.cli.restore import main; sys.exit(main())"
        command = [sys.executable, "-u", "-c", code, "--serve"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            address = next(word for word in server.stdout.readline().split() if "http" in word)
            picture = _photograph_page(address, photo, Path(folder) / "profile")
        finally:
            server.terminate()
            server.wait()
    content = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as image:
        image.convert("RGB").quantize(256).save(content, "PNG", optimize=True)
    write_file(Path(options.output), content.getvalue())
    print(options.output)


def _photograph_page(address: str, photo: Path, profile: Path) -> bytes:
    """Returns a PNG file of the page after it has restored a photograph."""
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.expected_conditions import visibility_of_element_located
    from selenium.webdriver.support.wait import WebDriverWait

    browser = webdriver.ChromeOptions()
    browser.binary_location = shutil.which("chromium") or ""
    for option in [*_BROWSER.split(), f"--user-data-dir={profile}"]:
        browser.add_argument(option)
    driver = webdriver.Chrome(browser, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        driver.get(address)
        wait = WebDriverWait(driver, 300)
        done = visibility_of_element_located((By.CSS_SELECTOR, ".picture .download"))
        # The first time, programs are compiled.
        driver.find_element(By.ID, "file").send_keys(str(photo))
        wait.until(done)
        driver.find_element(By.CSS_SELECTOR, ".picture .remove").click()
        driver.find_element(By.ID, "file").send_keys(str(photo))
        wait.until(done)
        if not driver.find_element(By.CSS_SELECTOR, ".picture .comparison").is_displayed():
            driver.find_element(By.CSS_SELECTOR, ".picture .compare").click()
        picture: bytes = driver.get_screenshot_as_png()
        return picture
    finally:
        driver.quit()


if __name__ == "__main__":
    sys.exit(main())
