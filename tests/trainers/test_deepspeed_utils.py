"""Two processes under DeepSpeed ZeRO 0 to 3 against one without: gradients, losses, weights, checkpoints, resuming."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

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
        "PYTHONPATH": f"{HERE.parents[1]}:{HERE}",
        "OMP_NUM_THREADS": "1",
        "TORCH_EXTENSIONS_DIR": str(folder / "extensions"),
        "DS_ACCELERATOR": "cpu",
    }
    command += [str(HERE / "zero_worker.py"), str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def job(stage: str, folder: Path, sources: dict[str, Path], resume: int | None = None, **values: object) -> dict:
    start = {"pretrain": sources["base"]} if stage == "pretrain" else {"pretrain_checkpoint": sources["pretrained"]}
    rows = sources["stage1" if stage == "pretrain" else "questions"]
    settings = {"max_steps": 4, "max_epochs": 4, "save_steps": 2, "max_norm": 0.0, "lora_dropout": 0.0, **values}
    config = training_rows.config(stage, folder, dataset=rows, micro_train_batch_size=2, **start, **settings)
    given = {name: config.to_dict()[name] for name in config.given}
    return {"config": {"stage": stage, **given}, "out": f"{folder}{resume or ''}.pt", "from": resume}


@pytest.fixture(scope="module")
def runs(base_folder: Path, stage1_file: Path, questions_file: Path, pretrained: Path, tmp_path_factory) -> Path:
    """All runs: one process each stage, two processes each ZeRO stage, and two of those resumed from step 2."""
    folder = tmp_path_factory.mktemp("zero")
    sources = {"base": base_folder, "stage1": stage1_file, "questions": questions_file, "pretrained": pretrained}
    launch([job(stage, folder / f"{stage}-one", sources) for stage in ("pretrain", "end_to_end")], folder, 1)
    two = [job(stage, folder / f"{stage}-{zero}", sources, zero_stage=zero) for stage, zero in RUNS]
    again = []
    for zero in (2, 3):
        values = {"zero_stage": zero, "lora_dropout": 0.1}
        again += [job("pretrain", folder / f"{which}-{zero}", sources, **values) for which in ("alone", "again")]
        again.append(job("pretrain", folder / f"again-{zero}", sources, resume=2, load_checkpoint=True, **values))
    launch([*two, *again], folder, 2)
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
def test_checkpoints_hold_only_what_trains(runs: Path, zero: int):
    folder = runs / f"pretrain-{zero}" / "checkpoint-4"
    trained = sum(tensor.numel() for tensor in torch.load(runs / "pretrain-one.pt").values())
    assert not list(folder.glob("*.py"))
    held = 0
    for path in folder.rglob("*optim_states.pt"):
        state = torch.load(path, weights_only=False)["optimizer_state_dict"]
        held += sum(tensor.numel() for tensor in tensors_of(state) if tensor.dim() > 0)
    assert held <= 3 * trained + 4096, "float32 copy and two moments of what trains, with padding"
    for path in folder.rglob("*model_states.pt"):
        module = torch.load(path, weights_only=False)["module"]
        assert module and all("lora_" in name or "memory" in name for name in module)


def tensors_of(value: object) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
    return [tensor for part in parts for tensor in tensors_of(part)]


@pytest.mark.parametrize("zero", [2, 3])
def test_a_resumed_run_equals_one_left_alone(runs: Path, zero: int):
    alone, resumed = log(runs / f"alone-{zero}"), log(runs / f"again-{zero}")
    names = ("step", "loss", "grad_norm", "learning_rate")
    assert [[line[name] for name in names] for line in resumed] == [[line[name] for name in names] for line in alone]
    one, other = (load_file(runs / f"{which}-{zero}" / "adapters.safetensors") for which in ("alone", "again"))
    assert all(torch.equal(one[name], other[name]) for name in one)
