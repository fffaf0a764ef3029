"""The site: built without a warning, whole without a network, and used in a real browser, narrow and wide, light and dark."""

from __future__ import annotations

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
from html.parser import HTMLParser
from urllib.parse import unquote, urldefrag, urlparse

import pytest

from tests.browser import browser, needs_browser, until
from tests.prose import ROOT


pytest.importorskip("mkdocs")
pytestmark = pytest.mark.slow

NAMES = sorted(path.stem for path in (ROOT / "docs").glob("*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site's folder. A warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr[-3000:]
    return folder


# ---- the files ------------------------------------------------------------------------------------------------------


class Links(HTMLParser):
    """What a page loads, where it leads, and its anchors."""

    def __init__(self, text: str):
        super().__init__()
        self.loaded: list[str] = []
        self.leads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.anchors.update(found[key] for key in ("id", "name") if found.get(key))
        if tag == "a" and found.get("href"):
            self.leads.append(found["href"])
        elif tag == "link" and found.get("rel") not in ("canonical", "prev", "next"):
            self.loaded.append(found.get("href", ""))
        elif found.get("src"):
            self.loaded.append(found["src"])


@pytest.fixture(scope="module")
def links(site):
    """File -> its links, of every page."""
    return {path: Links(path.read_text()) for path in site.rglob("*.html")}


def test_no_page_loads_anything_from_a_network(site, links):
    asked = {(path.name, url) for path, page in links.items() for url in page.loaded if urlparse(url).netloc}
    assert not asked
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import )[\"']?(https?:)?//", style.read_text()), style


def test_every_link_inside_of_the_site_leads_somewhere(site, links):
    broken = []
    for path, page in links.items():
        for url in page.leads + page.loaded:
            target, anchor = urldefrag(url)
            if urlparse(url).scheme or target.startswith("/") or path.name == "404.html":
                continue
            file = (path.parent / unquote(target)).resolve() if target else path
            if not file.exists():
                broken.append((str(path.relative_to(site)), url))
            elif anchor and file in links and anchor not in ("__codelineno", "") and "codelineno" not in anchor:
                if unquote(anchor) not in links[file].anchors:
                    broken.append((str(path.relative_to(site)), url))
    assert not broken


# ---- in a browser ---------------------------------------------------------------------------------------------------


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def address(site):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    pytest.importorskip("selenium")
    with browser(tmp_path_factory.mktemp("browser")) as driver:
        yield driver


def look_at(driver, url: str, width: int, scheme: str) -> None:
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    driver.get(url)


def errors(driver) -> list[str]:
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


@needs_browser
@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_fits_and_has_no_error(driver, address, width, scheme):
    faults = []
    for name in NAMES:
        look_at(driver, f"{address}/{name}.html", width, scheme)
        until(lambda: driver.execute_script("return document.readyState") == "complete")
        faults += [(name, message) for message in errors(driver)]
        wide = driver.execute_script("return document.documentElement.scrollWidth")
        if wide > width + 1:
            faults.append((name, f"{wide} pixels wide"))
        shown = driver.execute_script("return document.body.getAttribute('data-md-color-scheme')")
        if shown != {"light": "default", "dark": "slate"}[scheme]:
            faults.append((name, shown))
        loaded = driver.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
        faults += [(name, url) for url in loaded if not url.startswith((address, "data:", "blob:"))]
        pictures = "return [...document.images].filter(image => image.complete && !image.naturalWidth).map(i => i.src)"
        faults += [(name, picture) for picture in driver.execute_script(pictures)]
    assert not faults


@needs_browser
@pytest.mark.parametrize("width", [400, 1400])
def test_navigation_leads_to_the_page_on_failed_runs(driver, address, width):
    look_at(driver, f"{address}/index.html", width, "light")
    if width < 1000:  # the menu is in a drawer, the section one level down
        driver.find_element("css selector", "label[for='__drawer'].md-header__button").click()
    nav = until(
        lambda: (
            [
                link
                for link in driver.find_elements("css selector", ".md-nav--primary a")
                if link.is_displayed() and link.text.strip() == "My run failed"
            ]
            or _open_sections(driver)
        )
    )
    nav[0].click()
    until(lambda: driver.current_url.endswith("/my_run_failed.html"))
    assert driver.find_element("tag name", "h1").text.startswith("My run failed")
    assert not errors(driver)


def _open_sections(driver) -> None:
    """In the narrow menu: go into its first section."""
    for label in driver.find_elements("css selector", ".md-nav--primary .md-nav__item--nested > label.md-nav__link"):
        if label.is_displayed():
            label.click()
            return


@needs_browser
@pytest.mark.parametrize(
    ("words", "page"),
    [("majority class", "verdicts.html"), ("rescue", "my_run_failed.html"), ("resume", "run_a_study.html")],
)
def test_search_finds_a_page_and_goes_there(driver, address, words, page):
    look_at(driver, f"{address}/index.html", 1400, "light")
    field = until(lambda: driver.find_elements("css selector", "input.md-search__input"))[0]
    until(field.is_displayed)
    field.click()
    field.send_keys(words)
    # Found and clicked in one go: the list of results is drawn anew with each letter.
    click = "const link = document.querySelector(`.md-search-result__link[href*='/${arguments[0]}']`); link?.click(); return !!link"
    until(lambda: driver.execute_script(click, page))
    until(lambda: f"/{page}" in driver.current_url)
    assert not errors(driver)


@needs_browser
def test_the_button_changes_the_colours(driver, address):
    look_at(driver, f"{address}/index.html", 1400, "light")
    labels = "form[data-md-component='palette'] label"
    for scheme in ("default", "slate"):  # from the system's colours to light, then to dark
        button = until(
            lambda: [label for label in driver.find_elements("css selector", labels) if label.is_displayed()]
        )
        button[0].click()
        until(lambda: driver.execute_script("return document.body.getAttribute('data-md-color-scheme')") == scheme)  # noqa: B023
    driver.execute_script("localStorage.clear()")


def test_the_api_page_has_every_public_name():
    import hf_stability

    page = (ROOT / "docs" / "api.md").read_text()
    missing = [name for name in hf_stability.__all__ if name != "__version__" and f".{name}\n" not in page]
    assert not missing
