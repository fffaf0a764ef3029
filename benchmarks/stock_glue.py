"""The stock Trainer, for one seed or several in this process. It is the peer of benchmarks/seeds_per_hour.py.

It follows Hugging Face's example run_glue.py: read the texts, tokenise, load the model, train, evaluate after each epoch. The
example pads each text to `--max_seq_length`; `--dynamic` pads each batch to its longest text, as the example's
`--pad_to_max_length False` does. Nothing of hf_stability is imported.

The texts are in one JSON file: `{"train": {"texts": [[first, ...], [second, ...]], "label": [...]}, "validation": ...}`, with one list of
texts for tasks of single sentences.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def train(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Train and evaluate one seed; its scores, losses, predictions and times."""
    import numpy as np
    from datasets import Dataset
    from sklearn.metrics import accuracy_score, matthews_corrcoef
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        PrinterCallback,
        Trainer,
        TrainingArguments,
        default_data_collator,
    )

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    length = min(options.max_seq_length, tokenizer.model_max_length)

    texts = json.loads(options.texts.read_text(encoding="utf-8"))

    def tokenised(name: str) -> Dataset:
        padding = False if options.dynamic else "max_length"
        found = tokenizer(*texts[name]["texts"], padding=padding, max_length=length, truncation=True)
        return Dataset.from_dict({**found, "label": texts[name]["label"]})

    kept: dict[str, Any] = {}

    def compute_metrics(prediction: Any) -> dict[str, float]:
        kept["logits"] = prediction.predictions
        predicted, labels = prediction.predictions.argmax(axis=1), prediction.label_ids
        scores = {"matthews_correlation": matthews_corrcoef(labels, predicted)}
        return {**scores, "accuracy": accuracy_score(labels, predicted)}

    args = TrainingArguments(
        output_dir=str(options.output.parent / "stock"),
        seed=seed,
        learning_rate=options.learning_rate,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=options.eval_batch_size,
        eval_strategy="epoch",
        save_strategy="no",
        logging_steps=options.logging_steps,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        use_cpu=True,
    )
    trainer = Trainer(
        model_init=lambda: AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=2),
        args=args,
        data_collator=DataCollatorWithPadding(tokenizer) if options.dynamic else default_data_collator,
        train_dataset=tokenised("train"),
        eval_dataset=tokenised("validation"),
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
    )
    trainer.remove_callback(PrinterCallback)
    trained = trainer.train()
    log = trainer.state.log_history
    evaluations = [entry for entry in log if "eval_loss" in entry]
    if options.predictions is not None:
        np.savez(options.predictions, logits=kept["logits"])
    return {
        "seed": seed,
        "steps": trainer.state.global_step,
        "train_runtime": trained.metrics["train_runtime"],
        "eval_runtime": sum(entry["eval_runtime"] for entry in evaluations),
        "losses": [entry["loss"] for entry in log if "loss" in entry],
        "scores": evaluations[-1],
    }


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of the checkpoint")
    parser.add_argument("--texts", type=Path, required=True, help="JSON file of the texts, see above")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--dynamic", action="store_true", help="pad each batch to its longest text")
    parser.add_argument("--threads", type=int, help="torch's threads. Default: torch's own")
    parser.add_argument("--max_seq_length", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--eval_batch_size", type=int, default=32)
    parser.add_argument("--learning_rate", type=float, default=5e-5)
    parser.add_argument("--logging_steps", type=int, default=500, help="update steps between two logged train losses")
    parser.add_argument("--output", type=Path, required=True, help="JSON file of the results")
    parser.add_argument("--predictions", type=Path, help=".npz file of the last seed's logits on the development set")
    options = parser.parse_args()
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    found = [train(options, seed) for seed in options.seeds]
    options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
