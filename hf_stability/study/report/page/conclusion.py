"""The verdict of a report: an advice, and three sentences that can be pasted into a paper, from the report's numbers alone.

The advice names the recipe to use, and how sure that is. The first sentence is about failed runs, the second about the means, the
third says what would change the verdict. Numbers of seeds are estimates: they take the shares, the difference and the std of these
runs for the true ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .... import statistics
from ....errors import InputError
from ....utils.text import apart, decimal, interval_text, joined, p_text
from ...records import UNJUDGED
from ..sentences import LEVEL
from .contents import POWER


MOST_NAMED = 4
"""A sentence names at most so many recipes."""

RARE = 0.05
"""A failed share below this is called rare."""

MOST = 0.5
"""With a failed share above this, most runs failed."""


def conclusion(contents: Mapping[str, Any]) -> list[str]:
    """The three sentences.

    Args:
        contents: see `report_contents`.
    """
    return [failed_sentence(contents), mean_sentence(contents), change_sentence(contents)]


# ---- which recipe to use --------------------------------------------------------------------------------------------


def advice(contents: Mapping[str, Any]) -> str:
    """Which recipe to use, against which others this is decided, and the update steps of its runs.

    The pairs' findings decide, see `contents.finding`: failed runs come first, then means. Nothing is decided against a recipe
    without a known failed share.

    Args:
        contents: see `report_contents`.
    """
    recipes = _by_name(contents)
    leader = recipes[contents["ranking"][0]]
    name = leader["recipe"]
    if leader["failed_share"] is None:
        why = _why_unknown(contents["recipes"])
        return f"These runs do not tell which recipe to use: it is not known how many of them failed, because {why}."
    if not contents["pairs"]:
        return (
            f"{_count(leader)} runs of {name} failed. It is the only recipe here, so these runs do not tell whether another one "
            "is better."
        )
    if _all_failed(contents):
        return "Use none of these recipes: every run failed."
    if leader["failed_share"] == 1:
        known, unknown = (
            [f for f in recipes.values() if (f["failed_share"] is None) == want] for want in (False, True)
        )
        return (
            f"These runs do not tell which recipe to use: every run of {_names(known)} failed, and the failed share of "
            f"{_names(unknown)} is unknown."
        )
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for pair in contents["pairs"]:
        if pair["a"] == name:
            groups.setdefault(_group(pair), []).append(recipes[pair["b"]])
    parts = [f"Use {name}."]
    if leader["failed_share"] > MOST:
        parts = [f"Use {name}, but look for a better recipe: {leader['failed']} of its {leader['runs']} runs failed."]
    beaten, left = groups.get("beaten", []), groups.get("open", [])
    if beaten and len(beaten) == len(recipes) - 1:
        others = _names(beaten) if len(beaten) < MOST_NAMED else f"all {len(beaten)} other recipes"
        parts.append(f"Against {others}, this is decided.")
    elif beaten:
        parts.append(
            f"Against {_names(beaten) if len(beaten) < MOST_NAMED else f'{len(beaten)} others'}, this is decided."
        )
    if left:
        parts.append(f"Against {_names(left)}, it is not decided.")
    if "equal" in groups:
        parts.append(f"As good: {_names(groups['equal'])}.")
    if "higher" in groups:
        higher = groups["higher"]
        means = "its mean is higher" if len(higher) == 1 else "their means are higher"
        parts.append(f"Against {_names(higher)}, failed runs do not decide, and {means}.")
    return " ".join([*parts, *_cost(leader, recipes[contents["ranking"][1]])])


DECIDED = {"fails less": "beaten", "better": "beaten", "equal": "equal", "worse": "higher"}
"""A finding about the leader -> what the advice says. Each other finding leaves it open: the leader never fails more."""


def _group(pair: Mapping[str, Any]) -> str:
    """The word of `DECIDED` for a pair of the leader. Means alone do not speak for it if a failed share is unknown."""
    group = DECIDED.get(pair["finding"], "open")
    return "open" if pair["share"] is None and group != "higher" else group


def _all_failed(contents: Mapping[str, Any]) -> bool:
    return all(figures["failed_share"] == 1 for figures in contents["recipes"])


def _why_unknown(recipes: Sequence[Mapping[str, Any]]) -> str:
    """Why no recipe has a failed share."""
    if any(figures["stopped"] or figures["stopped_early"] for figures in recipes):
        return "runs were stopped"
    return "no baseline was given" if any(figures.get(UNJUDGED) for figures in recipes) else "they have no verdict"


def _cost(leader: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """A sentence on the update steps of both recipes, if they are known and differ."""
    if not leader["steps"] or not second["steps"] or leader["steps"] == second["steps"]:
        return []
    return [
        f"One of its runs takes {leader['steps']} update steps, one of {second['recipe']} takes {second['steps']}."
    ]


# ---- failed runs ----------------------------------------------------------------------------------------------------


def failed_sentence(contents: Mapping[str, Any]) -> str:
    """Which recipe has the smallest failed share, and against which others this is decided."""
    recipes = _by_name(contents)
    leader = recipes[contents["ranking"][0]]
    where = f"On {contents['task']}, " if contents["task"] else ""
    if leader["failed_share"] is None:
        return _without_share(contents, leader, where)
    rest = [recipes[name] for name in contents["ranking"][1:]]
    known = [figures for figures in rest if figures["failed_share"] is not None]
    tied = [figures for figures in known if figures["failed_share"] == leader["failed_share"]]
    others = [figures for figures in known if figures["failed_share"] > leader["failed_share"]]
    count = f"{_count(leader)} ({_interval(leader)})"
    if not rest:
        return f"{where}{leader['recipe']} failed in {count}; there is no other recipe to compare it with."
    if not others:
        head = (
            f"{where}failed runs do not decide between {_names([leader, *tied])}: {leader['recipe']} failed in {count}"
        )
        if tied:
            head += f", {'the other' if len(tied) == 1 else 'each other one'} in the same share of its runs"
        return f"{_upper(head)}{_unknown(rest, known)}."
    if tied:
        same = all(figures["runs"] == leader["runs"] for figures in tied)
        each = f"{_count(leader)} each ({_interval(leader)})" if same else f"{leader['recipe']} {count}"
        head = f"{where}{_names([leader, *tied])} have the fewest failed runs: {each}"
    else:
        head = f"{where}{leader['recipe']} has the fewest failed runs: {count}"
    by_pair = {pair["b"]: pair for pair in contents["pairs"] if pair["a"] == leader["recipe"]}
    decided = [figures for figures in others if by_pair[figures["recipe"]]["share"]["p_holm"] < LEVEL]
    undecided = [figures for figures in others if figures not in decided]
    parts = [
        f"{word} against {_names(some, by_pair)}"
        for word, some in (("decided", decided), ("not decided", undecided))
        if some
    ]
    test = f"by Fisher's exact test{_holm(contents, ' with')}"
    return f"{head}; {test}, this is {' and '.join(parts)}{_unknown(rest, known)}."


def _without_share(contents: Mapping[str, Any], leader: Mapping[str, Any], where: str) -> str:
    """No recipe has a failed share: there are no verdicts, or runs were stopped."""
    recipes = contents["recipes"]
    if any(figures["stopped"] or figures["stopped_early"] for figures in recipes):
        n = sum(figures["stopped"] + figures["stopped_early"] for figures in recipes)
        text = f"{where}the failed shares are unknown, because {n} {'run was' if n == 1 else 'runs were'} stopped"
        return _upper(f"{text} before the end of training.")
    judge = ", and no baseline was given to judge them" * any(figures.get(UNJUDGED) for figures in recipes)
    return _upper(
        f"{where}which runs failed is unknown: these scores have no verdicts{judge} "
        f"({leader['recipe']} has the highest mean of {len(recipes)} {'recipe' if len(recipes) == 1 else 'recipes'})."
    )


def _unknown(rest: Sequence[Mapping[str, Any]], known: Sequence[Mapping[str, Any]]) -> str:
    """Recipes that no failed share is known of."""
    missing = [figures for figures in rest if figures not in known]
    return f"; the failed share of {_names(missing)} is unknown" if missing else ""


# ---- means ----------------------------------------------------------------------------------------------------------


def mean_sentence(contents: Mapping[str, Any]) -> str:
    """The leader's mean, and its difference from the next recipe's against practical equivalence and the noise floor."""
    leader, metric = _by_name(contents)[contents["ranking"][0]], contents["metric"]
    if leader["mean"] is None:
        return f"The {metric} of {leader['recipe']} has no mean, because it has no score that was not selected."
    head = f"The mean {_words(metric)} of {leader['recipe']} at the end of training is {decimal(leader['mean'])}"
    pair = _rival(contents)
    n = f"n = {leader['n_scores']}"
    if pair is None or pair["mean"] is None:
        interval = _text_interval(leader["mean_low"], leader["mean_high"])
        std = ""
        if leader["std_ok"] is not None:
            limits = _text_interval(leader["std_ok_low"], leader["std_ok_high"])
            std = f", with a std of {decimal(leader['std_ok'])}{f' ({limits})' if limits else ''} among the {leader['n_ok']} runs that did not fail"
        return f"{head} ({n}{f', {interval}' if interval else ''}){std}{_one_floor(contents)}."
    test = pair["mean"]
    amount = abs(test["estimate"])
    relation = "above" if test["estimate"] >= 0 else "below"
    pairing = f", paired by {test['n'][0]} seeds" if test["paired"] else f", {test['n'][0]} and {test['n'][1]} runs"
    p = f", {p_text(test['p_holm'])}{_holm(contents)}" if test["p_holm"] is not None else ""
    low, high = (test["low"], test["high"]) if test["estimate"] >= 0 else (-test["high"], -test["low"])
    included = ", failed runs included" if any(pair["failed"]) else ""
    return (
        f"{head} ({n}{included}), {decimal(amount)} {relation} that of {pair['b']} "
        f"({_text_interval(low, high)}{pairing}{p}); {_equivalence(contents, pair)}{_floor(contents, pair)}."
    )


def _equivalence(contents: Mapping[str, Any], pair: Mapping[str, Any]) -> str:
    region = f"the region of practical equivalence (±{_plain(contents['rope'])})"
    word = pair["equivalence"]
    if word == "equal":
        return f"the whole interval is inside {region}, so that the means count as equal"
    if word in ("better", "worse"):
        return f"the whole interval is outside {region}"
    return f"the interval reaches into {region}, so that this is undecided"


def _floor(contents: Mapping[str, Any], pair: Mapping[str, Any]) -> str:
    floor, examples = contents["noise_floor"], contents["examples"]
    if floor is None:
        return f", and the noise floor of the development set is unknown{_why_no_floor(contents)}"
    of = f"the noise floor of {examples} development examples (±{decimal(floor)})"
    if pair["above_noise"]:
        return f", and the difference is above {of}"
    return f", and the difference is below {of}, so that the two are not ranked"


def _one_floor(contents: Mapping[str, Any]) -> str:
    if contents["noise_floor"] is None:
        return ""
    return f"; {contents['examples']} development examples alone imply a noise floor of ±{decimal(contents['noise_floor'])}"


def _why_no_floor(contents: Mapping[str, Any]) -> str:
    if contents["examples"] is None:
        return " (its number of examples was not given)"
    return f" ({_words(contents['metric'])} is not a share of the examples)"


# ---- what would change it -------------------------------------------------------------------------------------------


def change_sentence(contents: Mapping[str, Any]) -> str:
    """How many more seeds would decide what is open, or bring the failed share's limit down."""
    leader, pair = _by_name(contents)[contents["ranking"][0]], _rival(contents)
    if pair is not None and _all_failed(contents):
        return "More seeds will hardly change that every run fails; a lower learning rate, another model or other data may."
    if (
        pair is not None
        and pair["share"] is not None
        and pair["share"]["estimate"]
        and pair["share"]["p_holm"] >= LEVEL
    ):
        return _seeds_for_shares(contents, pair)
    if pair is not None and pair["mean"] is not None and pair["finding"] in ("undecided", "within noise"):
        return _seeds_for_means(contents, pair)
    if pair is not None and pair["share"] is None:
        both = f"{pair['a']} and {pair['b']}"
        return (
            f"More seeds do not tell which of {both} to use as long as it is not known how many of their runs failed."
        )
    low = _seeds_without_failure(leader)
    if pair is None and leader["failed"]:
        return (
            "A second recipe, run with the same seeds, would show whether these failures can be avoided; a lower learning rate "
            "may avoid them too."
        )
    if pair is None:
        head = "A second recipe, run with the same seeds, would make this a comparison"
    else:
        head = f"More seeds will hardly change which of {leader['recipe']} and {pair['b']} to use on these data"
    if low is None:
        return f"{head}; other data, another model or another learning rate may."
    return f"{head}; to show that {leader['recipe']} fails in less than {RARE} of its runs takes {low}."


def _seeds_for_shares(contents: Mapping[str, Any], pair: Mapping[str, Any]) -> str:
    shares = [failed / runs for failed, runs in zip(pair["failed"], pair["runs"], strict=True)]
    counts = " and ".join(f"{failed} of {runs}" for failed, runs in zip(pair["failed"], pair["runs"], strict=True))
    n = _needed(statistics.seeds_for_shares, contents, *shares)
    both, head = f"{pair['a']} and {pair['b']}", ""
    if pair["finding"] == "better":
        both = "both"
        head = f"More seeds will hardly change that {pair['a']} is better than {pair['b']}, because the means decide; "
    return _upper(
        f"{head}if the true failed shares of {both} are those seen here ({counts}), "
        f"{_seeds(n, pair)} decide between them with power {POWER}{_level(contents)}."
    )


def _seeds_for_means(contents: Mapping[str, Any], pair: Mapping[str, Any]) -> str:
    """The interval must leave the region of practical equivalence, or come to lie inside of it."""
    if pair["finding"] == "within noise":
        return (
            f"More seeds will not rank {pair['a']} and {pair['b']}, because their difference is below the noise floor; more "
            "development examples would."
        )
    test, rope = pair["mean"], contents["rope"]
    difference, std = abs(test["estimate"]), test["std"]
    n = _needed(statistics.seeds_for_means, contents, abs(difference - rope), std, paired=test["paired"])
    aim = f"that it is {'larger' if difference > rope else 'smaller'} than {_plain(rope)}" if rope else "it"
    noise = "; ranking them also needs more development examples" if pair["above_noise"] is False else ""
    return (
        f"If the true difference between {pair['a']} and {pair['b']} is that seen here ({decimal(difference)}, std"
        f"{' of the differences' * test['paired']} {decimal(std)}), {_seeds(n, pair)} show {aim} with power {POWER}{_level(contents)}{noise}"
        f"{_open_share(contents)}."
    )


def _open_share(contents: Mapping[str, Any]) -> str:
    """`; if the failed shares of a and b ..., about 5 seeds ... show that b fails more often`, for the next recipe that is open."""
    for pair in contents["pairs"]:
        share = pair["share"]
        is_open = (
            pair["finding"] == "undecided" and share is not None and share["estimate"] and share["p_holm"] >= LEVEL
        )
        if pair["a"] == contents["ranking"][0] and is_open:
            shares = [failed / runs for failed, runs in zip(pair["failed"], pair["runs"], strict=True)]
            n = _needed(statistics.seeds_for_shares, contents, *shares)
            given = f"if the failed shares of {pair['a']} and {pair['b']} are those seen here"
            return f"; {given}, {_seeds(n, pair)} show that {pair['b']} fails more often"
    return ""


def _needed(function: Callable[..., int], contents: Mapping[str, Any], *values: float, **how: bool) -> int | None:
    """Seeds per recipe, at Holm's strictest level; None if they are more than `statistics.MOST_SEEDS`."""
    try:
        return function(*values, power=POWER, alpha=LEVEL / contents["family"]["pairs"], **how)
    except InputError:
        return None


def _level(contents: Mapping[str, Any]) -> str:
    """` at the level 0.05 / 3`, which is Holm's strictest step for three pairs; empty for one pair."""
    n = contents["family"]["pairs"]
    return f" at the level {LEVEL} / {n}" if n > 1 else ""


def _seeds(n: int | None, pair: Mapping[str, Any]) -> str:
    """`about 49 seeds per recipe (29 more than here)`."""
    if n is None:
        return f"more than {statistics.MOST_SEEDS} seeds per recipe"
    here = min(pair["runs"] if all(pair["runs"]) else pair["mean"]["n"])
    return f"about {n} seeds per recipe ({f'{n - here} more than here' if n > here else 'as many are here'})"


def _seeds_without_failure(figures: Mapping[str, Any]) -> str | None:
    """Runs without a failure that bring the upper Wilson limit below `RARE`, in words; None if some failed, or it is there."""
    if figures["failed_share"] is None or figures["failed"] or figures["failed_share_high"] < RARE:
        return None
    n = next(n for n in range(1, 1000) if statistics.wilson_interval(0, n)[1] < RARE)
    return f"{n} runs without a failure ({n - figures['runs']} more than here)"


# ---- small things ---------------------------------------------------------------------------------------------------


def _by_name(contents: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {figures["recipe"]: figures for figures in contents["recipes"]}


def _rival(contents: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The leader's pair with the second recipe of the ranking; None with one recipe."""
    return contents["pairs"][0] if contents["pairs"] else None


def _names(recipes: Sequence[Mapping[str, Any]], pairs: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """`a, b and 9 others`; with the pairs `a (3 of 20; p = 0.231) and b (12 of 20; p < 0.001)`."""
    named = [f["recipe"] for f in recipes]
    if pairs is not None:
        named = [f"{f['recipe']} ({_count(f)}; {p_text(pairs[f['recipe']]['share']['p_holm'])})" for f in recipes]
    if len(named) > MOST_NAMED:
        named = [*named[: MOST_NAMED - 1], f"{len(named) - MOST_NAMED + 1} others"]
    return joined(named)


def _count(figures: Mapping[str, Any]) -> str:
    return f"{figures['failed']} of {figures['runs']}"


def _interval(figures: Mapping[str, Any]) -> str:
    return interval_text(figures["failed_share_low"], figures["failed_share_high"])


def _text_interval(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return ""
    low_text, high_text = apart(low, high)
    return f"95% interval {low_text} to {high_text}"


def _holm(contents: Mapping[str, Any], before: str = " after") -> str:
    """` after Holm's correction over 3 pairs`; empty for one pair."""
    n = contents["family"]["pairs"]
    return f"{before} Holm's correction over {n} pairs" if n > 1 else ""


def _words(metric: str) -> str:
    return metric.replace("_", " ")


def _plain(value: float) -> str:
    """A number as short as it was given: `0.01`."""
    return f"{value:g}"


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
