"""How far do shortcuts get on the demo's tasks? Bags of words in a logistic regression, and a rule of thumb.

`python benchmarks/demo_shortcuts.py` trains on each task's full training set (10000) and scores on its test set (2000). It
prints the table of hf_stability/tasks/demo/README.md. It takes a minute.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, matthews_corrcoef


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, installed or not
from hf_stability.tasks.demo.data import demo_splits


def words(text: str, mark: str = "") -> list[str]:
    """The words of a text, each with the mark of its sentence."""
    return [mark + word for word in text.rstrip(".").split()]


def with_neighbours(found: list[str]) -> list[str]:
    """The words and the pairs of neighbours."""
    return found + [f"{a} {b}" for a, b in zip(found, found[1:], strict=False)]


INPUTS: dict[str, dict[str, Callable[[dict], list[str]]]] = {
    "demo_pair": {
        "words of the second sentence alone": lambda row: words(row["sentence2"]),
        "words of the first sentence alone": lambda row: words(row["sentence1"]),
        "words of both, marked by sentence": lambda row: words(row["sentence1"], "1:") + words(row["sentence2"], "2:"),
        "words and pairs of neighbours": lambda row: (
            with_neighbours(words(row["sentence1"], "1:")) + with_neighbours(words(row["sentence2"], "2:"))
        ),
    },
    "demo_cola": {
        "words": lambda row: words(row["sentence"]),
        "words and pairs of neighbours": lambda row: with_neighbours(words(row["sentence"])),
    },
}


def score(features: Callable[[dict], list[str]], splits: dict[str, list[dict]]) -> tuple[float, float]:
    """Accuracy and Matthews correlation of a logistic regression (C = 0.1) on the test set."""
    vectorizer = CountVectorizer(analyzer=features)
    train = vectorizer.fit_transform(splits["train_full"])
    model = LogisticRegression(C=0.1, max_iter=2000).fit(train, [row["label"] for row in splits["train_full"]])
    predicted = model.predict(vectorizer.transform(splits["test"]))
    labels = [row["label"] for row in splits["test"]]
    return accuracy_score(labels, predicted), matthews_corrcoef(labels, predicted)


def new_stem_means_no(row: dict) -> int:
    """A rule that compares the sentences: 1 (does not follow) if the second has a word with new first three letters."""
    known = {word[:3] for word in words(row["sentence1"])}
    return int(any(word[:3] not in known for word in words(row["sentence2"]) if word not in ("is", "are")))


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("| task | input | accuracy | Matthews |\n|---|---|---|---|")
    for task in INPUTS:
        splits = demo_splits(task)
        labels = [row["label"] for row in splits["test"]]
        baseline = max(sum(labels), len(labels) - sum(labels)) / len(labels)
        print(f"| {task} | none: the majority class | {baseline:.3f} | 0.000 |")
        for name, features in INPUTS[task].items():
            accuracy, matthews = score(features, splits)
            print(f"| {task} | {name} | {accuracy:.3f} | {matthews:.3f} |", flush=True)
        if task == "demo_pair":
            guesses = [new_stem_means_no(row) for row in splits["test"]]
            print(
                f"| {task} | a new stem means no | {accuracy_score(labels, guesses):.3f} | {matthews_corrcoef(labels, guesses):.3f} |"
            )


if __name__ == "__main__":
    main()
