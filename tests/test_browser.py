"""What is on TensorBoard's page, of a run that was really trained: TensorBoard as a process, a browser without a screen."""

from __future__ import annotations

import functools
import re
import subprocess
import sys

import pytest
from PIL import Image
from transformers import TrainingArguments

from hf_stability import StabilityCallback, StableTrainer
from hf_stability.diagnostics.dashboard import custom_layout
from hf_stability.diagnostics.early_warning import check
from tests import toy
from tests.browser import browser, needs_browser, until


pytest.importorskip("selenium")

pytestmark = needs_browser


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder and callback of a run of 24 update steps with all diagnostics, whose first check raises the alarm."""
    folder = tmp_path_factory.mktemp("run")
    callback = StabilityCallback(compute_metrics=toy.accuracy, diagnostics="all", on_alarm="none")
    args = TrainingArguments(
        str(folder), **toy.QUIET, learning_rate=1e-3, num_train_epochs=3, warmup_steps=3, eval_strategy="epoch"
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("hf_stability.diagnostics.watch.check", functools.partial(check, threshold=0.0))
        toy.train(StableTrainer, args, [callback])
    return folder / "stability", callback


@pytest.fixture(scope="module")
def board(run, tmp_path_factory):
    """The address of a TensorBoard on the run."""
    log = tmp_path_factory.mktemp("board") / "log.txt"
    words = ["--logdir", str(run[0]), "--host", "127.0.0.1", "--port", "0", "--load_fast", "false"]
    with log.open("w") as output:
        process = subprocess.Popen([sys.executable, "-m", "tensorboard.main", *words], stdout=output, stderr=output)
    try:
        yield until(lambda: re.search(r"http://\S+/", log.read_text()))[0]
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module", name="browser")
def browser_without_a_screen(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("browser")) as driver:
        yield driver


WALK = """
    const [selector, top] = arguments, found = [];
    (function walk(root) {
        for (const element of root.querySelectorAll('*')) {
            if (element.matches(selector) && element.checkVisibility()) found.push(element);
            if (element.shadowRoot) walk(element.shadowRoot);
        }
    })(top ? top.shadowRoot || top : document);
"""


def elements(browser, selector: str, top=None) -> list:
    """Visible elements in the page's order, inside shadow roots too; below `top`, default the whole page."""
    return browser.execute_script(f"{WALK} return found", selector, top)


def texts(browser, selector: str, top=None) -> list[str]:
    """What can be read in them, white space made one."""
    found = browser.execute_script(f"{WALK} return found.map(element => element.innerText || '')", selector, top)
    return [" ".join(text.split()) for text in found]


def lines(browser, card) -> set[str]:
    """The lines that a chart really draws, by their shape: coloured, and wider than a point."""
    drawn = """
        const shown = found.filter(line => getComputedStyle(line).stroke != 'none' && line.getBoundingClientRect().width > 100);
        return shown.map(line => line.getAttribute('d'))
    """
    return set(browser.execute_script(WALK + drawn, "path.line", card))


def legend(browser, card) -> list[str]:
    """The tags that a chart names, its list opened; TensorBoard gives them in any order."""
    (button,) = elements(browser, ".toggle-matches-button", card)
    browser.execute_script("arguments[0].click()", button)
    entries = until(lambda: texts(browser, ".match-list-entry", card))
    return sorted(entry.split()[1] for entry in entries)  # mark, tag, run


def test_custom_scalars_have_all_layers_in_one_chart_and_one_for_each_diagnostic(browser, board, run):
    _, callback = run
    browser.get(f"{board}#custom_scalars")
    titles = [title for charts in custom_layout(callback.recorder.record.columns).values() for title in charts]
    assert len(titles) == 16
    until(lambda: texts(browser, "figcaption") == titles)
    cards = dict(zip(titles, elements(browser, "tf-custom-scalar-multi-line-chart-card"), strict=True))
    for title, card in cards.items():
        browser.execute_script("arguments[0].scrollIntoView()", card)
        assert until(lambda card=card: lines(browser, card)), title

    by_layer, loss = (cards[title] for title in ("gradient norms by layer (log10)", titles[5]))
    layers = callback.record["layers"]
    assert legend(browser, by_layer) == sorted(f"log10_grad_norm/{layer}" for layer in layers)
    assert len(lines(browser, by_layer)) >= len(layers)
    assert legend(browser, loss) == ["label_entropy", "loss"] and len(lines(browser, loss)) >= 2


def test_the_images_tab_has_the_heat_map(browser, board, run):
    folder, _ = run
    browser.get(f"{board}#images")
    (card,) = until(lambda: elements(browser, "tf-image-loader"))
    (picture,) = until(lambda: elements(browser, "img", card))
    size = "return arguments[0].naturalWidth && [arguments[0].naturalWidth, arguments[0].naturalHeight]"
    with Image.open(folder / "gradients.png") as image:
        assert until(lambda: browser.execute_script(size, picture)) == list(image.size)
    assert picture.size["width"] > 200
    assert "gradients" in texts(browser, "figcaption", card)[0]
    assert "step 24" in texts(browser, "*", card)


def test_the_text_tab_has_the_alarm_and_the_verdict_at_their_steps(browser, board, run):
    _, callback = run
    browser.get(f"{board}#text")
    sentences = [callback.alarm.sentence, callback.verdict.sentence]
    until(lambda: texts(browser, "p") == sentences)
    steps = [text for text in texts(browser, "*") if re.fullmatch(r"step \d+", text)]
    assert list(dict.fromkeys(steps)) == [f"step {callback.alarm.step}", "step 24"]
