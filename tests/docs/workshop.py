r"""A reader's folder, in which the commands and code of a page are run as they stand on the page.

How a page is written, so that a test can run it:

- ```` ```bash ````: each command is run. `\` goes on in the next line; a line that begins with `#` is a comment.
- ```` ```python ````: the block is run as a script.
- ```` ```yaml title="mine.yaml" ````, ```` ```python title="mine.py" ````: the block is saved under that name, for what follows.
- ```` ```text ````: an output. Any other language is an error.
- `<!-- run with: --seeds 1 --max_steps 4 -->` before a block: flags that the test adds to each study and rescue of it.
- `<!-- run after: trainer -->` before a Python block: the names that a Trainer script has (`model`, `args`, `train_dataset` ...), see
  `PRELUDES`.
- `<!-- not run: needs two GPUs -->` before a block: why not.

In the folder are what pages name: `run_glue_stable.py`, `examples/`, a tiny model `bert-large-uncased`, GLUE's RTE and CoLA in `glue`,
`train.csv` and `dev.csv`, and `out`, which a Trainer with the callback has left. Of runs made elsewhere: `bert/` and `bert_fast/`
with Trainer folders, and `scores.csv`.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.processes import run_script
from tests.prose import ROOT


LANGUAGES = ("bash", "python", "yaml", "text")

PRELUDES = {
    "trainer": """
import torch
from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments

tokenizer = AutoTokenizer.from_pretrained("bert-large-uncased")
data = load_dataset("csv", data_files={"train": "train.csv", "dev": "dev.csv"})
data = data.map(lambda rows: tokenizer(rows["sentence"]), batched=True)
train_dataset, eval_dataset = data["train"], data["dev"]
model = AutoModelForSequenceClassification.from_pretrained("bert-large-uncased", dtype=torch.float32)
args = TrainingArguments("out_of_page", max_steps=4, eval_strategy="epoch", report_to="none", use_cpu=True)

def compute_metrics(prediction):
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}

trainer = Trainer(
    model, args, train_dataset=train_dataset, eval_dataset=eval_dataset, compute_metrics=compute_metrics,
    processing_class=tokenizer,
)
""",
}
"""Name -> what a reader's own script has before a block."""

NO_TRAINING = (
    "analyze", "card", "compare", "diagnose", "export", "plan", "recipes", "report", "restarts", "show", "status", "two_way",
)  # fmt: skip
"""Subcommands that take no flags of a training."""

COMMAND = 'import sys\n\nfrom hf_stability.cli import main\n\n\nif __name__ == "__main__":\n    sys.exit(main())\n'


class Block(NamedTuple):
    """A fenced block of a page.

    Attributes:
        title: the file that it is; empty for none.
        flags: what the test adds to its commands that train.
        prelude: the key of `PRELUDES`; empty for none.
        not_run: why it is not run; empty if it is.
    """

    line: int
    language: str
    title: str
    text: str
    flags: str
    prelude: str
    not_run: str


def blocks(page: Path) -> Iterator[Block]:
    """A page's fenced blocks, in their order."""
    lines, number, before = page.read_text(encoding="utf-8").split("\n"), 0, {}
    hidden = [n for n, line in enumerate(lines, 1) if re.match(r"[\s>*-]*(~~~|[>*-]\s*```)", line)]
    assert not hidden, f"{page.name}: lines {hidden}: begin a block with three backticks, at the line's start"
    while number < len(lines):
        marks = dict(re.findall(r"<!-- (run with|run after|not run): (.*?) -->", lines[number]))
        fence = re.match(r"(\s*)(`{3,})\s*(\w*)(?:\s+title=\"([^\"]+)\")?", lines[number])
        if fence:
            end = next(n for n in range(number + 1, len(lines)) if lines[n].strip() == fence[2])
            text = "\n".join(line.removeprefix(fence[1]) for line in lines[number + 1 : end])
            flags, prelude, not_run = (before.get(key, "") for key in ("run with", "run after", "not run"))
            yield Block(number + 1, fence[3], fence[4] or "", text, flags, prelude, not_run)
            number, before = end, {}
        elif marks:
            before = before | marks
        elif lines[number].strip():
            before = {}
        number += 1


def commands(text: str) -> list[list[str]]:
    """The commands of a block, each as words."""
    lines = text.replace("\\\n", " ").split("\n")
    return [shlex.split(line, comments=True) for line in lines if line.strip() and not line.strip().startswith("#")]


# ---- running --------------------------------------------------------------------------------------------------------


def run_block(block: Block, folder: Path) -> None:
    """Run a block in the folder; raises AssertionError with the output where it fails."""
    assert block.language in LANGUAGES, f"line {block.line}: give the block a language of {LANGUAGES}"
    if block.title:
        assert block.language in ("python", "yaml"), f"line {block.line}: only python and yaml blocks are saved"
        (folder / block.title).parent.mkdir(parents=True, exist_ok=True)
        (folder / block.title).write_text(block.text + "\n")
        return
    if block.not_run or block.language in ("text", "yaml"):
        return
    if block.language == "python":
        script = folder / "from_the_page.py"
        script.write_text(f"{PRELUDES[block.prelude] if block.prelude else ''}\n{block.text}\n")
        _run(block, [str(script)], folder)
        return
    for command in commands(block.text):
        run_command(block, command, folder)


def run_command(block: Block, words: list[str], folder: Path) -> None:
    """Run one command of a block in processes that are forked: `hf-stability`, `python`, `accelerate launch`, `torchrun`.

    `pip` and `pytest` are what CI runs, and `tensorboard` needs something to show; they are compared, not run.
    """
    trains = not (words[0] == "hf-stability" and words[1:2] and words[1] in NO_TRAINING)
    added = shlex.split(block.flags) if trains else []
    processes = 1
    if words[0] == "pip":  # CI installs so
        extras = ("test", "dev", "docs")
        known = [
            "torch==2.13.0",
            "-e",
            *(f".[{extra}]" for extra in extras),
            *(f".[{a},{b}]" for a in extras for b in extras),
        ]
        assert words[1] == "install" and set(words[2:]) <= set(known), f"line {block.line}: {' '.join(words)}"
        return
    if words[0] == "pytest":  # CI runs these
        allowed = ["-n", "2", "-m", "slow"]
        assert all(word in allowed or (ROOT / word).exists() for word in words[1:]), (
            f"line {block.line}: {' '.join(words)}"
        )
        return
    if words[0] == "tensorboard":
        shown = folder / words[words.index("--logdir") + 1]
        assert list(shown.rglob("events.out.tfevents*")), f"line {block.line}: nothing to show in {shown}"
        return
    if words[0] == "hf-stability":
        (folder / "hf_stability_command.py").write_text(COMMAND)
        words = ["hf_stability_command.py", *words[1:]]
    elif words[:2] == ["accelerate", "launch"]:
        words = words[2:]
    elif words[0] == "torchrun":
        processes = int(words[words.index("--nproc_per_node") + 1])
        words = words[3:]
    elif words[0] == "python":
        words = words[1:]
    else:
        raise AssertionError(f"line {block.line}: {words[0]}: no command that the test knows")
    _run(block, [*words, *added], folder, processes)


def _run(block: Block, words: list[str], folder: Path, processes: int = 1) -> None:
    done = run_script(folder / words[0], words[1:], processes, cwd=folder)
    end = f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    assert done.returncode == 0, f"line {block.line}: {' '.join(words)}\n{end}"


# ---- the folder -----------------------------------------------------------------------------------------------------


def furnish(folder: Path, model: str) -> None:
    """Put into the folder what pages name; a line for each row.

    Args:
        model: the folder of a tiny model with its tokenizer.
    """
    shutil.copy(ROOT / "run_glue_stable.py", folder)
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(model, folder / "bert-large-uncased")
    words = ("good", "bad")
    for name, rows in (("train", 40), ("dev", 24)):
        lines = [f"a {words[i % 2]} film{' was quite' * (i % 3)},{(i + 1) % 2}" for i in range(rows)]
        (folder / f"{name}.csv").write_text("\n".join(["sentence,label", *lines, ""]))
        pairs = [f"{i}\ta {words[i % 2]} film\tit is good\t{('', 'not_')[i % 2]}entailment" for i in range(rows)]
        (folder / "glue" / "RTE").mkdir(parents=True, exist_ok=True)
        (folder / "glue" / "RTE" / f"{name}.tsv").write_text(
            "\n".join(["index\tsentence1\tsentence2\tlabel", *pairs, ""])
        )
        (folder / "glue" / "CoLA").mkdir(parents=True, exist_ok=True)
        rows_of_cola = [f"gj04\t{i % 2}\t\tA {words[i % 2]} film number {i}." for i in range(rows)]
        (folder / "glue" / "CoLA" / f"{name}.tsv").write_text("\n".join([*rows_of_cola, ""]))
    furnish_scores(folder)


def furnish_scores(folder: Path) -> None:
    """Runs made elsewhere, of a task with a baseline of 146/277."""
    rows = ["recipe,seed,accuracy"]
    for recipe, scores in {"bert": (194, 146, 192), "bert_fast": (146, 146, 184)}.items():
        for seed, right in enumerate(scores, 1):
            rows.append(f"{recipe},{seed},{right / 277}")
            run = folder / recipe / f"seed-{seed}"
            run.mkdir(parents=True)
            log = [{"step": 9, "eval_accuracy": right / 277, "eval_loss": 0.6, "eval_runtime": 1.0}]
            state = {"log_history": log, "global_step": 9, "max_steps": 9}
            (run / "trainer_state.json").write_text(json.dumps(state))
    (folder / "scores.csv").write_text("\n".join([*rows, ""]))


LEAVE_A_RUN = """
from hf_stability import StabilityCallback

args.output_dir, args.save_strategy = "out", "steps"
args.save_steps = 4
trainer = Trainer(model, args, train_dataset=train_dataset, eval_dataset=eval_dataset, compute_metrics=compute_metrics,
                  processing_class=tokenizer, callbacks=[StabilityCallback()])
trainer.train()
import os
os.rename("out/checkpoint-4", "out/checkpoint-500")
"""


def leave_a_run(folder: Path) -> None:
    """`out`: what a Trainer with the callback leaves, with a checkpoint."""
    script = folder / "leave_a_run.py"
    script.write_text(PRELUDES["trainer"] + LEAVE_A_RUN)
    done = run_script(script, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
