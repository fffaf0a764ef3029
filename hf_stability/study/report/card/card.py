"""The model card of a recipe in a study: its scores over seeds, and the run that the weights are from.

The card is the `README.md` of a model on the Hugging Face hub, made with `huggingface_hub`'s own classes. It has what the
study's folder records. Other things are left out, not guessed: a licence, a language, the name of the user's own data.
Paths of this machine are shortened to their last part, because a card is public.

The metadata's results belong to the weights: `accuracy` is the score of this one run. The figures over seeds have types of
their own (`accuracy_mean`, `accuracy_std`, `failed_share`), so that no reader takes the mean for the weights' score.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ....errors import InputError
from ....tasks.demo.data import DEMO_TASKS
from ....tasks.files import MULTI_LABEL
from ....tasks.glue import GLUE_TASKS, HUB_DATASET
from ....utils.files import write_text
from ....utils.text import decimal, joined, markdown_table
from ...attempts import MARK
from ...folder import read_runs
from ...job import Job
from ...records import RunRecord, counting_key
from ..scores import not_finished
from ..summary import censored
from ..summary_page import RESTART_NOTES, SCORE_COLUMNS, bounds_cell, cost_cell, failed_text, first_cell
from ..until import until_notes
from .rerun import BUNDLED, is_bundled, public, rerun_section
from .source import CardSource


MADE_HERE = "<!-- Written by hf-stability card, which replaces this file. Delete this line to keep your own text. -->"
"""The line that tells our cards from files that a user wrote."""

HUB_METRICS = {
    "accuracy": "accuracy",
    "f1": "f1",
    "matthews_correlation": "matthews_correlation",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
}
"""A metric here -> its name on the hub. The others have none."""

TASK_TYPE = "text-classification"
"""The hub's name of the task of every model here, which is an `AutoModelForSequenceClassification`. A regression has it too."""

TAGS = ("generated_from_trainer", "hf_stability")


# ---- the metadata ---------------------------------------------------------------------------------------------------


def card_data(source: CardSource) -> Any:
    """The card's metadata as `ModelCardData`."""
    from huggingface_hub import ModelCardData

    results = eval_results(source)
    return ModelCardData(
        base_model=source.base_model,
        datasets=[source.dataset] if source.dataset else None,
        library_name="transformers",
        metrics=[name for key, name in HUB_METRICS.items() if _has(source.run, key)] or None,
        pipeline_tag=TASK_TYPE,
        tags=list(TAGS),
        model_name=f"{source.job.task} {source.run.recipe} {source.run.name.split('/')[-1]}" if results else None,
        eval_results=results or None,
    )


def eval_results(source: CardSource) -> list[Any]:
    """The weights' score, and the figures over seeds, as `EvalResult`. Empty for data without a name on the hub.

    With `--validation_half both` the weights' score is that of the second half, which selected nothing.
    """
    from huggingface_hub import EvalResult

    if source.dataset is None:
        return []
    run, figures, metric = source.run, source.figures, source.metric
    name, n = HUB_METRICS.get(metric, metric), figures["scores"]
    after = ", after restarts" if figures.get("restarts") else ""
    weights = f"these weights ({_seed(run)})"
    values: list[tuple[str, Any, str]] = [
        (name, run.last, f"{metric} of {weights}")
        if run.report is None
        else (
            name,
            run.report,
            f"{metric} of {weights} on the second half of the development set, which selected nothing",
        ),
        (f"{name}_mean", figures["mean"], f"mean {metric} of {n} runs{after}, {source.part}"),
        (f"{name}_std", figures["std"], f"standard deviation of {metric}, {n} runs{after}, {source.part}"),
        (
            "failed_share",
            figures["failed_share"],
            f"share of failed runs{after}, {figures['failed']} of {figures['runs']}",
        ),
    ]
    is_glue = source.dataset == HUB_DATASET and source.job.task in GLUE_TASKS
    return [
        EvalResult(
            task_type=TASK_TYPE,
            dataset_type=source.dataset,
            dataset_name=f"GLUE {source.job.task}" if is_glue else source.dataset,
            dataset_config=source.job.task if is_glue else None,
            dataset_split=source.official_split if is_glue else None,
            metric_type=kind,
            metric_value=value,
            metric_name=text,
        )
        for kind, value, text in values
        if value is not None
    ]


def _has(run: RunRecord, metric: str) -> bool:
    try:
        counting_key(run.metrics, metric)
    except KeyError:
        return metric == run.metric
    return True


# ---- the text -------------------------------------------------------------------------------------------------------


def card_text(source: CardSource) -> str:
    """The whole card, its YAML block first."""
    from huggingface_hub import ModelCard

    metric, run = source.metric, source.run
    lines = [
        MADE_HERE,
        "",
        f"# {source.job.task}: {run.recipe}, {_seed(run)}",
        "",
        f"{_model_words(source)} was fine-tuned on {source.job.task} with the recipe `{run.recipe}` of hf_stability, over "
        f"{len(source.runs)} {'runs' if len(source.runs) > 1 else 'run'} that differ only in their random seeds.",
        "",
        "## Scores over seeds",
        "",
        markdown_table([metric.replace("_", " "), "value"], _rows(source)),
        "",
        *(f"- {note}" for note in _notes(source)),
        "",
        "## These weights" if source.model else "## The run of this card",
        "",
        *_weights(source),
        "",
        "## Settings",
        "",
        markdown_table(["argument", "value", "from"], _settings(source.job)),
        "",
        "Every other argument has the default of the Trainer.",
        "",
        *rerun_section(source.job, source.runs, _model_flag(source)),
        "",
        "## Versions",
        "",
        markdown_table(["what", "version or number"], _versions(source)),
    ]
    return str(ModelCard(f"---\n{card_data(source).to_yaml()}\n---\n\n" + "\n".join(lines) + "\n"))


def _model_words(source: CardSource) -> str:
    if source.base_model is not None:
        return f"[{source.base_model}](https://huggingface.co/{source.base_model})"
    if is_bundled(source.pretrained):
        return "The small model that hf_stability bundles for its demo"
    return f"The pretrained model `{public(source.pretrained)}`" if source.pretrained else "A pretrained model"


def _model_flag(source: CardSource) -> str:
    if source.base_model is not None:
        return source.base_model
    demo = source.job.task in DEMO_TASKS and is_bundled(source.pretrained)
    return BUNDLED if demo else "MODEL"


def _rows(source: CardSource) -> list[list[str]]:
    figures = source.figures
    rows = [
        ["runs", str(figures["runs"])],
        ["failed = share (95% interval)", failed_text(figures)],
    ]
    if figures["stopped"]:
        rows.append(["failed share: bounds (95% limits)", bounds_cell(figures)])
    if restarts := figures.get("restarts"):
        rows += [["runs that began again", str(restarts["restarted"])]]
        rows += [
            ["failed share of first attempts", first_cell(figures)],
            ["cost per run, in runs", cost_cell(figures)],
        ]
    mark = MARK if restarts else ""
    rows += [[name + mark, decimal(figures[key])] for name, key in SCORE_COLUMNS.items() if figures[key] is not None]
    if figures["report_mean"] is not None:
        rows.append(["mean on the second half", decimal(figures["report_mean"])])
    return rows


def _notes(source: CardSource) -> list[str]:
    """How to read the table."""
    figures, run = source.figures, source.run
    on = f"the {source.part}" + (f" ({source.examples} examples)" if source.examples else "")
    notes = [f"Scores are those after the last update step, on {on}."]
    if source.examples and source.official_split is None and source.job.task in GLUE_TASKS:
        notes.append("This is not the whole development set of GLUE, nor a half of it.")
    if run.baseline is not None:
        rule = "its R2 is 0 or less" if run.accuracy is None else "its accuracy is not above that of one class for all"
        if run.metric == MULTI_LABEL[0]:
            rule = "its micro-F1 is not above this score"
        notes.append(f"The best constant prediction scores {decimal(run.baseline)}. A run has failed if {rule}.")
    if figures["failed"] and not censored(figures):
        notes.append("Mean, median and std of all runs include the failed ones.")
    if censored(figures):
        notes.append(
            f"{censored(figures)} of {figures['runs']} runs were ended early. Their ends are unknown, so there is no failed "
            "share, mean or std. They would describe only the other runs."
        )
    if figures.get("restarts"):
        notes += RESTART_NOTES
    if figures["failed_share"] is not None:
        notes.append("The interval of the failed share is Wilson's.")
    if run.cell is not None:
        notes.append(
            "The runs share initialisations and data orders (two-way seeds). The interval treats them as independent, so it "
            "is too narrow."
        )
    scoreless = figures["runs"] - censored(figures) - figures["scores"]
    if scoreless:
        notes.append(f"{scoreless} of {figures['runs']} runs have no score and count only in the failed share.")
    crashed, unfinished = not_finished(source.folder / "runs" / run.recipe)
    apart = {"crashed": crashed, "unfinished": unfinished, "without a verdict": figures.get("unknown", 0)}
    left = [f"{number} {what}" for what, number in apart.items() if number]
    if left:
        notes.append(f"Runs that no figure counts: {', '.join(left)}.")
    notes += until_notes(source.folder, [(run.recipe, run.seed) for run in read_runs(source.folder)])
    if source.others:
        notes.append(
            f"The study also ran {joined(source.others)}. If this recipe was chosen by these scores, they are too high for new "
            "data."
        )
    return notes


def _weights(source: CardSource) -> list[str]:
    run, metric = source.run, source.metric.replace("_", " ")
    score = f"{metric} {decimal(run.last)} on the {source.part}"
    lines = [
        f"The weights are those of {_seed(run)} after its last update step: {score}."
        if source.model
        else f"This card describes {_seed(run)}: {score}. The study kept no weights of it.",
        "",
        f"{chosen_how(source)} {_luck(source)}",
    ]
    if run.sentence:
        lines += ["", "The verdict on this run:", "", f"> {run.sentence}"]
    return lines


def chosen_how(source: CardSource) -> str:
    """How the run was chosen, in a sentence."""
    scores = [run.last for run in source.runs if run.last is not None]
    finished = f"{len(scores)} finished runs" if censored(source.figures) else f"{len(scores)} runs"
    if len(scores) == 1:
        return "It is the only run with a score."
    if not source.seed_given:
        return f"It is the best of {finished} by its score after the last update step."
    rank = 1 + sum(score > source.run.last for score in scores)
    return f"Its seed was named by hand. By its score it is number {rank} of {finished}."


def _luck(source: CardSource) -> str:
    """How much of the score was luck."""
    run, metric = source.run, source.metric.replace("_", " ")
    if sum(other.last is not None for other in source.runs) == 1:
        return "One run does not show how much scores vary over seeds."
    luck = "Part of a best score is luck"
    if source.seed_given:
        luck = "If it was chosen for its score, part of that is luck"
    if source.figures["mean"] is not None:
        luck += f": the mean of all runs is {decimal(source.figures['mean'])}"
    if run.report is not None:
        return f"{luck}. On the second half of the development set, which selected nothing, it has {metric} {decimal(run.report)}."
    return f"{luck}. No other data scored this run, so expect less on new data."


def _settings(job: Job) -> list[list[str]]:
    values = {**job.args, **{f"model_config.{name}": value for name, value in job.model_config.items()}}
    return [[name, str(public(value)), job.sources.get(name, "")] for name, value in values.items()]


def _versions(source: CardSource) -> list[list[str]]:
    job = source.job
    rows = [[name, str(version)] for name, version in source.versions.items()]
    return rows + [
        ["device", job.device],
        ["processes, threads per process", f"{job.processes}, {job.threads}"],
        ["weights, mixed precision", f"{job.dtype}, {job.mixed_precision}"],
        ["SHA-256 of the pretrained model", job.model_fingerprint],
        ["SHA-256 of the tokenised data", job.data_fingerprint],
    ]


def _seed(run: RunRecord) -> str:
    """`seed 3`, or with two-way seeds `init-02_order-01_dropout-1`."""
    return f"seed {run.seed}" if run.cell is None else run.name.split("/")[-1]


# ---- the file -------------------------------------------------------------------------------------------------------


def write_card(text: str, path: Path) -> None:
    """Write a card, atomically. Raises InputError if a file is there that this command did not write."""
    check_output(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


def check_output(path: Path) -> None:
    """Refuse a path that is a folder, or a file that this command did not write."""
    if path.is_dir():
        raise InputError(f"--output {path}: this is a folder; give a file")
    if path.exists() and MADE_HERE not in path.read_text(encoding="utf-8", errors="replace"):
        raise InputError(
            f"--output {path}: this file was not written by hf-stability card; give another one, or move it away"
        )
