"""Did a run fail? `constants`, `vanished`, `evidence` and `verdict` compute numbers; `sentence` puts them into words."""

from .verdict import Verdict, judge, judge_seeds


__all__ = ["Verdict", "judge", "judge_seeds"]
