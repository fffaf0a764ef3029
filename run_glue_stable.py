"""Fine-tune on GLUE over many seeds with a stability recipe: `accelerate launch run_glue_stable.py --help`.

The thin twin of the console script `hf-stability`. On several GPUs, `accelerate launch` trains each run on all of them;
on a CPU use `torchrun --nproc_per_node 2 run_glue_stable.py --use_cpu`.
"""

import sys

from hf_stability.cli import main


if __name__ == "__main__":
    sys.exit(main())
