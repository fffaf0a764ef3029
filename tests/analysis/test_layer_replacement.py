"""Layers put back to pretrained: exact at both ends, and equal to slow loops in between."""

import copy
import math

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForMaskedLM

from hf_stability.analysis import analyze
from hf_stability.analysis.layer_replacement import half_way, replacement_curve, replacement_steps
from hf_stability.analysis.masked_lm import (
    IGNORED,
    fine_tuned_weights,
    load_masked_lm,
    mask_tokens,
    masked_lm_loss,
    tokenized_blocks,
    tokenized_sentences,
    unshared,
    untied,
)
from hf_stability.errors import InputError
from hf_stability.study.folder import run_folder
from hf_stability.study.run import run_job
from tests.analysis.test_loss_surface import set_status
from tests.conftest import GOOD, OTHER, tiny_encoder, tiny_tokenizer
from tests.toy import VOCABULARY, config, model, weights


MASK, PAD = 4, 0


def toy_text(blocks=6, seed=0, **values):
    rng = np.random.default_rng(seed)
    ids = [rng.integers(5, VOCABULARY, rng.integers(6, 20)) for _ in range(blocks)]
    return mask_tokens(ids, MASK, PAD, range(5), **{"share": 0.3, **values})


def masked_model(architecture, seed=0):
    torch.manual_seed(seed)
    return AutoModelForMaskedLM.from_config(config(architecture, pad_token_id=PAD)).eval()


def pair(architecture):
    """The pretrained model, a classifier with other weights in its base model, and the model that is changed."""
    pretrained = masked_model(architecture)
    classifier = model(architecture, seed=1, pad_token_id=PAD)
    changed = unshared(copy.deepcopy(pretrained))
    decoder = untied(changed)
    tuned = fine_tuned_weights(changed, dict(classifier.named_parameters()), pretrained.config, decoder)
    return pretrained, classifier, changed, tuned


ARCHITECTURES = ["bert", "roberta", "albert", "distilbert", "electra", "deberta"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_both_ends_are_the_two_models(architecture):
    pretrained, classifier, changed, tuned = pair(architecture)
    text, before = toy_text(), weights(changed).clone()
    curve = replacement_curve(changed, tuned, lambda m: masked_lm_loss(m, text))
    assert [step for step, _ in curve] == ["nothing", "top 1", "top 2", "top 3", "embeddings", "head"]
    assert curve[-1][1] == masked_lm_loss(pretrained, text)  # bitwise
    assert len({loss for _, loss in curve}) == len(curve)  # each step changes something, the head too
    # Oracle: the architecture's own model with the fine-tuned base model; Hugging Face ties its output embeddings.
    plain = copy.deepcopy(pretrained)
    own = {name: value for name, value in classifier.state_dict().items() if name in plain.state_dict()}
    plain.load_state_dict(own, strict=False)
    plain.tie_weights()
    assert curve[0][1] == masked_lm_loss(plain, text)
    assert torch.equal(weights(changed), before)


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_each_k_is_that_of_a_model_with_layers_exchanged_by_hand(architecture):
    pretrained, classifier, changed, tuned = pair(architecture)
    text = toy_text()
    curve = replacement_curve(changed, tuned, lambda m: masked_lm_loss(m, text))
    for k in range(4):
        slow = copy.deepcopy(pretrained)
        slow.base_model.embeddings = copy.deepcopy(classifier.base_model.embeddings)
        for number in range(3 - k):
            slow.base_model.encoder.layer[number] = copy.deepcopy(classifier.base_model.encoder.layer[number])
        slow.get_output_embeddings().weight = slow.get_input_embeddings().weight
        assert curve[k][1] == masked_lm_loss(slow.eval(), text)


def test_of_shared_layers_the_last_uses_are_put_back():
    pretrained, classifier, changed, tuned = pair("albert")
    text = toy_text(blocks=1)
    curve = replacement_curve(changed, tuned, lambda m: masked_lm_loss(m, text))
    batch = next(iter(text.batches(1)))
    mask = batch["attention_mask"][:, None, None, :].bool()
    tuned_base, labels = classifier.albert.eval(), batch["labels"]
    for k in range(4):
        with torch.no_grad():  # Oracle: the uses of the layer one by one
            hidden = tuned_base.encoder.embedding_hidden_mapping_in(tuned_base.embeddings(batch["input_ids"]))
            for use in range(3):
                layer = (pretrained.albert if use >= 3 - k else tuned_base).encoder.albert_layer_groups[0]
                found = layer(hidden, mask)
                hidden = found[0] if isinstance(found, tuple) else found
            head = copy.deepcopy(pretrained.predictions)
            head.decoder.weight = tuned_base.embeddings.word_embeddings.weight
            logits = head(hidden)
        slow = torch.nn.functional.cross_entropy(logits[labels != IGNORED], labels[labels != IGNORED]).item()
        assert curve[k][1] == pytest.approx(slow, rel=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_parameter_is_in_one_step(architecture):
    changed = pair(architecture)[2]
    names = [name for _, own in replacement_steps(changed) for name in own]
    assert sorted(names) == sorted(name for name, _ in changed.named_parameters())


def test_the_model_is_pretrained_again_after_an_interrupt():
    _, _, changed, tuned = pair("bert")
    before = weights(changed).clone()

    def interrupted(m):
        assert not torch.equal(weights(m), before)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replacement_curve(changed, tuned, interrupted)
    assert torch.equal(weights(changed), before)


def test_a_model_of_two_stacks_is_refused():
    size = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 40, "max_position_embeddings": 20}
    small = transformers.BartConfig(
        **size, encoder_ffn_dim=16, decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2
    )
    with pytest.raises(InputError, match="one stack"):
        replacement_steps(transformers.BartForConditionalGeneration(small))


def test_weights_of_another_size_are_refused():
    pretrained = masked_model("bert")
    other = model("bert", hidden_size=32)
    with pytest.raises(InputError, match="no weight bert.embeddings"):
        fine_tuned_weights(pretrained, dict(other.named_parameters()), pretrained.config, None)


# ---- the loss -------------------------------------------------------------------------------------------------------


def test_the_loss_is_that_of_a_slow_loop():
    pretrained, text = masked_model("bert"), toy_text()
    losses = []
    for ids, labels in zip(text.inputs, text.labels, strict=True):  # Oracle: a block at a time, softmax in float64
        with torch.no_grad():
            logits = pretrained(torch.tensor(ids)[None]).logits[0].double().numpy()
        for place in np.flatnonzero(labels != IGNORED):
            share = np.exp(logits[place] - logits[place].max())
            losses.append(-math.log(share[labels[place]] / share.sum()))
    assert len(losses) == text.masked
    for batch_size in (1, 4, 50):
        assert masked_lm_loss(pretrained, text, batch_size) == pytest.approx(np.mean(losses), rel=1e-5)


def test_a_uniform_model_has_the_perplexity_of_its_vocabulary():
    uniform = masked_model("bert")
    with torch.no_grad():
        for parameter in uniform.parameters():
            parameter.zero_()
    assert math.exp(masked_lm_loss(uniform, toy_text())) == pytest.approx(VOCABULARY, rel=1e-5)


def test_masked_places_depend_on_the_seed_alone():
    blocks = [list(range(40)) for _ in range(200)]
    one, again = (mask_tokens(blocks, MASK, PAD, range(5), seed=3) for _ in range(2))
    other = mask_tokens(blocks, MASK, PAD, range(5), seed=4)
    assert all((a == b).all() for a, b in zip(one.inputs, again.inputs, strict=True))
    assert any((a != b).any() for a, b in zip(one.inputs, other.inputs, strict=True))
    for ids, masked, labels in zip(blocks, one.inputs, one.labels, strict=True):
        chosen = labels != IGNORED
        assert not chosen[:5].any() and (masked[chosen] == MASK).all()
        assert (labels[chosen] == np.array(ids)[chosen]).all() and (masked[~chosen] == np.array(ids)[~chosen]).all()
    assert one.masked / (200 * 35) == pytest.approx(0.15, abs=0.015)
    with pytest.raises(InputError, match="no token"):
        mask_tokens([[0, 1, 2]], MASK, PAD, range(5))


def test_a_text_file_is_cut_into_blocks():
    tokenizer = tiny_tokenizer("bert")
    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    words = tokenizer("good bad film", add_special_tokens=False)["input_ids"]
    blocks = tokenized_blocks(["good bad", "", "film <unk> good"], tokenizer, 4)
    assert blocks == [[first, *words[:2], last], [first, words[2], tokenizer.unk_token_id, last]]
    assert tokenized_blocks(["good bad", "film good"], tokenizer, 4, blocks=1) == blocks[:1]
    assert tokenized_blocks(["good"], tokenizer, 64) == [[first, words[0], last]]
    assert tokenized_sentences(["good bad"], tokenizer, 32) == [[first, *words[:2], last]]


def test_a_checkpoint_without_a_head_is_refused(tiny_model, tmp_path):
    with pytest.raises(InputError, match="no trained masked-LM head"):
        load_masked_lm(tiny_model("bert"))
    masked_model("bert").save_pretrained(tmp_path)
    assert load_masked_lm(str(tmp_path)).training is False
    with pytest.raises(InputError, match="no masked-LM head can be loaded"):
        load_masked_lm(str(tmp_path / "missing"))


@pytest.mark.parametrize("kind", ["BertForMaskedLM", "BertForPreTraining"])  # bert-large-uncased is of the second kind
def test_checkpoints_with_a_head_are_taken(kind, tmp_path):
    torch.manual_seed(0)
    saved = getattr(transformers, kind)(config("bert"))
    saved.save_pretrained(tmp_path)
    loaded, ids = load_masked_lm(str(tmp_path)), torch.arange(5, 15)[None]
    with torch.no_grad():
        wanted = saved.eval()(ids)
    assert torch.equal(loaded(ids).logits, wanted.logits if kind == "BertForMaskedLM" else wanted.prediction_logits)


def study_of_a_masked_lm(folder, tiny_jobs, **given):
    """A study of a failed and an ok run that start from a masked-LM checkpoint with random weights; the checkpoint."""
    tokenizer = tiny_tokenizer("bert")
    tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    torch.manual_seed(0)
    pretrained = transformers.BertForMaskedLM(tiny_encoder("bert", tokenizer).config)
    for part in (pretrained, tokenizer):
        part.save_pretrained(folder / "pretrained")
    jobs = tiny_jobs(
        folder / "study", ("devlin2019",), (1, 2), model=str(folder / "pretrained"), keep_model="last", **given
    )
    for job in jobs:
        run_job(job, run_folder(folder / "study", job))
    set_status(folder / "study", {"devlin2019/seed-001": "failed", "devlin2019/seed-002": "ok"})
    return pretrained.eval(), tokenizer


def steps_and_losses(folder, text_file, texts=10):
    found = analyze("layer-replacement", folder / "study", text_file=str(text_file), texts=texts, runs=1)
    rows = found.numbers["tables"]["perplexity"]
    assert [row["step"] for row in rows] == 2 * ["nothing", "top 1", "top 2", "embeddings", "head"]
    return found.numbers, np.array([row["loss"] for row in rows]).reshape(2, 5)


@pytest.mark.slow
def test_a_run_that_learned_nothing_has_the_perplexity_of_its_checkpoint(
    tiny_jobs, tmp_path, no_heat_maps, monkeypatch
):
    monkeypatch.setattr("hf_stability.analysis.analysis.write", lambda *_: [])  # no figure
    words = np.random.default_rng(0).choice([*GOOD, *OTHER], 400)
    (tmp_path / "text.txt").write_text("\n".join(" ".join(words[i : i + 20]) for i in range(0, 400, 20)))
    pretrained, tokenizer = study_of_a_masked_lm(tmp_path, tiny_jobs, learning_rate=0.0, max_steps=1)
    numbers, losses = steps_and_losses(tmp_path, tmp_path / "text.txt", texts=0)
    assert (losses == numbers["pretrained"]["loss"]).all()  # bitwise, with anything put back
    # Oracle: the checkpoint's own loss, block by block. Its blocks: 30 words, and the special tokens around them.
    ids = tokenizer.convert_tokens_to_ids(list(words))
    blocks = [[tokenizer.cls_token_id, *ids[i : i + 30], tokenizer.sep_token_id] for i in range(0, 390, 30)]
    text = mask_tokens(blocks, tokenizer.mask_token_id, tokenizer.pad_token_id, set(tokenizer.all_special_ids))
    sums = 0.0
    for inputs, labels in zip(text.inputs, text.labels, strict=True):
        with torch.no_grad():
            logits = pretrained(torch.tensor(inputs)[None]).logits[0].double()
        sums += torch.nn.functional.cross_entropy(logits, torch.tensor(labels), reduction="sum").item()
    assert numbers["masked_tokens"] == text.masked > 30
    assert numbers["pretrained"]["loss"] == pytest.approx(sums / text.masked, rel=1e-6)


@pytest.mark.slow
def test_on_wikitext_all_put_back_is_the_checkpoint(tiny_jobs, tmp_path, no_heat_maps, wikitext_dir):
    study_of_a_masked_lm(tmp_path, tiny_jobs, learning_rate=1e-2)
    numbers, losses = steps_and_losses(tmp_path, wikitext_dir / "test.txt", texts=50)
    assert (losses[:, -1] == numbers["pretrained"]["loss"]).all()  # bitwise
    assert (losses[:, :-2] != numbers["pretrained"]["loss"]).all()
    assert numbers["texts"] == 50 and numbers["masked_tokens"] > 20


@pytest.mark.slow
def test_a_real_sentence_encoder_has_no_head(minilm):
    with pytest.raises(InputError, match="no trained masked-LM head"):
        load_masked_lm(minilm)


def test_half_of_the_harm():
    assert half_way([5.0, 4.0, 3.0, 2.9, 1.0], 1.0) == 2
    assert half_way([1.0, 1.0], 1.0) is None
    assert half_way([2.0, 1.9, 1.0], 1.0) == 2
