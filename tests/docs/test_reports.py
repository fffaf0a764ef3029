"""The committed example reports are whole: their sections, a verdict with n, nothing of this machine and nothing of a network."""

from __future__ import annotations

import html
import re

import pytest

from tests.browser import browser, needs_browser
from tests.prose import ROOT
from tests.study.report.page.test_page import Page, look_at


PAGES = {path.stem: path for path in sorted((ROOT / "docs" / "reports").glob("*.html"))}
SECTIONS = {
    "demo": {"recipes", "figures", "pairs", "agreement", "left_out", "settings", "runs"},
    "recipes_demo_cola": {"recipes", "figures", "pairs", "left_out", "runs"},
    "recipes_demo_pair": {"recipes", "figures", "pairs", "left_out", "runs"},
    "trainer": {"recipes", "figures", "left_out", "runs"},
}
RUNS = {"demo": 12, "recipes_demo_cola": 280, "recipes_demo_pair": 280, "trainer": 5}
LARGEST = 1_000_000  # bytes


def test_each_page_is_known_and_linked():
    assert set(PAGES) == set(SECTIONS)
    text = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    assert all(f"](reports/{name}.html)" in text for name in PAGES)


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_page_is_whole(name):
    text = PAGES[name].read_text(encoding="utf-8")
    found = Page(text)
    sections = set(re.findall(r'<section(?: class="verdict")? id="(\w+)">', text))
    assert sections == SECTIONS[name] | {"verdict"} and not found.open
    assert {url for url in found.loaded if not url.startswith("#")} == {"data:,"}
    assert found.links == [] and not re.search(r"https?:|@import|url\((?!#)", text)
    assert len(text.encode()) < LARGEST
    runs = text[text.index('<section id="runs">') :].partition("</tbody>")[0]
    assert runs.count("<tr title=") + runs.count('<tr class="bad" title=') == RUNS[name]


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_page_tells_what_to_do(name):
    verdict = PAGES[name].read_text(encoding="utf-8").partition('id="verdict">')[2].partition("</section>")[0]
    advice, *sentences = (html.unescape(text) for text in re.findall(r"<p[^>]*>(.*?)</p>", verdict))
    assert len(sentences) == 3 and all(text.endswith(".") for text in (advice, *sentences))
    assert advice.startswith("Use ") or "is the only recipe here" in advice
    assert re.search(r"\d+ of \d+.* \(95% interval", sentences[0]) and re.search(r"\(n = \d+", sentences[1])
    assert re.search(r"seeds", sentences[2])


@pytest.mark.parametrize("name", sorted(PAGES))
def test_nothing_of_the_machine_is_on_a_page(name):
    text = PAGES[name].read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.<])/(?:root|home|work|tmp|Users|usr|opt|mnt)\b", text)
    assert "site-packages" not in text and "localhost" not in text


OVERFLOWING = """
for (const fold of document.querySelectorAll("details")) fold.open = true;
return [...document.querySelectorAll("td, th")].filter(cell => {
  const range = document.createRange();
  range.selectNodeContents(cell);
  const text = range.getBoundingClientRect(), box = cell.getBoundingClientRect();
  return text.width && (text.right > box.right + 1 || text.left < box.left - 1);
}).map(cell => cell.textContent)"""
"""Cells with text outside of their box, folded tables included."""

SCROLLED = (
    "return [...document.querySelectorAll('.scroll')].filter(box => box.scrollWidth > box.clientWidth + 1).length"
)


@pytest.mark.slow
@needs_browser
def test_no_text_leaves_its_cell_and_on_a_desk_no_table_is_cut(tmp_path):
    pytest.importorskip("selenium")
    with browser(tmp_path) as driver:
        for path in PAGES.values():
            for width in (400, 1400):
                look_at(driver, path, width, "light")
                assert driver.execute_script(OVERFLOWING) == [], (path.name, width)
                assert driver.execute_script("return document.documentElement.scrollWidth") <= width
            assert driver.execute_script(SCROLLED) == 0, path.name
            assert not driver.get_log("browser")
