"""The generator alone learns what it is asked when it serves: passages as text, and questions that nothing answers."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import small_model
import torch
import training_rows

from clara_model import ClaraModel
from clara_model.errors import ClaraError
from clara_model.inference.clara import Clara
from trainers.training.run import train

NONE = "Not here."


def test_latents_and_ranking_stay_and_the_generator_learns_to_say_that_nothing_answers(base_folder: Path, tmp_path: Path):
    start = small_model.build_model(base_folder)
    start.config = replace(start.config, prompts=replace(start.config.prompts, no_answer=NONE))
    start.save_pretrained(tmp_path / "start")
    documents = small_model.TEXTS[:2]
    rows = [{"question": "Who came?", "docs": documents, "answer": "Ada Fenwick", "pos_index": [0]}]
    rows += [{"question": "What costs it?", "docs": documents, "answer": NONE, "pos_index": []}]
    path = training_rows.write(tmp_path / "rows.jsonl", rows * 40)
    options = {"keep_generator": True, "freeze_compressor": True, "mse_loss": False, "expand_share": 0.5}
    config = training_rows.config(
        "instruct", tmp_path / "out", dataset=path, pretrain_checkpoint=tmp_path / "start", generation_top_k=2,
        learning_rate=2e-2, lora_dropout=0.0, train_batch_size=8, max_epochs=10, **options,
    )  # fmt: skip
    train(config)
    model = ClaraModel.from_pretrained(tmp_path / "out", dtype=torch.float32, device="cpu")
    assert model.fingerprint == start.fingerprint, "stores stay valid"
    for role, same in {"compressor": True, "query_reasoner": True, "generator": False}.items():
        before, after = start.trainable_parameters([role]), model.trainable_parameters([role])
        assert all(torch.equal(before[name], after[name]) for name in before) is same, role
    for expand in (0, 1, 2):
        with Clara(model, expand=expand) as clara:
            there, missing = clara.answers([rows[0]["question"], rows[1]["question"]], documents, 2, max_new_tokens=12)
        assert (there.text.strip(), there.found(0.5)) == ("Ada Fenwick", True)
        assert (missing.text.strip(), missing.no_answer, missing.found(0.0)) == (NONE, True, False)
        assert missing.confidence < 0.1 < 0.9 < there.confidence


def test_the_confidence_is_one_less_the_likelihood_of_no_answer(base_folder: Path):
    model = small_model.build_model(base_folder)
    model.config = replace(model.config, prompts=replace(model.config.prompts, no_answer=NONE))
    latents = model.compress(small_model.TEXTS)
    ids = model.tokens.prompt_ids(model.config.prompts.answer, len(latents), "Who came?")
    with model.roles.acting_as("generator"), torch.no_grad():
        states = model.hidden_states(model.fill_slots(torch.tensor([ids]), latents.vectors), torch.ones(1, len(ids)))
        likely = model.base.get_output_embeddings()(states[:, -1]).softmax(-1)[0]
    made = model.generate_ids([ids], [latents.vectors], max_new_tokens=3)
    first = model.tokens.plain_ids(NONE)[0]
    assert made.confidences[0] == pytest.approx(1 - float(likely[first]), abs=1e-6)


def test_freezing_the_compressor_leaves_nothing_to_align(tmp_path: Path):
    with pytest.raises(ClaraError, match="mse_loss trains the compressor, which freeze_compressor does not"):
        training_rows.config(
            "instruct", tmp_path, dataset="x", pretrain_checkpoint="y", freeze_compressor=True, mse_loss=True
        )


def test_the_text_of_no_answer_is_kept_with_the_prompts(base_folder: Path, tmp_path: Path):
    model = small_model.build_model(base_folder)
    assert "no_answer" not in model.config.to_dict()["prompts"] and model.tokens.no_answer_id is None
    model.config = replace(model.config, prompts=replace(model.config.prompts, no_answer=NONE))
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["prompts"]["no_answer"] == NONE
    assert ClaraModel.from_pretrained(tmp_path, device="cpu").config.prompts.no_answer == NONE
