import logging

import pytest
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification, Trainer, TrainingArguments, set_seed

from hf_stability import StableTrainer, StableTrainingArguments
from hf_stability.errors import InputError
from hf_stability.methods.reinit import reinit_layers, top_modules
from hf_stability.training_args import seed_streams
from tests import toy


pytestmark = pytest.mark.usefixtures("no_heat_maps")


LAYERS = {
    "bert": "bert.encoder.layer",
    "roberta": "roberta.encoder.layer",
    "distilbert": "distilbert.transformer.layer",
    "electra": "electra.encoder.layer",
    "deberta": "deberta.encoder.layer",
}


def moved(model, before) -> set[str]:
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def trained(architecture, **values):
    """A model none of whose weights stand where an initialisation would put them."""
    model = toy.model(architecture, **values)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    return model


def copy_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


# ---- the plain function ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("architecture", LAYERS)
def test_just_the_top_layers_and_the_pooler_are_drawn_anew(architecture, num_layers):
    model = trained(architecture)
    before = copy_of(model)
    names = reinit_layers(model, num_layers)
    expected = [f"{LAYERS[architecture]}.{i}" for i in range(3 - num_layers, 3)]
    expected += ["bert.pooler"] if architecture == "bert" else []
    assert names == expected
    inside = {name for name in before if name.startswith(tuple(f"{top}." for top in expected))}
    assert moved(model, before) == inside  # all of these, and nothing else


def test_the_values_are_those_of_the_paper():
    model = trained("bert", hidden_size=64, intermediate_size=128, initializer_range=0.05)
    reinit_layers(model, 2, torch.Generator().manual_seed(0))
    weights = []
    for top in top_modules(model, 2).values():
        for module in top.modules():
            if isinstance(module, torch.nn.LayerNorm):
                assert (module.weight == 1).all() and (module.bias == 0).all()
            elif isinstance(module, torch.nn.Linear):
                assert (module.bias == 0).all()
                weights.append(module.weight.detach().flatten())
    drawn = torch.cat(weights)
    assert len(drawn) == 2 * (4 * 64 * 64 + 2 * 64 * 128) + 64 * 64
    standard_error = 0.05 / len(drawn) ** 0.5
    assert abs(drawn.mean()) < 4 * standard_error
    assert drawn.std() == pytest.approx(0.05, abs=4 * standard_error / 2**0.5)
    kurtosis = ((drawn / drawn.std()) ** 4).mean()
    assert kurtosis == pytest.approx(3, abs=4 * (24 / len(drawn)) ** 0.5)  # normal, neither uniform nor cut off


def test_a_generator_makes_it_repeatable_and_leaves_the_global_stream_alone():
    one, other = trained("bert"), trained("bert")
    set_seed(5)
    expected = torch.rand(3)
    set_seed(5)
    reinit_layers(one, 2, torch.Generator().manual_seed(3))
    assert torch.equal(torch.rand(3), expected)
    reinit_layers(other, 2, torch.Generator().manual_seed(3))
    assert torch.equal(toy.weights(one), toy.weights(other))
    reinit_layers(other, 2, torch.Generator().manual_seed(4))
    assert not torch.equal(toy.weights(one), toy.weights(other))


def test_an_encoder_without_a_head_will_do():
    model = toy.model("bert").bert
    assert reinit_layers(model, 1) == ["encoder.layer.2", "pooler"]


@pytest.mark.parametrize("num_layers", [0, -1, 4])
def test_a_number_that_changes_nothing_or_is_too_large_is_an_error(num_layers):
    with pytest.raises(InputError, match=f"--reinit_layers {num_layers}: this bert has 3 layers; give 1 to 3"):
        reinit_layers(toy.model(), num_layers)


def test_shared_layers_are_refused():
    with pytest.raises(InputError, match="albert uses one layer many times over"):
        reinit_layers(toy.model("albert"), 1)


def frozen():
    model = toy.model()
    model.bert.encoder.layer[2].requires_grad_(False)
    return model


def decoder():
    sizes = {"n_embd": 8, "n_layer": 2, "n_head": 2, "vocab_size": 20, "n_positions": 16}
    return GPT2ForSequenceClassification(GPT2Config(**sizes))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (frozen, r"bert\.encoder\.layer\.2\.\S+ is frozen"),
        (decoder, r"transformer\.h\.1\.\S+ is a Conv1D"),
        (lambda: torch.nn.Linear(2, 2), "this Linear has no single stack of encoder layers"),
    ],
)
def test_what_is_not_known_is_refused_and_left_as_it_is(make, message):
    model = make()
    before = copy_of(model)
    with pytest.raises(InputError, match=message):
        reinit_layers(model, 1)
    assert not moved(model, before)


# ---- in the trainer -------------------------------------------------------------------------------------------------


FAST = {**toy.QUIET, "learning_rate": 1e-3, "max_steps": 4}


def args(tmp_path, name="run", **values):
    return StableTrainingArguments(str(tmp_path / name), **{**FAST, **values})


def initial_weights(trainer):
    """The model that a training begins with."""
    return trainer.call_model_init()


@pytest.mark.parametrize("init", [True, False])
def test_with_0_nothing_changes(tmp_path, init):
    stock = toy.train(Trainer, TrainingArguments(str(tmp_path / "a"), **FAST), init=init)
    ours = toy.train(StableTrainer, args(tmp_path, reinit_layers=0), init=init)
    assert torch.equal(toy.weights(stock), toy.weights(ours))


def test_model_init_is_followed_by_it_in_the_stream_of_the_initialisation(tmp_path):
    def make():
        return trained("bert")  # seeds by itself, so that only what is drawn after it can differ

    def begin(seed, **values):
        trainer = StableTrainer(
            model_init=make,
            args=args(tmp_path, reinit_layers=2, seed=seed, seed_streams=True, **values),
            train_dataset=toy.data(16),
        )
        return initial_weights(trainer)

    model = begin(1)
    tops = ("bert.encoder.layer.1.", "bert.encoder.layer.2.", "bert.pooler.")
    differing = moved(model, copy_of(make()))
    assert differing and all(name.startswith(tops) for name in differing)
    assert torch.equal(toy.weights(model), toy.weights(begin(1)))
    assert torch.equal(toy.weights(model), toy.weights(begin(1, data_seed=7, dropout_seed=8)))


def test_the_head_is_the_same_as_without_and_the_layers_come_after_it_in_the_stream(tmp_path):
    from transformers import AutoModelForSequenceClassification

    def make():
        return AutoModelForSequenceClassification.from_config(toy.config())

    def begin(**values):
        given = args(tmp_path, seed=1, seed_streams=True, **values)
        return initial_weights(StableTrainer(model_init=make, args=given, train_dataset=toy.data(16)))

    plain, drawn = begin(), begin(reinit_layers=1)
    differing = moved(drawn, copy_of(plain))
    assert differing and all(name.startswith(("bert.encoder.layer.2.", "bert.pooler.")) for name in differing)
    set_seed(seed_streams(1)["init_seed"])
    expected = make()
    reinit_layers(expected, 1)
    assert torch.equal(toy.weights(drawn), toy.weights(expected))
    assert not torch.equal(toy.weights(drawn), toy.weights(begin(reinit_layers=1, init_seed=5)))


@pytest.mark.parametrize("streams", [True, False])
def test_a_model_that_is_passed_in_ready_is_changed_once(tmp_path, streams, caplog):
    def begin(seed, **more):
        model = trained("bert")
        given = args(tmp_path, reinit_layers=1, seed=seed, seed_streams=streams, learning_rate=0.0, **more)
        with caplog.at_level(logging.INFO, logger="hf_stability"):
            trainer = StableTrainer(model, given, train_dataset=toy.data(16))
        return trainer, copy_of(model)

    trainer, at_first = begin(1)
    assert "--reinit_layers 1: re-initialised bert.encoder.layer.2, bert.pooler" in caplog.text
    assert moved(trainer.model, copy_of(trained("bert")))
    trainer.train()
    assert not moved(trainer.model, at_first)  # at a rate of 0 nothing else moves it
    again, other = begin(1)[1], begin(2)[1]
    assert all(torch.equal(again[name], at_first[name]) for name in again)
    assert any(not torch.equal(other[name], at_first[name]) for name in other)
    # with streams it is the initialisation's seed that counts, and it alone
    moved_by_init_seed = moved(begin(1, init_seed=5)[0].model, at_first)
    assert bool(moved_by_init_seed) is streams


def test_a_resumed_run_keeps_its_weights(tmp_path):
    whole = toy.train(StableTrainer, args(tmp_path, "a", reinit_layers=2, eval_strategy="no"))
    saving = {"save_strategy": "steps", "save_steps": 2, "reinit_layers": 2, "eval_strategy": "no"}
    toy.train(StableTrainer, args(tmp_path, "b", **saving))
    resumed = toy.train(StableTrainer, args(tmp_path, "b", **saving), resume=str(tmp_path / "b" / "checkpoint-2"))
    assert torch.equal(toy.weights(resumed), toy.weights(whole))


def test_too_many_layers_are_refused_before_training(tmp_path):
    with pytest.raises(InputError, match="--reinit_layers 9: this bert has 3 layers"):
        toy.train(StableTrainer, args(tmp_path, reinit_layers=9))
