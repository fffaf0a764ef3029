import importlib.util
from pathlib import Path


spec = importlib.util.spec_from_file_location("same_bytes", Path(__file__).parents[2] / "benchmarks" / "same_bytes.py")
same_bytes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(same_bytes)


def study(folder, content="{}"):
    for path in (
        "runs/a/seed-001/run.json",
        "runs/a/seed-001/steps.rec",
        "runs/a/seed-001/times.json",
        "summary.json",
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content if path.endswith("run.json") else path)
    return same_bytes.hashes(folder)


def test_a_changed_byte_and_a_missing_file_are_found(tmp_path):
    first = study(tmp_path / "a")
    assert set(first) == {"runs/a/seed-001/run.json", "runs/a/seed-001/steps.rec", "summary.json"}  # no times
    assert same_bytes.compare(first, study(tmp_path / "b")) == []
    assert same_bytes.compare(first, study(tmp_path / "c", "{ }")) == ["runs/a/seed-001/run.json"]
    (tmp_path / "b" / "summary.json").unlink()
    assert same_bytes.compare(first, same_bytes.hashes(tmp_path / "b")) == ["summary.json"]
