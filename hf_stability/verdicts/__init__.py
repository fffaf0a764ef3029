"""Did a run fail? Numbers in `constants`, `vanished`, `evidence` and `verdict`; words in `sentence`."""

from .verdict import Verdict, judge, judge_seeds


__all__ = ["Verdict", "judge", "judge_seeds"]
