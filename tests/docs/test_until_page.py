"""The figures in the text of docs/until.md are those of the package and of the committed simulation."""

from __future__ import annotations

from benchmarks import until as benchmark
from hf_stability.statistics import pocock_level
from tests.prose import ROOT


PAGE = " ".join((ROOT / "docs/until.md").read_text(encoding="utf-8").split())


def test_the_levels_in_the_text():
    four, two = pocock_level([5, 10, 15, 20]), pocock_level([10, 20])
    assert f"Four looks have the level {four:.4f}, two looks {two:.4f}" in PAGE
    assert f"p <= {four:.3g} at each look" in PAGE


def test_the_measured_figures_in_the_text():
    rows = {row["setting"]: row for row in benchmark.results()}
    near, far, clear, three = (rows[name] for name in ("0.05, 0.3", "0.05, 0.5", "0.05, 0.9", "0, 0.3, 0.9"))
    assert (
        f"show a difference of {float(near['estimate_early']):.2f} on average, in place of {float(near['truth']):.2f}"
        in PAGE
    )
    most = max(float(row["false"]) for row in rows.values() if row["false"])
    assert f"At most {most:.3f} of the studies" in PAGE
    assert (
        f"{clear['seeds']:.1f} per recipe for failed shares of 0.05 and 0.9, {far['seeds']:.1f} for 0.05 and 0.5"
        in PAGE
    )
    assert all(row["seeds"] > 19.6 for row in rows.values() if row["found"] == "")
    found = [f"{float(row[key]):.2f}" for row in (far, near, three) for key in ("found", "found_fixed")]
    assert f"found in {found[0]} of the studies, and in {found[1]} of those with a single look" in PAGE
    assert f"it is {found[2]} against {found[3]}" in PAGE
    assert f"decided in {found[4]} of the studies, against {found[5]} with a single look" in PAGE
    assert float(three["early"]) == 0
