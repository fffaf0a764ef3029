"""`--until`: stop a study when each pair of recipes is decided.

After set numbers of seeds, the looks, each pair of recipes is tested on all runs so far: their failed shares by Fisher's exact
test, or their mean scores by the permutation test within seeds. The study stops at the first look at which every pair has p at or
below the level. The level is Pocock's for these looks, at `ALPHA` over the number of pairs. So the chance of any false
decision is at most `ALPHA`, over all looks and pairs. That holds only if the looks do not depend on results. So `until.json`
fixes them before the first run.

Each call takes all looks again from the runs, so that a study can be interrupted at any point.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

from ... import statistics
from ...errors import InputError
from ...utils.files import write_json
from ...utils.text import joined
from ...verdicts.verdict import NOT_OK
from ..folder import read_runs
from ..job import Job
from ..records import RunRecord
from ..report.until import UNTIL, UNTIL_SCHEMA, look_sentence, read_until, until_notes
from .policy import AfterRound, Policy


DECIDES = {"failed_share": "Fisher's exact test", "score": "permutation test within seeds"}
"""The figure that decides between two recipes, and its test."""

ALPHA = 0.05
"""Chance of any false decision, over all looks and pairs of recipes."""

FEWEST = 4
"""No default look is at fewer seeds."""

FIXED = {"decides": "--until", "looks": "--until_looks", "seeds": "--seeds", "recipes": "--recipe"}
"""Parts of the plan that cannot be changed once there are results, and their flags."""


def default_looks(seeds: int) -> list[int]:
    """The quarters of a number of seeds, rounded up, none below 4 except the last one: 5, 10, 15, 20 of 20 seeds."""
    quarters = {math.ceil(seeds * part / 4) for part in (1, 2, 3)}
    return [*sorted(n for n in quarters if FEWEST <= n < seeds), seeds]


def looks_text(looks: Any) -> str:
    """`5 10 20`, or whatever was given."""
    several = isinstance(looks, Iterable) and not isinstance(looks, (str, bytes))
    return " ".join(map(str, looks)) if several else str(looks)


def make_plan(jobs: Sequence[Job], decides: str, looks: Sequence[int] | None) -> dict[str, Any]:
    """The content of `until.json` before the first look.

    Args:
        jobs: a job for each of two or more recipes and each seed.
        decides: a key of `DECIDES`.
        looks: numbers of seeds, increasing. Default: `default_looks`.

    Raises:
        InputError: a look is at more seeds than there are, or there is none before the last.
    """
    recipes = list(dict.fromkeys(job.recipe for job in jobs))
    seeds = list(dict.fromkeys(job.seed for job in jobs))
    numbers = default_looks(len(seeds)) if looks is None else list(looks)
    if numbers[-1] > len(seeds):
        raise InputError(f"--until_looks {looks_text(looks)}: there are only {len(seeds)} seeds; give more --seeds")
    if numbers[-1] < len(seeds):
        numbers.append(len(seeds))
    if len(numbers) == 1 and looks is not None:
        raise InputError(f"--until_looks {looks_text(looks)}: no look is before the last seed; give smaller numbers")
    if len(numbers) == 1:
        raise InputError(
            f"--until {decides}: {len(seeds)} seeds leave no look before the last; give {FEWEST + 1} or more --seeds"
        )
    pairs = math.comb(len(recipes), 2)
    return {
        "schema": UNTIL_SCHEMA,
        "decides": decides,
        "recipes": recipes,
        "seeds": seeds,
        "looks": numbers,
        "test": DECIDES[decides],
        "alpha": ALPHA,
        "level": _level(tuple(numbers), ALPHA / pairs),
        "taken": [],
    }


@lru_cache
def _level(looks: tuple[int, ...], alpha: float) -> float:
    return round(statistics.pocock_level(looks, alpha), 8)  # rounded: the same on every machine


def take_look(plan: Mapping[str, Any], runs: Iterable[RunRecord], number: int) -> dict[str, Any]:
    """Test every pair of recipes at a look.

    Args:
        plan: see `make_plan`.
        runs: the records of the plan's recipes; those of later seeds are left out.
        number: of the look, from 1 on.

    Returns:
        an entry of `taken`.
    """
    seeds = plan["seeds"][: plan["looks"][number - 1]]
    by_place = {(run.recipe, run.seed): run for run in runs}
    own = {recipe: [by_place[recipe, seed] for seed in seeds] for recipe in plan["recipes"]}
    compare = _failed_shares if plan["decides"] == "failed_share" else _mean_scores
    pairs = [{"recipes": [a, b], **compare(own[a], own[b])} for a, b in combinations(plan["recipes"], 2)]
    decided = all(pair["p"] is not None and pair["p"] <= plan["level"] for pair in pairs)
    return {"look": number, "seeds": len(seeds), "decided": decided, "pairs": pairs}


def _failed_shares(a: Sequence[RunRecord], b: Sequence[RunRecord]) -> dict[str, Any]:
    if any(run.status == "unknown" for run in (*a, *b)):
        return {"values": [None, None], "p": None}
    failed = [sum(run.status in NOT_OK for run in runs) for runs in (a, b)]
    p = statistics.fisher_exact_p(failed[0], len(a), failed[1], len(b))
    return {"values": [failed[0] / len(a), failed[1] / len(b)], "p": p}


def _mean_scores(a: Sequence[RunRecord], b: Sequence[RunRecord]) -> dict[str, Any]:
    """A diverged run without a score counts with the baseline: the recipe would look better without it."""
    scores = [
        [run.baseline if run.last is None and run.status == "diverged" else run.last for run in runs]
        for runs in (a, b)
    ]
    of_a, of_b = ([score for score in own if score is not None] for own in scores)
    if [of_a, of_b] != scores:
        return {"values": [None, None], "p": None}
    means = [sum(own) / len(own) for own in (of_a, of_b)]
    return {"values": means, "p": statistics.mean_difference(of_a, of_b, paired=True).p}


def smallest_p(decides: str, seeds: int) -> float:
    """The smallest p that the test can have: all runs of one recipe fail, or it scores higher with each seed."""
    return (
        statistics.fisher_exact_p(0, seeds, seeds, seeds)
        if decides == "failed_share"
        else max(2.0 ** (1 - seeds), 1e-4)
    )


@dataclass(frozen=True)
class Until(Policy):
    """Run the seeds in groups, and stop when each pair of recipes is decided.

    Args:
        decides: `failed_share` or `score`.
        looks: numbers of seeds per recipe, increasing, from 2 on. Default: see `default_looks`. All seeds are always the last.

    Raises:
        InputError: a value is outside its range.
    """

    decides: str
    looks: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.decides not in DECIDES:
            raise InputError(f"--until {self.decides}: give {joined(DECIDES, 'or')}")
        if self.looks is None:
            return
        words = looks_text(self.looks)
        whole = not isinstance(self.looks, (str, bytes)) and isinstance(self.looks, Iterable)
        looks = list(self.looks) if whole else []
        if not looks or not all(isinstance(n, int) and not isinstance(n, bool) for n in looks):
            raise InputError(f"--until_looks {words}: give whole numbers of seeds, such as 5 10 20")
        if looks[0] < 2 or any(a >= b for a, b in zip(looks, looks[1:], strict=False)):
            raise InputError(f"--until_looks {words}: give increasing numbers of seeds from 2 on, such as 5 10 20")

    def jobs(self, planned: Sequence[Job]) -> list[Job]:
        recipes = {job.recipe for job in planned}
        if len(recipes) < 2:
            raise InputError(f"--until {self.decides}: compares recipes, but there is one; give two or more --recipe")
        if any(job.args.get("on_alarm") == "stop" for job in planned):
            raise InputError(
                "--on_alarm stop: not allowed with --until, which needs the end of every run; give warn or none"
            )
        if any(job.processes > 1 for job in planned):
            raise InputError("--until: not possible where several processes train a run together; start one process")
        make_plan(planned, self.decides, self.looks)
        return list(planned)

    def check_runs(self, jobs: Sequence[Job], runs: Sequence[RunRecord], folder: Path) -> None:
        plan, old = make_plan(jobs, self.decides, self.looks), read_until(folder)
        found = [run for run in runs if run.recipe in plan["recipes"]]
        if not found:
            return
        why = "a plan that is made after results does not keep the error rate"
        way_out = f"give another --output_dir, or leave out --until{' and --until_looks' * (self.looks is not None)}"
        if not old:
            raise InputError(
                f"--until {self.decides}: {folder} has {len(found)} finished runs but no {UNTIL}, and {why}; {way_out}"
            )
        for key, flag in FIXED.items():
            if old[key] != plan[key]:
                raise InputError(
                    f"{flag} {_short(plan[key])}: this study was begun with {_short(old[key])} ({folder / UNTIL}), and "
                    f"{why}; give these, {way_out}"
                )

    def describe(self, jobs: Sequence[Job]) -> list[str]:
        plan = make_plan(jobs, self.decides, self.looks)
        pairs = math.comb(len(plan["recipes"]), 2)
        line = (
            f"--until {self.decides}: looks after {joined(plan['looks'])} seeds per recipe; it stops when "
            f"{'the pair of recipes is' if pairs == 1 else f'all {pairs} pairs of recipes are'} decided ({plan['test']}, p <= "
            f"{plan['level']:.3g} at each look: {ALPHA} over all looks{' and pairs' if pairs > 1 else ''})"
        )
        early = [n for n in plan["looks"] if smallest_p(self.decides, n) > plan["level"]]
        return [line, *([f"With {joined(early, 'or')} seeds this test can decide nothing"] if early else [])]

    def start(self, folder: Path, jobs: Sequence[Job]) -> None:
        plan, old = make_plan(jobs, self.decides, self.looks), read_until(folder)
        if any(old.get(key) != plan[key] for key in FIXED):
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / UNTIL, plan)

    def rounds(self, jobs: Sequence[Job]) -> list[list[Job]]:
        plan = make_plan(jobs, self.decides, self.looks)
        ends = [0, *plan["looks"]]
        groups = [set(plan["seeds"][a:b]) for a, b in zip(ends, plan["looks"], strict=False)]
        return [[job for job in jobs if job.seed in seeds] for seeds in groups]

    def after_round(self, folder: Path, number: int, jobs: Sequence[Job], runs: Mapping[str, RunRecord]) -> AfterRound:
        plan, old = make_plan(jobs, self.decides, self.looks), read_until(folder)
        ended = [runs[job.name] for group in self.rounds(jobs)[:number] for job in group]
        if crashed := sum(run.status == "crashed" for run in ended):
            return AfterRound(
                f"look {number} of {len(plan['looks'])} was not taken, because {crashed} "
                f"{'run' if crashed == 1 else 'runs'} crashed; run the same command again",
                go_on=False,
            )
        plan["taken"] = [take_look(plan, ended, k) for k in range(1, number + 1)]
        if old.get("taken", [])[:number] != plan["taken"]:
            write_json(folder / UNTIL, plan)
        look = plan["taken"][-1]
        line = look_sentence(plan, look)
        if not look["decided"] or number == len(plan["looks"]):
            return AfterRound(line)
        return AfterRound(line, False, f"decided after {look['seeds']} of {len(plan['seeds'])} seeds")

    def conclusion(self, folder: Path, recipes: Sequence[str]) -> str:
        return "\n".join(until_notes(folder, [(run.recipe, run.seed) for run in read_runs(folder)]))


def _short(values: Any) -> str:
    """`failed_share`, `1 2 3 ... 20`: a part of the plan in a message."""
    long = isinstance(values, list) and len(values) > 6
    return looks_text([*values[:3], "...", values[-1]] if long else values)
