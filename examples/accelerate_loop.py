"""The diagnostics in a loop with accelerate: gradient norms by layer, the early warning, the verdict.

`python examples/accelerate_loop.py` trains a small BERT on synthetic data, offline, in some seconds. In two processes:
`torchrun --nproc_per_node 2 examples/accelerate_loop.py`. With `--learning_rate 1` it fails.
"""

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from transformers import BertConfig, BertForSequenceClassification, get_linear_schedule_with_warmup

from hf_stability import layer_grad_norms
from hf_stability.diagnostics.early_warning import find_alarm
from hf_stability.diagnostics.step_record import StepRecord, training_evidence
from hf_stability.verdicts import judge


EPOCHS, BATCH, WORDS = 2, 16, 100
SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def examples(count):
    ids = torch.randint(5, WORDS, (count, 7))
    return TensorDataset(ids, (ids[:, 0] < WORDS // 2).long())  # the first word decides the label


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--output_dir", type=Path, default="runs/accelerate_loop")
parser.add_argument("--learning_rate", type=float, default=3e-3)
options = parser.parse_args()

one_batch_for_all = DataLoaderConfiguration(split_batches=True)
# On CPUs, accelerate connects the processes only with cpu=True.
accelerator = Accelerator(cpu=not torch.accelerator.is_available(), dataloader_config=one_batch_for_all)
set_seed(0)
model = BertForSequenceClassification(BertConfig(vocab_size=WORDS, **SIZE))
train, dev = DataLoader(examples(800), BATCH, shuffle=True), DataLoader(examples(200), 100)
steps, warmup = EPOCHS * len(train), EPOCHS * len(train) // 10
optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate)
schedule = get_linear_schedule_with_warmup(optimizer, warmup, steps)
model, optimizer, train, dev, schedule = accelerator.prepare(model, optimizer, train, dev, schedule)

columns = ["step", "learning_rate", "loss", "logit_std", "grad_norm", "labels/0", "labels/1"]
columns += [f"grad_norm/{layer}" for layer in layer_grad_norms(model)]
file = options.output_dir / "steps.rec" if accelerator.is_main_process else None  # other processes: in memory
record = StepRecord(columns, file, info={"max_steps": steps, "warmup_steps": warmup})
rows, alarm, step = [], None, 0
for ids, labels in (batch for _ in range(EPOCHS) for batch in train):
    logits = model(ids).logits
    accelerator.backward(cross_entropy(logits, labels))
    step += 1
    accelerator.unscale_gradients()  # has an effect with fp16 only
    norms = torch.stack(list(layer_grad_norms(model).values()))  # after backward, before clipping
    total = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    logits, labels = accelerator.gather((logits.detach(), labels))  # from all processes
    spread = (logits - logits.mean(1, keepdim=True)).std(0).mean()
    seen = [cross_entropy(logits, labels), spread, total, (labels == 0).sum(), (labels == 1).sum()]
    known = torch.tensor([step, schedule.get_last_lr()[0]], device=logits.device)
    rows.append(torch.cat([known, torch.stack(seen), norms]))
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    if len(rows) == 10 or step == steps:  # copied to the CPU only then: no wait in each step
        record.append(torch.stack(rows).cpu())
        rows.clear()
        if alarm is None and (alarm := find_alarm(record.to_dict())):  # the same in all processes
            accelerator.print("ALARM", alarm.sentence)

model.eval()
with torch.no_grad():
    outputs = [accelerator.gather_for_metrics((model(ids).logits, labels)) for ids, labels in dev]
logits, labels = (torch.cat(part).cpu().numpy() for part in zip(*outputs, strict=True))
evidence = training_evidence(record.to_dict())
accelerator.print(judge(eval_labels=labels, eval_predictions=logits, **evidence).sentence)
accelerator.end_training()
