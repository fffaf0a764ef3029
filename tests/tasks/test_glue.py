"""GLUE from official folders (written here, and the real ones under $GLUE_DIR) and from a hub on this machine."""

from __future__ import annotations

import hashlib
import http.server
import json
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlparse

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_stability.errors import InputError
from hf_stability.tasks import glue
from hf_stability.tasks.glue import GLUE_TASKS, OFFICIAL_COUNTS, load_glue
from hf_stability.tasks.load import data_fingerprint


GLUE_DIR = os.environ.get("GLUE_DIR", "")
needs_glue = pytest.mark.skipif(not Path(GLUE_DIR, "RTE").is_dir(), reason="GLUE_DIR is not set to the official data")

NLI_TRAIN = "index promptID pairID genre s1_binary s2_binary s1_parse s2_parse sentence1 sentence2 label1 gold_label"
NLI_DEV = (
    "index promptID pairID genre s1_binary s2_binary s1_parse s2_parse sentence1 sentence2 l1 l2 l3 l4 l5 gold_label"
)
QQP_HEADER = "id qid1 qid2 question1 question2 is_duplicate"
STSB_HEADER = "index genre filename year old_index source1 source2 sentence1 sentence2 score"

# What each official file looks like: folder, file -> (header, first row), in the columns' official order.
OFFICIAL = {
    "cola": ("CoLA", {n: (None, ["gj04", "1", "", 'A "b" c.']) for n in ("train", "dev")}),
    "sst2": ("SST-2", {n: ("sentence label", ['A "b" c.', "1"]) for n in ("train", "dev")}),
    "mrpc": (
        "MRPC",
        {n: ("Quality|#1 ID|#2 ID|#1 String|#2 String", ["1", "7", "8", 'A "b" c.', "d"]) for n in ("train", "dev")},
    ),
    "qqp": ("QQP", {n: (QQP_HEADER, ["0", "1", "2", 'A "b" c.', "d", "1"]) for n in ("train", "dev")}),
    "stsb": ("STS-B", {n: (STSB_HEADER, ["0", *"gfyoab", 'A "b" c.', "d", "3.800"]) for n in ("train", "dev")}),
    "mnli": (
        "MNLI",
        {
            "train": (NLI_TRAIN, ["0", *"abcdefg", 'A "b" c.', "d", "neutral", "neutral"]),
            "dev_matched": (NLI_DEV, ["0", *"abcdefg", 'A "b" c.', "d", *"12345", "neutral"]),
            "dev_mismatched": (NLI_DEV, ["0", *"abcdefg", 'A "b" c.', "d", *"12345", "contradiction"]),
        },
    ),
    "qnli": (
        "QNLI",
        {n: ("index question sentence label", ["0", 'A "b" c.', "d", "not_entailment"]) for n in ("train", "dev")},
    ),
    "rte": (
        "RTE",
        {n: ("index sentence1 sentence2 label", ["0", 'A "b" c.', "d", "not_entailment"]) for n in ("train", "dev")},
    ),
    "wnli": ("WNLI", {n: ("index sentence1 sentence2 label", ["0", 'A "b" c.', "d", "1"]) for n in ("train", "dev")}),
}


def write_official(root: Path, name: str, folder: str | None = None, extra_rows: tuple[str, ...] = ()) -> Path:
    """One example per file (with a BOM for MRPC, as there), then `extra_rows` in each."""
    official_folder, files = OFFICIAL[name]
    path = root / (folder or official_folder)
    path.mkdir(parents=True)
    for file, (header, row) in files.items():
        columns = header.split("|" if "|" in header else " ") if header else []
        lines = (["\t".join(columns)] if header else []) + ["\t".join(row), *extra_rows]
        text = ("\ufeff" if name == "mrpc" else "") + "\n".join(lines) + "\n"
        (path / f"{file}.tsv").write_text(text, encoding="utf-8")
    return path


def test_tasks_are_glue():
    assert list(GLUE_TASKS) == "cola sst2 mrpc qqp stsb mnli qnli rte wnli".split()
    assert GLUE_TASKS.keys() == OFFICIAL_COUNTS.keys()
    headlines = {name: task.headline for name, task in GLUE_TASKS.items()}
    assert headlines.pop("cola") == "matthews_correlation"
    assert headlines.pop("mrpc") == headlines.pop("qqp") == "f1"
    assert headlines.pop("stsb") == "pearson_and_spearman"
    assert set(headlines.values()) == {"accuracy"}
    assert GLUE_TASKS["rte"].label_names == GLUE_TASKS["qnli"].label_names == ("entailment", "not_entailment")
    assert GLUE_TASKS["mnli"].num_labels == 3 and GLUE_TASKS["stsb"].is_regression
    for name, task in GLUE_TASKS.items():
        assert task.name == name and len(task.text_columns) in (1, 2)


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_layout(name, tmp_path, caplog):
    folder = write_official(tmp_path, name)
    with caplog.at_level(logging.WARNING):
        data = load_glue(name, tmp_path)
    assert data.source == "folder (official layout)"
    assert [data.train.num_rows, *(rows.num_rows for rows in data.validation.values())] == [1] * (
        1 + len(data.validation)
    )
    assert f"{name} train: 1 examples; GLUE has {OFFICIAL_COUNTS[name]['train']}" in caplog.text

    task = GLUE_TASKS[name]
    expected = dict(zip(task.text_columns, ('A "b" c.', "d"), strict=False))
    assert data.train[0] == {**expected, "label": pytest.approx(3.8) if name == "stsb" else 1}
    if name == "mnli":
        assert list(data.validation) == ["validation_matched", "validation_mismatched"]
        assert data.validation["validation_mismatched"]["label"][0] == 2
    assert data_fingerprint(load_glue(name, folder)) == data_fingerprint(data)


@pytest.mark.parametrize("folder", ["sst2", "SST2", "Sst-2"])
def test_folder_name_variants(folder, tmp_path):
    write_official(tmp_path, "sst2", folder)
    assert load_glue("sst2", tmp_path).train.num_rows == 1


@settings(max_examples=30, deadline=None)
@given(
    texts=st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\t\r\n"), min_size=1), min_size=1, max_size=8
    )
)
def test_any_text_survives(texts, tmp_path_factory):
    """Quotes, line separators other than the newline, and all other characters are text."""
    folder = tmp_path_factory.mktemp("cola")
    for file in ("train", "dev"):
        lines = "".join(f"s\t{number % 2}\t\t{text}\n" for number, text in enumerate(texts))
        (folder / f"{file}.tsv").write_bytes(lines.encode())
    data = load_glue("cola", folder)
    assert data.train["sentence"][:] == texts
    assert data.train["label"][:] == [number % 2 for number in range(len(texts))]


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("rte", "1\tonly two", "line 3: 2 columns, expected 4 (index, sentence1, sentence2, label)"),
        ("rte", "1\ta\tb\tyes", "line 3: label 'yes', expected one of entailment, not_entailment"),
        ("cola", "a\t2\t\tb", "line 2: label '2', expected one of 0, 1"),
        ("stsb", "0\tg\tf\ty\to\ta\tb\tc\td\tnan", "line 3: score 'nan', expected a number"),
        ("rte", "\n1\ta\tb\tentailment", "line 3: a blank line"),
    ],
)
def test_bad_rows(name, row, message, tmp_path):
    write_official(tmp_path, name, extra_rows=(row,))
    with pytest.raises(InputError) as error:
        load_glue(name, tmp_path)
    assert message in str(error.value) and "train.tsv" in str(error.value) and "--data_dir" in str(error.value)
    assert "\n" not in str(error.value)


def test_blank_lines_at_the_end(tmp_path):
    write_official(tmp_path, "rte", extra_rows=("", ""))
    assert load_glue("rte", tmp_path).train.num_rows == 1


def test_windows_line_ends(tmp_path):
    folder = write_official(tmp_path, "rte")
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert load_glue("rte", tmp_path).train["label"][:] == [1]


def test_qqp_drops_its_broken_rows(tmp_path, caplog):
    write_official(tmp_path, "qqp", extra_rows=("1\t3\t4\tcut in", "two?\twhy\t0", "2\t5\t6\ta\tb\t0"))
    assert load_glue("qqp", tmp_path).train["label"][:] == [1, 0]
    assert "dropped 2 broken rows, the first in line 3" in caplog.text


def test_missing_things(tmp_path):
    with pytest.raises(InputError, match="--data_dir .*nowhere: no such folder"):
        load_glue("rte", tmp_path / "nowhere")
    with pytest.raises(InputError, match="no folder RTE and no .tsv files"):
        load_glue("rte", tmp_path)
    folder = write_official(tmp_path, "rte")
    with pytest.raises(InputError, match="line 1: no column '#1 String' in the header .* another task than mrpc"):
        load_glue("mrpc", folder)
    (folder / "train.tsv").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        load_glue("rte", folder)
    (folder / "train.tsv").write_text("index\tsentence1\tsentence2\tlabel\n")
    with pytest.raises(InputError, match="no examples"):
        load_glue("rte", folder)
    (folder / "train.tsv").unlink()
    with pytest.raises(InputError, match="train.tsv is missing"):
        load_glue("rte", folder)


@needs_glue
@pytest.mark.parametrize(
    ("name", "positive"), [("cola", 721), ("mrpc", 279), ("rte", 277 - 146)], ids=["cola", "mrpc", "rte"]
)
def test_official_counts(name, positive, caplog):
    data = load_glue(name, GLUE_DIR)
    assert caplog.text == ""  # no warning: train and dev have their official sizes
    assert data.train.num_rows == OFFICIAL_COUNTS[name]["train"]
    assert sum(data.validation["validation"]["label"]) == positive
    assert sum(data.train["label"]) == {"cola": 6023, "mrpc": 2474, "rte": 2490 - 1249}[name]


@needs_glue
def test_official_qnli(tmp_path):
    dev = Path(GLUE_DIR, "QNLI", "dev.tsv")
    if not Path(GLUE_DIR, "QNLI", "train.tsv").exists():
        with pytest.raises(InputError, match="QNLI.*train.tsv is missing"):
            load_glue("qnli", GLUE_DIR)
    for file in ("train.tsv", "dev.tsv"):
        (tmp_path / file).write_bytes(dev.read_bytes())
    rows = load_glue("qnli", tmp_path).validation["validation"]
    assert rows.num_rows == 5463 and rows["label"][:].count(0) == 2702


# --- the hub ---------------------------------------------------------------------------------------------------------


def write_hub_copy(root: Path) -> None:
    """RTE and STS-B with two rows per split, laid out as in the hub's repository: parquet, and a card with configs."""
    from datasets import ClassLabel, Dataset, Features, Value

    card = ["---", "configs:"]
    for name, label in (("rte", ClassLabel(names=["entailment", "not_entailment"])), ("stsb", Value("float32"))):
        (root / name).mkdir(parents=True)
        strings = {"sentence1": Value("string"), "sentence2": Value("string")}
        features = Features({**strings, "label": label, "idx": Value("int32")})
        card += [f"- config_name: {name}", "  data_files:"]
        for split in ("train", "validation", "test"):
            rows = {"sentence1": ["a", "b"], "sentence2": ["c", split], "label": [0, 1], "idx": [0, 1]}
            if split == "test":
                rows["label"] = [-1, -1]
            Dataset.from_dict(rows, features=features).to_parquet(root / name / f"{split}-00000-of-00001.parquet")
            card += [f"  - split: {split}", f"    path: {name}/{split}-*"]
    (root / "README.md").write_text("\n".join([*card, "---", ""]))


def test_hub_client_on_a_local_copy(tmp_path, monkeypatch):
    write_hub_copy(tmp_path / "glue")
    monkeypatch.setattr(glue, "HUB_DATASET", str(tmp_path / "glue"))
    data = load_glue("rte")
    assert data.source.endswith("(hub)") and data.train.column_names == ["sentence1", "sentence2", "label"]
    assert data.train["label"][:] == [0, 1] and data.validation["validation"]["sentence2"][:] == ["c", "validation"]
    scores = load_glue("stsb")
    assert scores.train["label"][:] == [0.0, 1.0] and scores.train.features["label"].dtype == "float32"
    with pytest.raises(InputError, match="no cached copy|cannot be loaded"):
        load_glue("cola")  # a configuration that this copy lacks

    wrong = glue.Task("rte", ("sentence1", "sentence2"), ("not_entailment", "entailment"), ("accuracy",))
    monkeypatch.setitem(glue.GLUE_TASKS, "rte", wrong)
    with pytest.raises(InputError, match="labels entailment, not_entailment, expected not_entailment, entailment"):
        load_glue("rte")


@pytest.mark.parametrize("offline", [True, False], ids=["offline", "no network"])
def test_no_network_and_no_copy(offline, monkeypatch):
    import datasets
    import huggingface_hub

    def unreachable(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(glue, "HUB_DATASET", "nyu-mll/glue-that-nobody-cached")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    started = time.perf_counter()
    with pytest.raises(InputError) as error:
        load_glue("rte")
    assert time.perf_counter() - started < 5
    assert ("HF_HUB_OFFLINE is set" if offline else "cannot be reached") in str(error.value)
    assert "--data_dir" in str(error.value) and "\n" not in str(error.value)
    assert datasets.config.HF_HUB_OFFLINE is offline  # put back


class FakeHub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's API as its client asks of a data set: the repository's info, its tree, its files."""

    root: Path
    commit = "a" * 40

    def log_message(self, *args):
        pass

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content_Length": str(len(body))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        path = urlparse(self.path).path
        api = "/api/datasets/nyu-mll/glue"
        if path.startswith("/datasets/nyu-mll/glue/resolve/"):
            file = self.root / path.split("/", 6)[6]
            if file.is_file():
                body = file.read_bytes()
                return self.answer(body, ETag=f'"{hashlib.sha1(body).hexdigest()}"', X_Repo_Commit=self.commit)
        elif path.startswith(f"{api}/tree/{self.commit}"):
            folder = self.root / path.removeprefix(f"{api}/tree/{self.commit}").strip("/")
            if folder.is_dir():
                return self.answer(json.dumps([self.describe(entry) for entry in sorted(folder.iterdir())]).encode())
        elif path in (api, f"{api}/revision/main", f"{api}/revision/{self.commit}"):
            info = {"id": "nyu-mll/glue", "sha": self.commit, "private": False, "tags": [], "downloads": 0, "likes": 0}
            return self.answer(json.dumps({**info, "siblings": []}).encode())
        self.answer(b"", 404, X_Error_Code="EntryNotFound", X_Repo_Commit=self.commit)

    do_HEAD = do_GET

    def describe(self, entry: Path) -> dict:
        path = entry.relative_to(self.root).as_posix()
        if entry.is_dir():
            return {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}
        body = entry.read_bytes()
        return {"type": "file", "path": path, "oid": hashlib.sha1(body).hexdigest(), "size": len(body)}


def test_hub_client_over_http(tmp_path):
    """Downloaded through the hub's own client from a server on this machine; then, with no hub, from the cache."""
    write_hub_copy(tmp_path / "glue")
    handler = type("Handler", (FakeHub,), {"root": tmp_path / "glue"})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    script = """
import sys, time, types
package = types.ModuleType("hf_stability")  # without the package's own __init__, which imports the trainer
package.__path__ = [sys.argv[1]]
sys.modules["hf_stability"] = package
import huggingface_hub
from hf_stability.tasks.glue import load_glue
for expected in ("downloaded", "cached"):
    started = time.perf_counter()
    data = load_glue("rte")
    assert data.train["label"][:] == [0, 1] and data.validation["validation"].num_rows == 2, data
    assert time.perf_counter() - started < 5
    huggingface_hub.HfApi.dataset_info = None  # from here on, asking the hub would fail
"""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith("HF_") and "proxy" not in name.lower()
    }
    environment = {**kept, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home")}
    try:
        done = subprocess.run(
            [sys.executable, "-c", script, str(Path(glue.__file__).parents[1])],
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
        )
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 0, done.stderr
