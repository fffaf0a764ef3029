"""Every situation, with StabilityCallback on the stock Trainer and with StableTrainer, next to the stock Trainer alone."""

from functools import cache

import pytest

from .examine import KINDS, play, problems_of, proof_of
from .situations import ACCIDENTS, EVALUATIONS, MODELS, SITUATIONS, TRAINING


RUNS = ("learns", "stuck")


def cases():
    for situation in SITUATIONS:
        for run in RUNS:
            for kind in KINDS:
                if getattr(situation, run) is not None:
                    again = situation.group in (EVALUATIONS, TRAINING, MODELS, ACCIDENTS) or kind == "stable"
                    marks = [pytest.mark.slow] if situation.slow or (run == "stuck" and again) else []
                    yield pytest.param(
                        situation, run == "learns", kind, id=f"{situation.name}-{run}-{kind}", marks=marks
                    )


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """The stock Trainer's run of a situation, played once, and why it is not what the situation is about, or None."""

    @cache
    def played(situation, learns):
        alone = play(situation.make, learns, "stock", tmp_path_factory.mktemp("stock"))
        return alone, proof_of(situation.make(learns), learns, alone)

    return played


@pytest.mark.parametrize("situation, learns, kind", cases())
def test_situation(situation, learns, kind, stock, tmp_path):
    if situation.needs:
        pytest.importorskip(situation.needs)
    alone, other = stock(situation, learns)
    assert other is None
    ours = play(situation.make, learns, kind, tmp_path)
    assert list(problems_of(situation, learns, kind, alone, ours)) == []
