"""Two processes under DeepSpeed ZeRO 0 to 3 against one without: gradients, losses, weights, checkpoints, resuming."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import training_rows
from safetensors.torch import load_file

pytest.importorskip("deepspeed")
pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
RUNS = [("pretrain", zero) for zero in (0, 1, 2, 3)] + [("end_to_end", zero) for zero in (2, 3)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def launch(jobs: list[dict], folder: Path, processes: int) -> None:
    path = folder / f"jobs{processes}.json"
    path.write_text(json.dumps(jobs))
    command = [sys.executable]
    if processes > 1:
        command += [
            "-m",
            "torch.distributed.run",
            "--nproc_per_node",
            str(processes),
            "--master_port",
            str(free_port()),
        ]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{HERE.parents[1]}:{HERE}:{os.environ.get('PYTHONPATH', '')}",
        "OMP_NUM_THREADS": "1",
        "TORCH_EXTENSIONS_DIR": str(folder / "extensions"),
        "DS_ACCELERATOR": "cpu",
    }
    command += [str(HERE / "zero_worker.py"), str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def job(stage: str, folder: Path, sources: dict[str, Path], resume: int | None = None, **values: object) -> dict:
    start = {"pretrain": sources["base"]} if stage == "pretrain" else {"pretrain_checkpoint": sources["pretrained"]}
    rows = sources[stage]
    settings = {"max_steps": 4, "max_epochs": 2, "save_steps": 2, "max_norm": 0.0, "lora_dropout": 0.0, **values}
    config = training_rows.config(stage, folder, dataset=rows, micro_train_batch_size=2, **start, **settings)
    given = {name: config.to_dict()[name] for name in config.given}
    return {"config": {"stage": stage, **given}, "out": f"{folder}{resume or ''}.pt", "from": resume}


@pytest.fixture(scope="module")
def runs(base_folder: Path, pretrained: Path, tmp_path_factory) -> Path:
    """All runs: one process each stage, two processes each ZeRO stage, and some resumed from step 2."""
    folder = tmp_path_factory.mktemp("zero")
    sources = {"base": base_folder, "pretrained": pretrained}
    for stage in ("pretrain", "end_to_end"):
        sources[stage] = training_rows.write(folder / f"{stage}.jsonl", training_rows.uneven_rows(stage))
    one = [job(stage, folder / f"{stage}-one", sources) for stage in ("pretrain", "end_to_end")]
    launch([*one, job("pretrain", folder / "one-to-two", sources)], folder, 1)
    two = [job(stage, folder / f"{stage}-{zero}", sources, zero_stage=zero) for stage, zero in RUNS]
    again = []
    for zero in (2, 3):
        values = {"zero_stage": zero, "lora_dropout": 0.1}
        again += [job("pretrain", folder / f"{which}-{zero}", sources, **values) for which in ("alone", "again")]
        again.append(job("pretrain", folder / f"again-{zero}", sources, resume=2, load_checkpoint=True, **values))
    two += [job("pretrain", folder / "two-to-one", sources, zero_stage=3)]
    two += [job("pretrain", folder / "one-to-two", sources, resume=2, load_checkpoint=True, zero_stage=2)]
    launch([*two, *again], folder, 2)
    launch([job("pretrain", folder / "two-to-one", sources, resume=2, load_checkpoint=True)], folder, 1)
    return folder


def log(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


@pytest.mark.parametrize(("stage", "zero"), RUNS)
def test_gradients_equal_one_processs(runs: Path, stage: str, zero: int):
    one, two = torch.load(runs / f"{stage}-one.pt"), torch.load(runs / f"{stage}-{zero}.pt")
    assert one.keys() == two.keys() and len(one) > 20
    scale = max(gradient.abs().max() for gradient in one.values())
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=2e-6 * float(scale), msg=name)


@pytest.mark.parametrize(("stage", "zero"), RUNS)
def test_losses_and_weights_equal_one_processs(runs: Path, stage: str, zero: int):
    for one, two in zip(log(runs / f"{stage}-one"), log(runs / f"{stage}-{zero}"), strict=True):
        for name in ("loss", "lm_loss"):
            assert two[name] == pytest.approx(one[name], rel=2e-5)
        if stage == "end_to_end":
            assert two["recall@1"] == one["recall@1"]
    one, two = (load_file(runs / f"{stage}-{which}" / "adapters.safetensors") for which in ("one", zero))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-5, msg=name)


def test_frozen_weights_stay_bit_identical_in_stage_3(runs: Path, pretrained: Path):
    before = load_file(pretrained / "adapters.safetensors")
    for zero in (2, 3):
        after = load_file(runs / f"end_to_end-{zero}" / "adapters.safetensors")
        for name in before:
            if not name.startswith(("generator.",)):
                assert torch.equal(after[name], before[name]), name


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_checkpoints_hold_only_what_trains_and_are_one_processs(runs: Path, zero: int):
    one, two = (runs / f"pretrain-{which}" / "checkpoint-4" for which in ("one", zero))
    assert sorted(file.name for file in two.iterdir()) == sorted(
        [file.name for file in one.iterdir() if file.name != "rng_state.pth"] + ["rng_state_0.pth", "rng_state_1.pth"]
    )
    expected, state = (torch.load(folder / "optimizer.pt", weights_only=True)["state"] for folder in (one, two))
    assert state.keys() == expected.keys() == torch.load(runs / "pretrain-one.pt").keys()
    for name in expected:
        assert state[name]["step"] == expected[name]["step"] == 4
        for key in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(state[name][key], expected[name][key], rtol=1e-3, atol=1e-7, msg=name)


@pytest.mark.parametrize("name", ["two-to-one", "one-to-two"])
def test_a_run_goes_on_with_another_number_of_processes(runs: Path, name: str):
    """Equal to float rounding; the run left alone had as many processes from the start."""
    for one, other in zip(log(runs / "pretrain-one"), log(runs / name), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=2e-5)
        assert other["learning_rate"] == one["learning_rate"]
    one, other = (load_file(runs / which / "adapters.safetensors") for which in ("pretrain-one", name))
    for key in one:
        torch.testing.assert_close(other[key], one[key], rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.parametrize("zero", [2, 3])
def test_a_resumed_run_equals_one_left_alone(runs: Path, zero: int):
    alone, resumed = log(runs / f"alone-{zero}"), log(runs / f"again-{zero}")
    names = ("step", "loss", "grad_norm", "learning_rate")
    assert [[line[name] for name in names] for line in resumed] == [[line[name] for name in names] for line in alone]
    one, other = (load_file(runs / f"{which}-{zero}" / "adapters.safetensors") for which in ("alone", "again"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def split_one(rank: int, folder: Path) -> None:
    """One process of two: what it has of a layer once ZeRO 3 has split it, and the whole again."""
    from transformers.integrations import HfDeepSpeedConfig

    from trainers import deepspeed_utils
    from trainers.training.train_config import TrainConfig

    os.environ |= {"DS_ACCELERATOR": "cpu", "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    deepspeed_utils.prepare(use_cpu=True)
    import deepspeed

    deepspeed.init_distributed(
        "gloo", auto_mpi_discovery=False, init_method=f"file://{folder}/meet", rank=rank, world_size=2, verbose=False
    )
    run = TrainConfig.for_stage("pretrain", pretrain="base", dataset="rows", zero_stage=3, max_norm=0.0)
    config = deepspeed_utils.configuration(run, micro=1, accumulation=1, processes=2)
    args = SimpleNamespace(hf_deepspeed_config=HfDeepSpeedConfig(config), device=torch.device("cpu"))
    torch.manual_seed(1)
    layer = torch.nn.Linear(64, 64)
    layer.register_buffer("scale", torch.ones(3))
    before = layer.weight.detach().clone()
    deepspeed_utils.split(layer, args)
    held = (layer.weight.numel(), layer.weight.ds_tensor.numel())
    with deepspeed_utils.gathered([layer.weight]):
        same = torch.equal(layer.weight, before)
    (folder / f"{rank}.json").write_text(json.dumps([*held, same]))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_zero_3_leaves_each_process_its_part_before_training_starts(tmp_path: Path):
    torch.multiprocessing.spawn(split_one, args=(tmp_path,), nprocs=2)
    for rank in (0, 1):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == [0, 64 * 64 // 2, True]
