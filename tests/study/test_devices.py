"""GPUs, their memory, and how many runs at a time; with fake lists of devices."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from hf_stability import plan_study
from hf_stability.errors import InputError
from hf_stability.study import capacity, devices, memory
from hf_stability.study.devices import Gpu, choose_workers, gpu_of_slot, visible_gpus, visible_ids, with_memory
from hf_stability.study.execution import Execution
from hf_stability.study.executors import workers
from hf_stability.study.memory import GIB, Memory, activation_bytes, training_memory


SMI = """GPU-aaaa1111, NVIDIA H100 80GB HBM3, 81559, 81000, Disabled
GPU-bbbb2222, NVIDIA H100 80GB HBM3, 81559, 20000, Disabled
"""
OTHER = "GPU-cccc3333, NVIDIA A40, 46068, 30000, [N/A]\n"
SPLIT = "GPU-dddd4444, NVIDIA H100 80GB HBM3, 81559, 81000, Enabled\n"
RUN = Memory(
    weights=GIB, gradients=GIB, moments=2 * GIB, activations=4 * GIB, process=0
)  # 4 GiB at least, 9 GiB in all


def never():
    raise AssertionError("asked")


# ---- which GPUs there are ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("visible", "ids"),
    [
        (None, ["0", "1", "2"]),
        ("", []),
        ("1", ["1"]),
        ("2, 0", ["2", "0"]),
        ("0,-1,1", ["0"]),
        ("-1", []),
        ("GPU-aaaa1111,GPU-bbbb2222", ["GPU-aaaa1111", "GPU-bbbb2222"]),
    ],
)
def test_the_visible_gpus_are_those_of_cuda_visible_devices_or_all(visible, ids):
    assert visible_ids(visible, lambda: 3) == ids


def test_an_entry_without_a_gpu_is_left_out():
    assert visible_ids("0,7", lambda: 1) == ["0"]  # CUDA counts one
    mig = ["MIG-aaaa1111", "MIG-GPU-bbbb2222/1/0"]
    assert visible_ids(",".join(mig), never) == mig  # CUDA shows a process one of them


def test_no_gpu_asks_for_no_memory():
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}, never, never) == visible_gpus({}, lambda: 0, never) == []


def test_each_gpu_has_the_memory_that_nvidia_smi_shows():
    first, second = visible_gpus({}, lambda: 2, lambda: SMI)
    assert (first.id, first.total, first.free) == ("0", 81559 * 2**20, 81000 * 2**20)
    assert (second.id, second.free) == ("1", 20000 * 2**20)
    assert with_memory(["GPU-bbbb"], SMI) == [Gpu("GPU-bbbb", 81559 * 2**20, 20000 * 2**20)]


def test_where_cuda_may_number_gpus_in_another_order_the_smallest_counts():
    different = SMI + OTHER
    assert {gpu.free for gpu in with_memory(["0", "1", "2"], different)} == {20000 * 2**20}
    by_bus = visible_gpus({"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, lambda: 3, lambda: different)
    assert [gpu.free for gpu in by_bus] == [81000 * 2**20, 20000 * 2**20, 30000 * 2**20]
    assert with_memory(["GPU-cccc3333"], different)[0].free == 30000 * 2**20


@pytest.mark.parametrize("table", ["", "GPU-aaaa1111, NVIDIA GB10, [N/A], [N/A], [N/A]\n", "no devices were found\n"])
def test_memory_that_nobody_shows_is_unknown(table):
    assert with_memory(["0", "GPU-aaaa1111"], table) == [Gpu("0"), Gpu("GPU-aaaa1111")]


def test_the_memory_of_a_mig_device_and_of_an_unknown_index_is_unknown():
    assert with_memory(["MIG-1", "7"], SMI) == [Gpu("MIG-1"), Gpu("7")]
    split = with_memory(["0", "2", "GPU-dddd4444", "GPU-bbbb2222"], SMI + SPLIT)
    assert [gpu.free for gpu in split] == [None, None, None, 20000 * 2**20]


def test_runs_are_spread_evenly():
    assert [gpu_of_slot(slot, ["0", "3", "4"]) for slot in range(6)] == ["0", "3", "4", "0", "3", "4"]


def test_asking_does_not_start_cuda():
    """A context in the study's own process would take memory on a GPU."""
    before = torch.cuda.is_initialized()
    visible_gpus()
    assert torch.cuda.is_initialized() == before


# ---- NVIDIA's Multi-Process Service ------------------------------------------------------------------------------------


def test_mps_runs_if_the_daemon_in_its_directory_does(tmp_path, monkeypatch):
    pid_file = tmp_path / "nvidia-cuda-mps-control.pid"
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    assert not devices.mps_is_running()
    pid_file.write_text(f"{os.getpid()}\n")
    assert devices.mps_is_running()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for text in (str(ended.pid), "", "-1", "no number"):
        pid_file.write_text(text)
        assert not devices.mps_is_running()


# ---- the estimate ------------------------------------------------------------------------------------------------------


def test_activations_are_the_papers_sum_in_half_precision():
    """Korthikanti et al. 2022, equation 1: s b h (34 + 5 a s / h)."""
    s, b, h, a, layers = 128, 16, 1024, 16, 24
    got = activation_bytes(layers, h, a, 4 * h, s, b, value=2, norm=2, mask=1)
    assert got == layers * s * b * h * (34 + 5 * a * s / h)


def test_checkpointing_keeps_the_inputs_of_all_layers_and_all_of_one():
    shape = {"hidden": 64, "heads": 4, "intermediate": 256, "length": 16, "batch": 2}
    one = activation_bytes(1, **shape)
    assert activation_bytes(6, **shape) == 6 * one
    assert activation_bytes(6, **shape, checkpointing=True) == one + 6 * 16 * 2 * 64 * 4


def test_the_lower_bound_is_sixteen_bytes_per_weight_with_adamw():
    shape = {"layers": 2, "hidden": 64, "heads": 4, "intermediate": 256}
    full = training_memory(1000, shape, 16, 8)
    assert full.least == 16 * 1000 and full.estimate > full.least + full.activations > full.least
    assert training_memory(1000, shape, 16, 8, optim="adafactor").least == 8 * 1000
    assert training_memory(1000, shape, 16, 8, dtype="bfloat16").least == 8 * 1000
    mixed = training_memory(1000, shape, 16, 8, mixed=True)
    assert mixed.least == 18 * 1000 and mixed.activations < full.activations
    assert training_memory(1000, None, 16, 8).activations == 0


def test_a_job_has_the_batch_of_one_process_and_step(tiny_jobs, tmp_path):
    (job,) = tiny_jobs(tmp_path, seeds=(1,), total_train_batch_size=16)
    shape = {"layers": 2, "hidden": 32, "heads": 2, "intermediate": 64}
    whole = memory.job_memory(job, 1000, shape, 12).activations
    for args in ({"gradient_accumulation_steps": 4}, {"gradient_accumulation_steps": 1}):
        got = memory.job_memory(replace(job, args={**job.args, **args}), 1000, shape, 12).activations
        assert got == whole / args["gradient_accumulation_steps"]
    assert memory.job_memory(replace(job, processes=4), 1000, shape, 12).activations == whole / 4


@pytest.mark.parametrize("architecture", ["bert", "roberta", "albert"])
def test_weights_are_counted_without_making_them(tiny_model, architecture):
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config, before = AutoConfig.from_pretrained(tiny_model(architecture)), torch.get_rng_state()
    real = AutoModelForSequenceClassification.from_pretrained(tiny_model(architecture))
    torch.set_rng_state(before)
    assert memory.count_parameters(config) == sum(p.numel() for p in real.parameters())
    assert torch.equal(torch.get_rng_state(), before)
    assert memory.model_shape(config) == {"layers": 2, "hidden": 32, "heads": 2, "intermediate": 64}


def test_a_model_without_the_usual_fields_has_a_lower_bound_only():
    assert memory.model_shape(SimpleNamespace(hidden_size=64)) is None


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems count in other units")
def test_the_estimate_is_near_the_peak_of_a_real_model(minilm, tiny_csv, tmp_path):
    """Six layers of 384 units, batches of 32 examples of 128 tokens, float32, on a CPU."""
    code = f"""
import resource
from pathlib import Path
from hf_stability import plan_study
from hf_stability.study.capacity import study_memory
from hf_stability.study.pretrained import load_config
from hf_stability.study.run import run_job
plan = plan_study(
    model_name_or_path={minilm!r}, train_file={tiny_csv[0]!r}, validation_file={tiny_csv[1]!r}, recipes="devlin2019", seeds=1,
    max_steps=1, total_train_batch_size=32, max_seq_length=128, pad_to_max_length=True, use_cpu=True, workers=0,
    output_dir={str(tmp_path / "study")!r},
)
plan.tokens.save(plan.jobs[0].data_folder)
run_job(plan.jobs[0], Path({str(tmp_path / "run")!r}))
memory = study_memory(plan.jobs, plan.stages, load_config({minilm!r}), plan.tokens)
print(memory.least, memory.estimate, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    least, estimate, peak = map(int, done.stdout.split())
    assert least < peak and 0.8 < estimate / peak < 1.25


# ---- how many runs at a time -------------------------------------------------------------------------------------------


def gpus(*free: float | None) -> list[Gpu]:
    return [Gpu(str(i), None, None if one is None else int(one * GIB)) for i, one in enumerate(free)]


def test_workers_on_gpus():
    assert choose_workers("cuda", 1, None, gpus=gpus(None, None)) == (2, [])
    assert choose_workers("cuda", 1, RUN, gpus=gpus(80, 80)) == (2, [])
    assert choose_workers("cuda", 1, RUN, workers=0, gpus=gpus(80)) == (0, [])
    count, said = choose_workers("cuda", 1, RUN, runs_per_gpu=4, gpus=gpus(80, 80))
    assert count == 8 and said == [devices.mps_sentence(False)] and "nvidia-cuda-mps-control -d" in said[0]
    assert choose_workers("cuda", 1, RUN, runs_per_gpu=4, gpus=gpus(80), mps=True)[1] == [devices.mps_sentence(True)]


def test_runs_that_do_not_fit_on_a_gpu_together_are_not_started_together():
    count, said = choose_workers("cuda", 1, RUN, runs_per_gpu=4, gpus=gpus(80, 19))
    assert count == 4  # two on each
    assert said[0] == (
        "--runs_per_gpu 4: 2 run(s) share a GPU, because a run needs about 9.0 GiB, and GPU 1 has 19.0 GiB free."
    )
    count, said = choose_workers("cuda", 1, RUN, runs_per_gpu=4, gpus=gpus(10))
    assert count == 1 and said[0].startswith("--runs_per_gpu 4: 1 run(s) share a GPU") and len(said) == 1
    count, (said,) = choose_workers("cuda", 1, RUN, gpus=gpus(5))
    assert count == 1 and said.startswith("A run may not fit") and "--per_device_train_batch_size" in said
    with pytest.raises(InputError, match=r"does not fit on GPU 0: .* need 4.0 GiB, and 3.9 GiB are free.*--workers 1"):
        choose_workers("cuda", 1, RUN, gpus=gpus(3.9))
    count, said = choose_workers("cuda", 1, RUN, runs_per_gpu=2, gpus=gpus(None))
    assert count == 2 and "unknown" in said[0]


def test_workers_that_the_user_gave_count_and_stay():
    count, said = choose_workers("cuda", 1, RUN, workers=6, gpus=gpus(19, 80))
    assert count == 6 and said[0].startswith("3 runs on a GPU may not fit")
    count, said = choose_workers("cuda", 1, RUN, workers=3, runs_per_gpu=4, gpus=gpus(80, 80))
    assert count == 3 and said[0].startswith("--workers 3: this number counts, not --runs_per_gpu 4.")
    count, (said,) = choose_workers("cuda", 1, RUN, workers=1, gpus=gpus(3.9))
    assert count == 1 and said.startswith("A run may not fit into memory")


def test_full_gpus_are_left_out_while_another_has_room():
    some = gpus(80, 3.9, None, 4)
    left, said = devices.gpus_with_room(RUN, some)
    assert [gpu.id for gpu in left] == ["0", "2", "3"]
    assert said == [
        "GPU 1 is left out: weights, gradients and the optimizer's state alone need 4.0 GiB, and 3.9 GiB are free."
    ]
    assert devices.gpus_with_room(None, some) == (some, [])
    full = gpus(3, 2)
    assert devices.gpus_with_room(RUN, full) == (full, [])


def test_workers_on_a_cpu(monkeypatch):
    monkeypatch.setattr(devices, "cores", lambda: 8)
    assert choose_workers("cpu", 1, RUN, available=100 * GIB) == choose_workers("cpu", 1, None) == (8, [])
    assert choose_workers("cpu", 3, RUN, available=100 * GIB) == (2, [])
    count, (said,) = choose_workers("cpu", 1, RUN, available=20 * GIB)
    assert count == 2
    assert said.startswith(
        "2 run(s) at a time, not 8: a run needs about 9.0 GiB, and 20.0 GiB of memory are available."
    )
    count, (said,) = choose_workers("cpu", 1, RUN, workers=8, available=20 * GIB)
    assert count == 8 and said.startswith("8 run(s) at a time may need more memory than there is")
    with pytest.raises(InputError, match="does not fit into memory"):
        choose_workers("cpu", 1, RUN, available=3 * GIB)
    assert choose_workers("cpu", 1, RUN, workers=1, available=3 * GIB)[0] == 1
    assert choose_workers("cpu", 1, RUN, workers=0, available=3 * GIB) == (0, [])
    assert choose_workers("mps", 1, RUN) == (1, [])


def test_a_container_has_less_memory_than_its_machine():
    whole = devices.available_memory({})
    assert whole is not None and whole > 2**20
    stat = f"anon 5\ninactive_file {2**19}\n"
    limits = {"memory.max": f"{2**21}\n", "memory.current": f"{2**20 + 2**19}\n", "memory.stat": stat}
    assert devices.available_memory(limits) == 2**20
    assert devices.available_memory({**limits, "memory.max": "max\n"}) == pytest.approx(whole, rel=0.2)


@pytest.mark.parametrize(("number", "message"), [(0, "give 1 or more"), (-1, "give 1 or more"), (2, "device cpu")])
def test_runs_per_gpu_that_mean_nothing_are_refused(tiny_model, tiny_csv, tmp_path, number, message):
    data = {"model_name_or_path": tiny_model(), "train_file": tiny_csv[0], "validation_file": tiny_csv[1]}
    with pytest.raises(InputError, match=f"--runs_per_gpu {number}: .*{message}"):
        plan_study(**data, use_cpu=True, runs_per_gpu=number, output_dir=tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_a_study_says_that_it_starts_fewer_runs(tiny_model, tiny_csv, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "cores", lambda: 64)
    monkeypatch.setattr(capacity.devices, "available_memory", lambda: 2 * GIB)
    data = {"model_name_or_path": tiny_model(), "train_file": tiny_csv[0], "validation_file": tiny_csv[1]}
    plan = plan_study(**data, use_cpu=True, output_dir=tmp_path)
    assert plan.execution.workers == 3 and plan.doubts[-1].startswith("3 run(s) at a time, not 64: ")


@pytest.fixture
def plan_on(tiny_jobs, tmp_path, monkeypatch):
    """A function of GPUs and flags: `plan_workers` for two runs on these GPUs. A run needs `RUN`."""
    jobs = [replace(job, device="cuda") for job in tiny_jobs(tmp_path)]
    monkeypatch.setattr(capacity, "study_memory", lambda jobs, *others: RUN)

    def plan(some, finished=(), **flags):
        monkeypatch.setattr(capacity.devices, "visible_gpus", lambda: some)
        return capacity.plan_workers(jobs, [job.name for job in jobs][: len(finished)], None, None, None, **flags)

    return plan


def test_workers_do_not_use_full_gpus(plan_on):
    room = plan_on(gpus(2, 80, 80))
    assert (room.workers, room.gpus, room.refusal) == (2, ("1", "2"), "") and room.said[0].startswith(
        "GPU 0 is left out"
    )
    assert plan_on(gpus(2, 80, 80), workers=4).gpus == ("1", "2")
    room = plan_on(gpus(2, 80), workers=0)  # this process trains on the first GPU, full or not
    assert (room.workers, room.gpus) == (0, ()) and room.said[0].startswith("A run may not fit into memory")


def test_full_gpus_refuse_only_missing_runs_and_only_without_workers(plan_on):
    room = plan_on(gpus(2, 3))
    assert room.refusal.startswith("A run does not fit on GPU 0") and room.workers == 1
    assert plan_on(gpus(2, 3), finished=[1]).refusal  # one of two runs is missing
    assert plan_on(gpus(2, 3), finished=[1, 2]) == capacity.Capacity(2, ("0", "1"))
    assert not plan_on(gpus(2, 3), workers=2).refusal


@pytest.mark.parametrize(("rank", "said"), [(0, 1), (1, 0)])
def test_ranks_are_not_refused_and_only_the_first_looks(plan_on, monkeypatch, rank, said):
    """Another rank may plan when runs have filled the memory already."""
    monkeypatch.setattr(capacity, "joined", lambda: SimpleNamespace(is_main=rank == 0, sharing=1))
    room = plan_on(gpus(2))
    assert (room.workers, room.gpus, room.refusal, len(room.said)) == (0, (), "", said)


@pytest.mark.slow
def test_a_study_that_does_not_fit_is_planned_and_refused_when_it_runs(tiny_model, tiny_csv, tmp_path, monkeypatch):
    monkeypatch.setattr(capacity.devices, "available_memory", lambda: 1)
    data = {"model_name_or_path": tiny_model(), "train_file": tiny_csv[0], "validation_file": tiny_csv[1]}
    plan = plan_study(**data, use_cpu=True, seeds=1, max_steps=1, output_dir=tmp_path / "study")
    assert "This study would be refused: A run does not fit" in plan.describe() and not plan.doubts
    with pytest.raises(InputError, match="does not fit into memory"):
        plan.run()
    assert not (tmp_path / "study").exists()
    plan.run(workers=0, quiet=True)
    again = plan_study(**data, use_cpu=True, seeds=1, max_steps=1, output_dir=tmp_path / "study")
    assert not again.refusal and len(again.run(quiet=True).runs) == 1


def test_each_worker_sees_one_gpu_and_their_number_is_even(tiny_jobs, tmp_path, monkeypatch):
    """Four workers on two GPUs that are not there. The processes are forked from this one, so that they have the fake run."""

    def run_job(job, folder, report):
        (tmp_path / f"gpu-of-{job.seed}").write_text(os.environ["CUDA_VISIBLE_DEVICES"])

    jobs = [replace(job, device="cuda") for job in tiny_jobs(tmp_path, seeds=(1, 2, 3, 4))]
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr("hf_stability.study.run.run_job", run_job)
    monkeypatch.setattr(workers.multiprocessing, "get_context", lambda method=None: fork)
    monkeypatch.setattr(workers, "count_gpus", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    folders = [tmp_path / job.name for job in jobs]
    for chosen, used in (((), ["GPU-a", "GPU-b"] * 2), (("GPU-b",), ["GPU-b"] * 4)):
        execution = Execution(4, gpus=chosen)
        execution.execute(jobs, folders, lambda event: None)
        assert [(tmp_path / f"gpu-of-{seed}").read_text() for seed in (1, 2, 3, 4)] == used
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"
