"""Your own method beside the packaged ones: NoisyTune, noise on the pretrained weights (Wu et al., ACL 2022, arXiv 2202.12024).

`python examples/own_method.py` compares training with and without it, on the bundled demo and offline. From the command line:

    hf-stability --task_name demo_pair --recipe devlin2019 --method examples/own_method.py:NoisyTune --noisy_tune 0.15
"""

import argparse
from dataclasses import dataclass, field

import torch

from hf_stability import run_study
from hf_stability.methods import Method, Range
from hf_stability.utils.layers import base_model


@torch.no_grad()
def add_noise(parameters, intensity, generator=None):
    """For each parameter tensor W, in place: W <- W + U(-intensity / 2, intensity / 2) std(W)."""
    for parameter in parameters:
        noise = torch.rand(parameter.shape, generator=generator).to(parameter.device) - 0.5
        parameter.add_(noise * intensity * parameter.std())


@dataclass
class NoisyTuneArguments:
    noisy_tune: float = field(default=0.0, metadata={"help": "NoisyTune's lambda (the paper, on GLUE: 0.15). 0: off."})


class NoisyTune(Method):
    """Adds noise to the encoder before training. The new head stays as it is."""

    Arguments = NoisyTuneArguments
    ranges = {"noisy_tune": Range()}

    def prepare_model(self, model, trainer, generator=None):
        _, encoder = base_model(model)
        add_noise(encoder.parameters(), self.settings.noisy_tune, generator)


if __name__ == "__main__":  # worker processes import this file
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", default="results/own_method")
    parser.add_argument("--max_steps", type=int, default=100)
    parser.add_argument("--seeds", default="2")
    options = parser.parse_args()
    result = run_study(
        task_name="demo_pair",
        recipes=["devlin2019", f"devlin2019+{__file__.removesuffix('.py')}.yaml"],  # the file names this method
        seeds=options.seeds,
        output_dir=options.output_dir,
        max_steps=options.max_steps,
    )
    print(result.frame[["recipe", "seed", "status", "last"]].to_string(index=False))
