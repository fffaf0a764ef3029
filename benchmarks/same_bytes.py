"""Does a change of the code leave every result as it was? Run one study with two commits and compare its files byte by byte.

    python benchmarks/same_bytes.py d827302 HEAD --output_dir bytes
    python benchmarks/same_bytes.py d827302 HEAD --output_dir bytes -- --recipe mosbach2021+mixout --seeds 2 --max_steps 40

Without arguments after `--` it runs the demo study twice, 4 minutes each on two idle cores. It compares `run.json` and `steps.rec`
of each run and stage, and the study's `summary.json`. Both commits run on this machine with the installed libraries; other
processors may differ in the last digits. Finished runs are kept: delete the folder to start again. Ends with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]
COMPARED = ("runs/*/*/run.json", "runs/*/*/steps.rec", "stages/*/run.json", "stages/*/steps.rec", "summary.json")


def checkout(commit: str, folder: Path) -> Path:
    """The folder with the files of a commit; `.` is this clone as it is now."""
    if commit == ".":
        return ROOT
    name = subprocess.check_output(["git", "rev-parse", "--short", commit], cwd=ROOT, text=True).strip()
    tree = folder / f"code-{name}"
    if not tree.is_dir():
        tree.mkdir(parents=True)
        archive = subprocess.Popen(["git", "archive", commit], cwd=ROOT, stdout=subprocess.PIPE)
        subprocess.run(["tar", "-x", "-C", str(tree)], stdin=archive.stdout, check=True)
    return tree


def run_study(tree: Path, folder: Path, arguments: list[str]) -> None:
    """Run the study with the code of a tree."""
    env = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(tree / "run_glue_stable.py"), *arguments, "--output_dir", str(folder)]
    if subprocess.run(command, cwd=tree, env=env).returncode:
        raise SystemExit(f"{tree}: the study did not finish; its error is above.")


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each compared file in a study's folder, by its path there."""
    files = sorted(path for pattern in COMPARED for path in folder.glob(pattern))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def compare(first: dict[str, str], second: dict[str, str]) -> list[str]:
    """The paths with different files on the two sides, or a file on one side only."""
    return [path for path in sorted(first.keys() | second.keys()) if first.get(path) != second.get(path)]


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", help="a commit")
    parser.add_argument("after", help="another commit; `.` is this clone as it is now")
    parser.add_argument(
        "--output_dir", default="same_bytes", help="folder of the code and the studies of both commits"
    )
    given = sys.argv[1:]
    cut = given.index("--") if "--" in given else len(given)  # after it: the study's arguments
    options, arguments = parser.parse_args(given[:cut]), given[cut + 1 :]
    folder = Path(options.output_dir).absolute()
    found = []
    for side, commit in (("before", options.before), ("after", options.after)):
        run_study(checkout(commit, folder), folder / side, arguments)
        found.append(hashes(folder / side))
    different = compare(*found)
    for path in different:
        print(f"differs: {path}")
    print(f"{len(found[0])} files before, {len(found[1])} after, {len(different)} differ")
    return 1 if different or not found[0] else 0


if __name__ == "__main__":
    sys.exit(main())
