"""The diagnostics on the Hugging Face Trainer: one callback is enough.

`python examples/trainer.py` trains a small BERT on synthetic data, offline, in some seconds. With `--learning_rate 1` it fails.
"""

import argparse

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, set_seed

from hf_stability import StabilityCallback, steps_frame


WORDS = 100
SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def examples(count):
    ids = torch.randint(5, WORDS, (count, 7))
    return [{"input_ids": row, "labels": int(row[0] < WORDS // 2)} for row in ids]  # the first word decides the label


def compute_metrics(prediction):
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--output_dir", default="runs/trainer")
parser.add_argument("--learning_rate", type=float, default=3e-3)
options = parser.parse_args()

set_seed(0)
args = TrainingArguments(
    options.output_dir,
    learning_rate=options.learning_rate,
    num_train_epochs=2,
    per_device_train_batch_size=16,
    warmup_steps=10,
    eval_strategy="epoch",
    save_strategy="no",
    report_to="none",
    disable_tqdm=True,
)
callback = StabilityCallback(on_alarm="warn")
trainer = Trainer(
    BertForSequenceClassification(BertConfig(vocab_size=WORDS, **SIZE)),
    args,
    train_dataset=examples(800),
    eval_dataset=examples(200),
    compute_metrics=compute_metrics,
    callbacks=[callback],
)
trainer.train()

if trainer.is_world_process_zero():
    frame = steps_frame(options.output_dir)  # one row per update step
    print(frame.filter(like="grad_norm/").iloc[[0, len(frame) // 2, -1]].T)
    if callback.alarm is not None:
        print("ALARM", callback.alarm.sentence)
    print(callback.verdict.sentence)
