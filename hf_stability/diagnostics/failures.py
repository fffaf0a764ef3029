"""The former home of `hf_stability.verdicts`: `judge` and its kin can still be imported from here."""

from ..verdicts.verdict import Verdict, judge, judge_seeds


__all__ = ["Verdict", "judge", "judge_seeds"]
