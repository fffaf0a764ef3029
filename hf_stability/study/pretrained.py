"""The pretrained model of a study before training: its config, tokenizer, precision, and a hash of its weights."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from ..diagnostics.precision import WAY_OUT, half_precision_weights
from ..errors import InputError
from .model import load_model


logger = logging.getLogger(__name__)

# Fields of a model's config that a task sets, or that do not change the model.
NOT_THE_MODEL = (
    "id2label", "label2id", "num_labels", "problem_type", "architectures", "transformers_version", "dtype", "torch_dtype",
    "_name_or_path", "use_cache",
)  # fmt: skip

DTYPES = ("float32", "bfloat16", "float16")
"""The precisions that a study can train in."""

HUB_TIMEOUT_S = 5.0  # without a network, the libraries retry each of a model's files for 23 s

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def load_config(model: str) -> Any:
    """The config of a pretrained model, in a folder or on the hub.

    Raises:
        InputError: the folder does not exist or has no model, or there is neither a network nor a local copy.
    """
    folder = Path(model)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(
                f"--model_name_or_path {model}: no config.json in this folder; give a folder made by save_pretrained"
            )
        if not any((folder / name).is_file() for name in WEIGHTS):
            raise InputError(
                f"--model_name_or_path {model}: no weights in this folder (looked for {', '.join(WEIGHTS)}); give a folder made by save_pretrained"
            )
    elif folder.exists() or model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise InputError(f"--model_name_or_path {model}: no such folder")
    else:
        _look_for_hub(model)
    try:
        return transformers.AutoConfig.from_pretrained(model)
    except (OSError, ValueError) as error:
        if folder.is_dir():
            raise InputError(f"--model_name_or_path {model}: {_first_line(error)}") from None
        raise InputError(
            f"--model_name_or_path {model}: no such folder, and not available from the hub ({_first_line(error)}); give a "
            "folder made by save_pretrained"
        ) from None


def load_tokenizer(model: str) -> Any:
    """The tokenizer of a pretrained model. Raises InputError if there is none."""
    if not Path(model).is_dir():
        _look_for_hub(model)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    except Exception as error:  # each class of tokenizers raises another error for missing files
        raise InputError(f"no tokenizer in {model} ({_first_line(error)}); give --tokenizer_name") from None
    if len(tokenizer) <= len(
        set(tokenizer.all_special_ids)
    ):  # transformers 5 makes an empty one if there are no files
        raise InputError(
            f"no tokenizer in {model}; give --tokenizer_name, or save one there with the tokenizer's save_pretrained"
        )
    return tokenizer


def fingerprint_model(model: str, config: Any) -> str:
    """SHA-256 over a model's pretrained weights and its config; the path does not count.

    A new head is left out, and so are the fields of the config that a task sets (labels). Weights saved in half precision
    count in float32, as they are trained.

    Args:
        model: a folder or a name on the hub.
        config: the model's own, with the task's labels.

    Raises:
        InputError: the weights cannot be loaded.
    """
    try:
        loaded, info = load_model(model, config, output_loading_info=True)
    except Exception as error:  # damaged files: each library raises another error
        raise InputError(f"--model_name_or_path {model}: the weights cannot be loaded: {_first_line(error)}") from None
    other_size = {key for key, *_ in info.get("mismatched_keys", ())}
    misfit = sorted(key for key in other_size if key.startswith(f"{loaded.base_model_prefix}."))
    if misfit:
        raise InputError(
            f"--model_name_or_path {model}: the size of {misfit[0]} does not match config.json; save the model again with save_pretrained"
        )
    new = set(info["missing_keys"]) | other_size
    pretrained = {name: tensor for name, tensor in loaded.state_dict().items() if name not in new}
    if not any(name.startswith(loaded.base_model_prefix) for name in pretrained):
        raise InputError(
            f"--model_name_or_path {model}: none of its weights belongs to a {type(loaded).__name__}; give a model that this class can load"
        )
    settings = {key: value for key, value in config.to_diff_dict().items() if key not in NOT_THE_MODEL}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(pretrained.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def weights_dtype(asked: str, model: str, config: Any, precision: Sequence[str] = ()) -> str:
    """The precision in which to load weights, by name. Half precision gets a warning.

    Args:
        asked: `--dtype`: "float32", "bfloat16", "float16", or "auto" (as the checkpoint was saved).
        model, config: see `fingerprint_model`.
        precision: the recipes' mixed precision: "no", "bf16" or "fp16".

    Raises:
        InputError: the weights cannot be loaded, or have another dtype; or they are float16 with fp16 mixed precision, which
            the loss scaler refuses.
    """
    if asked == "float32":
        return asked
    try:
        loaded = load_model(model, config, asked)
    except Exception as error:  # damaged files: each library raises another error
        raise InputError(f"--model_name_or_path {model}: the weights cannot be loaded: {_first_line(error)}") from None
    dtype = str(loaded.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise InputError(
            f"--dtype {asked}: these weights are {dtype}, which cannot be trained here; give --dtype float32"
        )
    if dtype == "float16" and "fp16" in precision:
        raise InputError(f"--dtype {asked} with --fp16: fp16 mixed precision needs float32 weights; leave out --dtype")
    if warning := half_precision_weights(loaded):
        logger.warning(f"--dtype {asked}: {warning.removesuffix(WAY_OUT)}The default, --dtype float32, avoids this.")
    return dtype


def _look_for_hub(model: str) -> None:
    """If the hub cannot be reached, switch the libraries offline: they then use the cached copy, or report that there is none.

    Otherwise every process asks for every file, and waits for an answer.
    """
    if constants.HF_HUB_OFFLINE:
        return
    try:
        HfApi().model_info(model, timeout=HUB_TIMEOUT_S)
    except (HfHubHTTPError, HFValidationError):  # the hub answered; loading reports the error
        return
    except Exception:  # any failure on the way: names, proxies, certificates, time limits
        constants.HF_HUB_OFFLINE = True
        os.environ["HF_HUB_OFFLINE"] = "1"  # for the worker processes


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
