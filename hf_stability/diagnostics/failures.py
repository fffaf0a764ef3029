"""The former place of `hf_stability.verdicts`. Its names can still be imported from here."""

from ..verdicts.verdict import Verdict, judge, judge_seeds


__all__ = ["Verdict", "judge", "judge_seeds"]
