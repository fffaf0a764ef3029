"""The upload of a card and a model. The hub's client is replaced at its edge; nothing is sent."""

from __future__ import annotations

import pytest

from hf_stability.errors import InputError
from hf_stability.study.report.card.hub import check_push, push
from hf_stability.study.report.card.source import read_source
from tests.study.report.card.test_card import know_models, leave_run, leave_study


class Hub:
    """Stands for `HfApi`: notes what it is asked to do."""

    def __init__(self):
        self.calls = []
        self.error = None

    def __call__(self, token):
        self.token = token
        return self

    def create_repo(self, repo, **given):
        self.calls.append(("create_repo", repo, given))
        return f"https://huggingface.co/{repo}"

    def create_commit(self, repo, operations, **given):
        if self.error:
            raise self.error
        files = {}
        for operation in operations:
            with operation.as_file() as file:
                files[operation.path_in_repo] = file.read().decode()
        self.calls.append(("create_commit", repo, files))


def reach_hub(monkeypatch):
    """A hub that a user with a token reaches."""
    stub = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", stub)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_secret")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return stub


@pytest.fixture
def hub(monkeypatch):
    return reach_hub(monkeypatch)


@pytest.fixture
def study(tmp_path, monkeypatch):
    know_models(monkeypatch, "bert-large-uncased")
    return leave_study(tmp_path)


def test_the_model_and_its_card_go_in_one_commit(hub, study):
    source = read_source(study)
    assert (token := check_push(source, "anna/rte")) == "hf_secret" and hub.calls == []
    (source.model / "sub").mkdir()
    (source.model / "sub" / "part.txt").write_text("part")
    (source.model / "README.md").write_text("of the Trainer")
    assert push("the card", source.model, "anna/rte", token) == "https://huggingface.co/anna/rte"
    files = {name: name for name in ("config.json", "model.safetensors", "tokenizer.json")}
    assert hub.calls == [
        ("create_repo", "anna/rte", {"private": None, "exist_ok": True}),
        ("create_commit", "anna/rte", {**files, "sub/part.txt": "part", "README.md": "the card"}),
    ]
    assert hub.token == "hf_secret"
    push("the card", source.model, "anna/rte", token, private=True)
    assert hub.calls[2][2]["private"] is True


def test_a_failed_upload_is_one_line(hub, study):
    hub.error = RuntimeError("403 Forbidden\nyou cannot write here")
    with pytest.raises(OSError, match=r"^--push anna/rte: not uploaded \(RuntimeError: 403 Forbidden\)$"):
        push("the card", read_source(study).model, "anna/rte", "hf_secret")


def test_without_a_token_nothing_is_sent(hub, study, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(InputError, match="--push anna/rte: no token; log in with `hf auth login`, or set HF_TOKEN"):
        check_push(read_source(study), "anna/rte")


def test_without_a_network_nothing_is_sent(hub, study, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE switches the network off; unset it"):
        check_push(read_source(study), "anna/rte")


def test_without_a_kept_model_nothing_is_sent(hub, study, tmp_path):
    with pytest.raises(InputError, match=r"kept no model of mosbach2021/seed-001; give --seed with .* a model: 4"):
        check_push(read_source(study, seed=1), "anna/rte")
    leave_run(tmp_path / "other", 1, 0.7)
    with pytest.raises(InputError, match="run the study in a new folder with --keep_model last"):
        check_push(read_source(tmp_path / "other"), "anna/rte")


@pytest.mark.parametrize("repo", ["rte", "anna/rte/x", "anna/rte--x", ""])
def test_a_malformed_name_is_refused(hub, study, repo):
    with pytest.raises(InputError, match=f"^--push {repo}: "):
        check_push(read_source(study), repo)
