"""Training steps: exact accumulation, pinned trajectories, what moves and what is written, evaluation, failures."""

import json
import sys
from pathlib import Path

import pytest
import torch
import training_rows
from safetensors.torch import load_file
from training_rows import history, stage_config

from clara_model import ClaraModel
from clara_model.errors import ClaraError
from clara_model.modeling.objectives import TrainingModel
from trainers.data.rows import read_rows
from trainers.training import run
from trainers.training.run import collator, objective, split_batches, train, training_order
from trainers.training.stages import starting_model
from trainers.training.train_config import TrainConfig

TRAJECTORIES = Path(__file__).parents[1] / "trajectories.json"


def trained(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapters.safetensors")


@pytest.mark.parametrize("stage", ["pretrain", "instruct", "end_to_end", "pretrain_retrieval"])
def test_ten_steps_stay_as_pinned(stage: str, tmp_path: Path, request: pytest.FixtureRequest):
    """A change here is a change of what is trained; `python tests/trainers/pin_trajectories.py` writes them anew."""
    scheduler = "cosine" if stage in ("pretrain", "instruct") else "constant"
    train(stage_config(stage, tmp_path, request, lora_dropout=0.0, lr_scheduler=scheduler))
    pinned = json.loads(TRAJECTORIES.read_text())[stage]
    steps = history(tmp_path)
    assert [line["step"] for line in steps] == list(range(1, 11))
    for line, loss, norm in zip(steps, pinned["loss"], pinned["grad_norm"], strict=True):
        assert line["loss"] == pytest.approx(loss, rel=1e-4), line
        assert line["grad_norm"] == pytest.approx(norm, rel=1e-3), line


@pytest.mark.parametrize("stage", ["pretrain", "instruct", "end_to_end", "pretrain_retrieval"])
def test_a_step_is_the_same_however_it_is_split(stage: str, tmp_path: Path, request: pytest.FixtureRequest):
    """Micro-batches of 8 and of 1, 21 rows; two processes: `test_deepspeed_utils`."""
    rows = training_rows.write(tmp_path / "rows.jsonl", training_rows.uneven_rows(stage))
    values = {"dataset": rows, "max_epochs": 1, "max_steps": 0, "lora_dropout": 0.0}
    for micro in (8, 1):
        train(stage_config(stage, tmp_path / str(micro), request, micro_train_batch_size=micro, **values))
    for whole, parts in zip(history(tmp_path / "8"), history(tmp_path / "1"), strict=True):
        names = [name for name in whole if name.endswith("loss") or name in ("grad_norm", "recall@1")]
        assert [parts[name] for name in names] == pytest.approx([whole[name] for name in names], rel=2e-5), names
    whole, parts = trained(tmp_path / "8"), trained(tmp_path / "1")
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], atol=2e-5, rtol=1e-4)


def gradients(config: TrainConfig, checkpointing: bool) -> dict[str, torch.Tensor]:
    """Of the run's first batch, dropout on."""
    model = starting_model(config, "cpu")
    training = TrainingModel(model, objective(config))
    for parameter in model.trainable_parameters(model.trainable_roles).values():
        torch.nn.init.normal_(parameter, std=0.1)  # a fresh LoRA's gradients are half zeros
    if checkpointing:
        training.gradient_checkpointing_enable()
    training.train()
    order = training_order(config)
    batch = collator(config, model.tokens)([order[i] for i in range(8)])
    batch.pop("rows")
    torch.manual_seed(11)
    training(**batch)["loss"].backward()
    named = model.trainable_parameters(model.trainable_roles)
    return {name: parameter.grad for name, parameter in named.items()}


@pytest.mark.parametrize("stage", ["pretrain", "instruct", "end_to_end", "pretrain_retrieval"])
def test_gradients_are_the_same_with_checkpointing(stage: str, tmp_path: Path, request: pytest.FixtureRequest):
    config = stage_config(stage, tmp_path, request)
    plain, recomputed = gradients(config, False), gradients(config, True)
    assert plain.keys() == recomputed.keys()
    for name in plain:
        assert plain[name] is not None and plain[name].any(), name
        torch.testing.assert_close(recomputed[name], plain[name], rtol=1e-5, atol=1e-7)


def test_checkpointing_is_switched_on_by_its_flag(tmp_path: Path, request: pytest.FixtureRequest):
    losses = []
    for flag in (False, True):
        folder = tmp_path / str(flag)
        train(stage_config("pretrain", folder, request, gradient_checkpointing=flag, max_steps=3))
        losses.append([line["loss"] for line in history(folder)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


@pytest.mark.parametrize("stage", ["end_to_end", "pretrain_retrieval"])
def test_stage_3_leaves_the_compressor_bit_identical(stage: str, tmp_path: Path, request: pytest.FixtureRequest):
    start = request.getfixturevalue("pretrained")
    train(stage_config(stage, tmp_path, request, l2=0.1, max_steps=5))
    before, after = trained(start), trained(tmp_path)
    frozen = [name for name in before if name.startswith(("compressor.", "memory.compressor", "embed", "lm_head"))]
    assert len(frozen) > 10 and all(torch.equal(before[name], after[name]) for name in frozen)
    moved = [name for name in after if name.startswith("query_reasoner.")]
    assert any(not torch.equal(after[name], before[name.replace("query_reasoner", "compressor")]) for name in moved)
    assert not torch.equal(after["memory.query_reasoner"], before["memory.compressor"])
    model, loaded = (ClaraModel.from_pretrained(f, dtype=torch.float32, device="cpu") for f in (start, tmp_path))
    assert model.fingerprint == loaded.fingerprint, "stored latents stay valid"


def test_training_never_touches_the_base(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    models = []

    def remembered(*args: object) -> ClaraModel:
        model = starting_model(*args)
        names = {id(p) for p in model.trainable_parameters(model.config.roles).values()}
        base = {n: p for n, p in model.named_parameters() if id(p) not in names}
        models.append((base, {name: p.detach().clone() for name, p in base.items()}))
        return model

    monkeypatch.setattr(run, "starting_model", remembered)
    train(stage_config("pretrain", tmp_path, request, l2=0.1, max_steps=3))
    base, before = models[0]
    assert len(base) > 10 and all(torch.equal(base[name], before[name]) for name in base)


def test_only_what_trains_is_optimised_and_written(tmp_path: Path, request: pytest.FixtureRequest):
    train(stage_config("end_to_end", tmp_path, request, save_steps=5))
    folder = tmp_path / "checkpoint-10"
    state = torch.load(folder / "optimizer.pt", weights_only=True)["state"]
    model = ClaraModel.from_pretrained(folder, dtype=torch.float32, device="cpu")
    expected = model.trainable_parameters(("query_reasoner", "generator"))
    assert sorted(tuple(s["exp_avg"].shape) for s in state.values()) == sorted(
        tuple(p.shape) for p in expected.values()
    )
    tensors = trained(folder)
    vocabulary = len(model.tokens)
    assert all(vocabulary not in tensor.shape for tensor in tensors.values())
    assert tensors["embed_tokens.added"].shape == (4 + 3, 32)
    assert sorted(f.name for f in folder.iterdir()) == [
        "adapters.safetensors",
        "config.json",
        "optimizer.pt",
        "rng_state.pth",
        "scheduler.pt",
        "trainer_state.json",
    ]


def test_the_final_folder_answers(tmp_path: Path, request: pytest.FixtureRequest):
    train(stage_config("end_to_end", tmp_path, request, max_steps=2))
    model = ClaraModel.from_pretrained(tmp_path, dtype=torch.float32, device="cpu")
    row = read_rows([request.getfixturevalue("questions_file")])[0]
    answers, chosen = model.generate_from_questions([row.questions[0]], [list(row.documents)], 4)
    assert len(answers) == 1 and chosen.shape == (1, 5)


def test_the_log_shows_what_a_stage_learns(tmp_path: Path, request: pytest.FixtureRequest):
    train(stage_config("pretrain", tmp_path / "1", request, max_steps=2))
    first = history(tmp_path / "1")[0]
    assert first["loss"] == pytest.approx(first["lm_loss"] + 0.1 * first["alignment_loss"], rel=1e-5)
    assert first["tokens_per_second"] > 0
    train(stage_config("end_to_end", tmp_path / "3", request, max_steps=2))
    last = history(tmp_path / "3")[-1]
    assert 0 <= last["recall@1"] <= last["recall@3"] <= last["recall@5"] == 1
    assert all(0 <= last[name] <= 1 for name in last if name.startswith("right_signed"))
    assert "right_signed_later" in last, "the random model ranks some gold candidates behind others"
    assert (tmp_path / "3" / "loss_curve.png").stat().st_size > 1000


def test_a_run_without_matplotlib_keeps_its_figures_and_says_what_draws_them(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with caplog.at_level("WARNING", logger="trainers"):
        train(stage_config("pretrain", tmp_path, request, max_steps=1))
    assert "pip install 'clara-integrations[plots]'" in caplog.text
    assert history(tmp_path)[0]["loss"] > 0
    assert not (tmp_path / "loss_curve.png").exists()


def test_evaluation_while_training(tmp_path: Path, request: pytest.FixtureRequest):
    questions = request.getfixturevalue("questions_file")
    config = stage_config(
        "end_to_end", tmp_path, request, eval_dataset=questions, eval_steps=2, do_eval_gen=True, max_steps=4
    )
    train(config)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    evaluated = [line for line in lines if "eval_lm_loss" in line]
    assert [line["step"] for line in evaluated] == [2, 4]
    for name in ("eval_em", "eval_f1", "eval_cover_em", "eval_recall@1", "eval_recall@5"):
        assert 0 <= evaluated[0][name] <= 1


def test_evaluation_changes_nothing_that_is_learned(tmp_path: Path, request: pytest.FixtureRequest):
    train(stage_config("pretrain", tmp_path / "plain", request, max_steps=4))
    rows = request.getfixturevalue("stage1_file")
    train(stage_config("pretrain", tmp_path / "watched", request, max_steps=4, eval_dataset=rows, eval_steps=1))
    plain, watched = trained(tmp_path / "plain"), trained(tmp_path / "watched")
    assert all(torch.equal(plain[name], watched[name]) for name in plain)


def test_tensorboard_gets_the_figures(tmp_path: Path, request: pytest.FixtureRequest):
    pytest.importorskip("tensorboard")
    train(stage_config("pretrain", tmp_path / "run", request, max_steps=2, use_tensorboard=str(tmp_path / "tb")))
    assert [f for f in (tmp_path / "tb" / "run").iterdir() if f.stat().st_size > 100]


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch):
    config = stage_config("pretrain", tmp_path, request, save_steps=2)
    whole, calls = TrainingModel.forward, []

    def failing(self: TrainingModel, *args: object, **values: object) -> dict[str, torch.Tensor]:
        out = whole(self, *args, **values)
        calls.append(1)
        return {**out, "loss": out["loss"] * float("nan")} if len(calls) == 6 else out

    monkeypatch.setattr(TrainingModel, "forward", failing)
    with pytest.raises(ClaraError, match=r"the loss is nan at step 3, .*stage1\.jsonl:\d+, .*checkpoint-2") as failure:
        train(config)
    order = training_order(config)
    for place in range(20, 24):
        assert order[place].row.source in str(failure.value)


def test_batches_are_split_over_processes():
    def split(processes: int, **values: object) -> tuple[int, int]:
        config = TrainConfig.for_stage("pretrain", pretrain="b", dataset="a", **values)
        batches = split_batches(config, 1000, processes)
        return batches.micro, batches.accumulation

    assert split(1) == (8, 16) and split(4) == (8, 4)
    assert split(2, train_batch_size=12) == (6, 1) and split(1, train_batch_size=13) == (1, 13)
    assert split(1, train_batch_size=48, micro_train_batch_size=0) == (48, 1)
    with pytest.raises(ClaraError, match="128 cannot be split over 3 processes; use a multiple of 3"):
        split(3)
    with pytest.raises(ClaraError, match="no multiple of micro_train_batch_size 5"):
        split(1, micro_train_batch_size=5)


def test_the_steps_of_several_epochs():
    config = TrainConfig.for_stage("pretrain", pretrain="b", dataset="a", train_batch_size=8, max_epochs=2)
    assert split_batches(config, 2 * 21, 1).steps == 6


def test_bad_rows_are_left_out_counted_and_listed(tmp_path: Path, request: pytest.FixtureRequest, caplog):
    rows = training_rows.question_rows(8)
    rows[3] = {"question": ["a", "b"], "answers": ["c", "d"], "docs": ["e"]}
    rows[5]["question"] = "why " * 3_000
    data = training_rows.write(tmp_path / "rows.jsonl", rows)
    settings = {"dataset": data, "train_batch_size": 4, "max_epochs": 1}
    with pytest.raises(ClaraError, match=r"1 bad of 8 rows: line 4: 2 questions.*--bad_rows skip"):
        train(stage_config("end_to_end", tmp_path / "run", request, **settings))
    with caplog.at_level("WARNING", logger="trainers"):
        train(stage_config("end_to_end", tmp_path / "run", request, bad_rows="skip", **settings))
    assert "1 bad rows are left out" in caplog.text
    assert "rows.jsonl, line 4: 2 questions" in (tmp_path / "run" / "bad_rows.txt").read_text()
    lines = history(tmp_path / "run")
    assert sum(line.get("questions_shortened", 0) for line in lines) == 1 and lines[-1]["step"] == 2
