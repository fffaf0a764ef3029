"""The diagnostics in a plain PyTorch loop: gradient norms by layer, the early warning, the verdict.

`python examples/plain_loop.py` trains a small model on synthetic data, offline, in some seconds. With `--learning_rate 1` it fails.
"""

import argparse
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from hf_stability import layer_grad_norms
from hf_stability.diagnostics.early_warning import find_alarm
from hf_stability.diagnostics.step_record import StepRecord, training_evidence
from hf_stability.verdicts import judge


STEPS, WARMUP, BATCH, WORDS = 100, 10, 16, 100


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embeddings = nn.Embedding(WORDS, 32)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 2, 64, batch_first=True), 2)
        self.classifier = nn.Linear(32, 2)

    def forward(self, ids):
        return self.classifier(self.encoder(self.embeddings(ids)).mean(1))


def examples(count):
    ids = torch.randint(WORDS, (count, 7))
    return ids, ((ids < WORDS // 2).sum(1) > 3).long()  # label: are most words from the first half?


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--output_dir", type=Path, default="runs/plain_loop")
parser.add_argument("--learning_rate", type=float, default=1e-2)
options = parser.parse_args()

torch.manual_seed(0)
model, (train_ids, train_labels), (dev_ids, dev_labels) = Classifier(), examples(1000), examples(200)
optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate)
schedule = torch.optim.lr_scheduler.OneCycleLR(
    optimizer, options.learning_rate, STEPS, pct_start=WARMUP / STEPS, anneal_strategy="linear", cycle_momentum=False
)

columns = ["step", "learning_rate", "loss", "logit_std", "grad_norm", "labels/0", "labels/1"]
columns += [f"grad_norm/{layer}" for layer in layer_grad_norms(model)]
info = {"max_steps": STEPS, "warmup_steps": WARMUP}
record, rows, alarm = StepRecord(columns, options.output_dir / "steps.rec", info=info), [], None
for step in range(1, STEPS + 1):
    batch = torch.randint(len(train_ids), (BATCH,))
    labels, logits = train_labels[batch], model(train_ids[batch])
    loss = cross_entropy(logits, labels)
    loss.backward()
    norms = torch.stack(list(layer_grad_norms(model).values()))  # after backward, before clipping
    total = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    spread = (logits - logits.mean(1, keepdim=True)).std(0).mean()
    seen = torch.stack([loss, spread, total, (labels == 0).sum(), (labels == 1).sum()]).detach()
    rows.append(torch.cat([torch.tensor([step, schedule.get_last_lr()[0]]), seen, norms]))
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    if len(rows) == 10 or step == STEPS:  # copied to the CPU only then: no wait in each step
        record.append(torch.stack(rows).cpu())
        rows.clear()
        if alarm is None and (alarm := find_alarm(record.to_dict())):
            print("ALARM", alarm.sentence)

model.eval()
with torch.no_grad():
    logits = model(dev_ids)
evidence = training_evidence(record.to_dict())
print(judge(eval_labels=dev_labels.numpy(), eval_predictions=logits.numpy(), **evidence).sentence)
