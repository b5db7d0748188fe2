"""Stage 3's options: they follow the step's number, teach what they say, and the log tells what ranking does."""

import logging
from pathlib import Path

import pytest
import torch
import training_rows
from transformers import TrainerControl, TrainerState, TrainingArguments

from clara_model.inference.published import ClaraModel
from clara_model.modeling.objectives import Objective, TrainingModel
from clara_model.modeling.training_batch import Sequences
from trainers.data.collator import Collator
from trainers.data.rows import parse_row
from trainers.data.sampling import TrainingItem
from trainers.training.callbacks import WINDOW, RankingSchedule, RecallWatch


@pytest.fixture(scope="module")
def model(tiny_clara_folder: Path) -> ClaraModel:
    return ClaraModel.from_pretrained(tiny_clara_folder, dtype=torch.float32, device="cpu")


def items(count: int = 4, epoch: int = 0) -> list[TrainingItem]:
    return [TrainingItem(parse_row(row), n, epoch) for n, row in enumerate(training_rows.question_rows(count))]


def batch(model: ClaraModel, **options: object) -> dict[str, torch.Tensor]:
    made = Collator(model.tokens, "end_to_end", top_k=3, **options)(items())
    made.pop("rows")
    return made


def at_step(step: int, training: TrainingModel, **values: object) -> None:
    config = training_rows.config("end_to_end", Path("x"), pretrain_checkpoint="c", dataset="d", **values)
    state = TrainerState(global_step=step, max_steps=11)
    RankingSchedule(training, config).on_step_begin(TrainingArguments(use_cpu=True), state, TrainerControl())


def test_temperature_and_warm_up_follow_from_the_step(model: ClaraModel):
    training = TrainingModel(model, Objective(stage="end_to_end"))
    found = []
    for step in (0, 5, 10):
        at_step(step, training, temperature_start=0.5, ranking_loss="labels", ranking_warmup=6)
        found.append((round(training.temperature, 4), training.warming_up))
    assert found == [(0.5, True), (0.1, True), (0.02, False)]
    at_step(0, training)
    assert (training.temperature, training.warming_up) == (0.02, False)


@pytest.mark.parametrize("source", ["labels", "likelihood"])
def test_the_warm_up_teaches_the_ranking_alone(model: ClaraModel, source: str):
    training = TrainingModel(model, Objective(stage="end_to_end", top_k=3, ranking_loss=source)).train()
    values = batch(model, singles=source == "likelihood")
    training.warming_up = True
    out = training(**values)
    training.zero_grad()
    out["loss"].backward()
    name = "retrieval_loss" if source == "labels" else "ranking_loss"
    assert out["loss"].item() == pytest.approx(out[name].item()) and "lm_loss" not in out
    named = model.trainable_parameters(("query_reasoner", "generator"))
    moved = {key.split(".")[0] for key, p in named.items() if p.grad is not None and p.grad.any()}
    assert moved == {"query_reasoner", "memory"}


def test_the_likelihoods_are_those_of_one_document_alone(model: ClaraModel):
    training = TrainingModel(model, Objective(stage="end_to_end", top_k=1)).eval()
    values = batch(model, singles=True)
    latents = model.encode("compressor", values["document_ids"], values["document_mask"])[0]
    candidates = latents[values["document_index"]]
    singles = {"ids": values["single_ids"], "mask": values["single_mask"], "labels": values["single_labels"]}
    found = training._likelihoods(candidates, Sequences(**singles))
    third = Sequences(**{name: part[2:3] for name, part in singles.items()})
    logits, targets = training.label_logits(candidates[2:3, 4], third)
    expected = torch.log_softmax(logits, -1)[range(len(targets)), targets].sum()
    assert found.shape == (4, 5) and found[2, 4].item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_ranking_term_is_added_by_its_weight(model: ClaraModel):
    values = batch(model, singles=True)
    training = TrainingModel(
        model, Objective(stage="end_to_end", top_k=3, ranking_loss="likelihood", ranking_weight=0.5)
    ).train()
    for layer in model.roles.layers().values():
        for dropout in layer.lora_dropout.values():
            dropout.eval()
    out = training(**values)
    assert out["loss"].item() == pytest.approx((out["lm_loss"] + 0.5 * out["ranking_loss"]).item(), rel=1e-5)


def test_slots_in_another_order_are_what_the_generator_reads(model: ClaraModel):
    training = TrainingModel(model, Objective(stage="end_to_end", top_k=3)).eval()
    values = batch(model)
    plain = training(**values)["lm_loss"].item()
    same = training(**values, slot_order=torch.arange(3).repeat(4, 1))["lm_loss"].item()
    other = training(**values, slot_order=torch.tensor([[2, 0, 1]]).repeat(4, 1))["lm_loss"].item()
    assert same == plain and other != plain


def test_a_share_of_the_rows_is_read_in_random_order(model: ClaraModel):
    many = [TrainingItem(parse_row(row), n, 0) for n, row in enumerate(training_rows.question_rows(40))]
    collate = Collator(model.tokens, "end_to_end", top_k=3, shuffled=0.5, seed=1)
    orders = collate(many)["slot_order"].tolist()
    assert orders == collate(many)["slot_order"].tolist(), "drawn from seed, epoch and row"
    assert all(sorted(order) == [0, 1, 2] for order in orders)
    assert 8 < sum(order != [0, 1, 2] for order in orders) < 28
    stage2 = Collator(model.tokens, "instruct", top_k=5, shuffled=1.0)(many)
    plain = Collator(model.tokens, "instruct", top_k=5)(many)
    assert stage2["document_ids"].shape == plain["document_ids"].shape
    assert not torch.equal(stage2["document_ids"], plain["document_ids"])


@pytest.mark.parametrize(("later", "warned"), [(0.5, True), (0.79, False)])
def test_a_fall_of_recall_is_a_warning(caplog: pytest.LogCaptureFixture, later: float, warned: bool):
    state = TrainerState(is_world_process_zero=True)
    watch, arguments = RecallWatch(), TrainingArguments(use_cpu=True)
    with caplog.at_level(logging.WARNING):
        for n in range(3 * WINDOW):
            state.log_history.append({"recall@1": 0.8 if n < WINDOW else later})
            watch.on_log(arguments, state, TrainerControl())
    assert [record.message.startswith("recall@1 is") for record in caplog.records] == [True] * warned
