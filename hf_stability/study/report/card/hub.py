"""Uploads a kept model and its card to the Hugging Face hub, in one commit."""

from __future__ import annotations

from pathlib import Path

from ....errors import InputError
from ....utils.text import error_line
from .source import CardSource


NOT_UPLOADED = ("training_args.bin", "README.md")
"""Files of a model's folder that stay here. The first is a pickle with paths of this machine; the card has the settings. The
card takes the place of the second."""


def check_push(source: CardSource, repo: str) -> str:
    """Check before anything is written that an upload is possible. Nothing is sent.

    Args:
        source: with the folder of the run's weights.
        repo: `USER/NAME`.

    Returns:
        The user's token.

    Raises:
        InputError: the name is malformed, the study kept no weights of this run, the hub is switched off, or there is no
            token.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise InputError(f"--push {repo}: {error_line(error, first=True)}") from None
    if "/" not in repo:
        raise InputError(f"--push {repo}: give the owner too: USER/{repo}")
    if source.model is None:
        raise InputError(f"--push {repo}: the study kept no model of {source.run.name}; {_way_out(source)}")
    if constants.HF_HUB_OFFLINE:
        raise InputError(f"--push {repo}: HF_HUB_OFFLINE switches the network off; unset it")
    token = get_token()
    if not token:
        raise InputError(f"--push {repo}: no token; log in with `hf auth login`, or set HF_TOKEN")
    return token


def _way_out(source: CardSource) -> str:
    kept = [run for run in source.runs if _weights(source.folder / "runs" / run.name).is_file()]
    if kept:
        seeds = ", ".join(str(run.seed) for run in sorted(kept, key=lambda run: run.seed))
        return f"give --seed with one that has a model: {seeds}"
    return "run the study in a new folder with --keep_model last, or failed_and_best"


def _weights(folder: Path) -> Path:
    return folder / "model" / "config.json"


def push(text: str, model: Path, repo: str, token: str, private: bool = False) -> str:
    """Upload a card and a model's files in one commit. The repository is made if there is none.

    Args:
        text: of the card, which replaces `README.md` there.
        model: the folder of the weights.
        repo: `USER/NAME`.
        token: the user's, with the right to write.
        private: whether a new repository is private. Default: as the user's account has it.

    Returns:
        The address of the repository.

    Raises:
        OSError: the upload failed, in one line. With a failed commit, nothing changed there, except that an empty repository
            may be new.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    files = sorted(path for path in model.rglob("*") if path.is_file() and path.name not in NOT_UPLOADED)
    operations = [CommitOperationAdd(path.relative_to(model).as_posix(), path) for path in files]
    operations.append(CommitOperationAdd("README.md", text.encode("utf-8")))
    try:
        api = HfApi(token=token)
        url = api.create_repo(repo, private=private or None, exist_ok=True)
        api.create_commit(repo, operations, commit_message="Model and card of a study, by hf-stability card")
    except Exception as error:  # of the hub, of its HTTP library, or of the network: they have no common class
        raise OSError(f"--push {repo}: not uploaded ({error_line(error, kind=True, first=True)})") from error
    return str(url)
