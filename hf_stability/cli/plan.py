"""`hf-stability plan`: how many seeds a study needs to find a difference."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import InputError
from ..statistics import means_found, seeds_for_means, seeds_for_shares, shares_found
from ..utils.text import decimal, markdown_table
from .plain_parser import PlainParser, Texts, parse


TEXTS = Texts(
    "hf-stability plan --failed A B | --difference D --std S [--power 0.8] [--comparisons M] [--json]",
    """How many seeds does a study need? Give the difference that you want to find: two failed shares, or two mean scores and
the standard deviation over seeds. Prints the number of seeds per recipe, and what 5 to 50 seeds would find. Trains
nothing and writes nothing.""",
    """
examples:
  # one recipe fails in 30% of its runs, the other in 5%
  hf-stability plan --power 0.8 --failed 0.3 0.05
  # the mean scores differ by 0.02, and scores have a standard deviation of 0.03 over seeds
  hf-stability plan --difference 0.02 --std 0.03
  # the same seeds for both recipes: the standard deviation is then that of the differences, seed by seed
  hf-stability plan --difference 0.02 --std 0.02 --paired
  # 13 recipes against one, with Holm's correction: the strictest step has the level 0.05 / 13
  hf-stability plan --failed 0.3 0.05 --comparisons 13
  # the same numbers for a script
  hf-stability plan --failed 0.3 0.05 --json

Power is the probability that the study finds the difference, if the difference is as you say. Failed shares: Fisher's
exact test; the power is exact, a sum over all possible counts. Means: the t test, for normal scores. Where runs fail,
the scores are not normal and --std has to include the failed runs: plan with --failed then.
A finished study tells the shares and the standard deviation to plan with: see its summary.md, or take a few seeds
first.
""",
)

PLAN_SCHEMA = "hf_stability.plan/1"

POWER, ALPHA = 0.8, 0.05
SEEDS = (5, 10, 15, 20, 25, 30, 40, 50)
"""Numbers of seeds in the table."""


def main(argv: Sequence[str]) -> int:
    """Print the seeds needed, and a table of the power for other numbers of seeds."""
    known = PlainParser("plan", TEXTS)
    known.add_argument("--power", type=float, nargs="?", const=POWER, help="Wanted power, in (0, 1). Default: 0.8.")
    known.add_argument("--failed", type=float, nargs=2, metavar=("A", "B"), help="Two true failed shares, in [0, 1].")
    known.add_argument("--difference", type=float, help="Difference of two true means, in the score's unit.")
    known.add_argument("--std", type=float, help="Standard deviation of the scores over seeds, in the score's unit.")
    known.add_argument("--paired", action="store_true", help="Same seeds for both: --std is that of the differences.")
    known.add_argument("--alpha", type=float, help="Level of the two-sided test. Default: 0.05.")
    known.add_argument("--comparisons", type=int, help="Number of comparisons in Holm's correction. Default: 1.")
    known.add_argument("--json", action="store_true", help="Print JSON instead of text.")
    given = parse(known, argv)
    contents = plan_contents(given)
    print(json.dumps(contents, indent=2) if given.get("json") else plan_text(contents))
    return 0


def plan_contents(given: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a plan.

    | key | meaning |
    | --- | --- |
    | `power`, `alpha`, `comparisons` | as given |
    | `level` | level of each test, alpha / comparisons |
    | `questions` | one or two: `failed shares` first, then `means` |

    | key of a question | meaning |
    | --- | --- |
    | `question`, `name` | `failed shares` or `means`; the same with its values, in words |
    | `failed`, or `difference`, `std` and `paired` | as given |
    | `test` | the test that is to find the difference |
    | `seeds` | number of seeds per recipe that has the power |
    | `found` | for 5 to 50 `seeds` per recipe, the `power` |

    Args:
        given: the flags that were given, see `main`.

    Raises:
        InputError: nothing to plan for, or a value is outside its range.
    """
    power, alpha, comparisons = given.get("power", POWER), given.get("alpha", ALPHA), given.get("comparisons", 1)
    if comparisons < 1:
        raise InputError(f"--comparisons {comparisons}: need at least 1")
    level = alpha / comparisons
    questions = []
    if "failed" in given:
        questions.append(_shares(given["failed"], power, level))
    elif not {"difference", "std"} & set(given):
        raise InputError("plan: give --failed A B, or --difference D with --std S; see hf-stability plan --help")
    if missing := {"difference", "std"} - set(given):
        if len(missing) == 1 or "paired" in given:
            raise InputError(f"--{sorted(missing)[0]} is missing: a difference of means needs --difference and --std")
    else:
        questions.append(_means(given["difference"], given["std"], given.get("paired", False), power, level))
    return {
        "schema": PLAN_SCHEMA,
        "power": power,
        "alpha": alpha,
        "comparisons": comparisons,
        "level": level,
        "questions": questions,
    }


def _shares(failed: Sequence[float], power: float, level: float) -> dict[str, Any]:
    a, b = failed
    return {
        "question": "failed shares",
        "name": f"failed shares {a:g} and {b:g}",
        "failed": [a, b],
        "test": "Fisher's exact test",
        "seeds": seeds_for_shares(a, b, power, level),
        "found": _found(lambda n: shares_found(a, b, n, level)),
    }


def _means(difference: float, std: float, paired: bool, power: float, level: float) -> dict[str, Any]:
    return {
        "question": "means",
        "name": f"means {abs(difference):g} apart, std {std:g}" + " of the differences" * paired,
        "difference": difference,
        "std": std,
        "paired": paired,
        "test": "paired t test" if paired else "t test",
        "seeds": seeds_for_means(difference, std, power, level, paired),
        "found": _found(lambda n: means_found(difference, std, n, level, paired)),
    }


def _found(power: Callable[[int], float]) -> list[dict[str, float]]:
    return [{"seeds": n, "power": power(n)} for n in SEEDS]


def plan_text(contents: Mapping[str, Any]) -> str:
    """The lines that are printed without `--json`.

    Args:
        contents: see `plan_contents`.
    """
    questions = contents["questions"]
    lines = [f"Seeds per recipe for power {contents['power']:g}, two-sided level {_level(contents)}:"]
    lines += [f"- {question['name']}, {question['test']}: {question['seeds']}" for question in questions]
    rows = [
        [str(cells[0]["seeds"]), *(decimal(cell["power"], 2) for cell in cells)]
        for cells in zip(*(question["found"] for question in questions), strict=True)
    ]
    names = [question["name"] for question in questions]
    lines += ["", "Power with other numbers of seeds:", markdown_table(["seeds per recipe", *names], rows)]
    return "\n".join(lines)


def _level(contents: Mapping[str, Any]) -> str:
    level, comparisons = contents["level"], contents["comparisons"]
    if comparisons == 1:
        return f"{level:g}"
    return f"{level:.2g} ({contents['alpha']:g} over {comparisons} comparisons, Holm's strictest step)"
