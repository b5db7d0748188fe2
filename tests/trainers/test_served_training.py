"""The generator alone learns what it is asked when it serves: passages as text, and questions that nothing answers."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import small_model
import torch
import training_rows

from clara_model import ClaraModel
from clara_model.checkpoint.certainty import Certainty
from clara_model.console import tables
from clara_model.errors import ClaraError
from clara_model.inference.clara import Clara
from clara_model.search.bm25 import shared_words
from trainers.training.run import train

NONE = "no"


def test_latents_and_ranking_stay_while_the_generator_learns(base_folder: Path, tmp_path: Path):
    start = small_model.build_model(base_folder)
    start.config = replace(start.config, prompts=replace(start.config.prompts, no_answer=NONE))
    start.save_pretrained(tmp_path / "start")
    documents = small_model.TEXTS[:2]
    rows = [{"question": "Who came?", "docs": documents, "answer": "Ada", "pos_index": [0]}]
    rows += [{"question": "What costs it?", "docs": documents, "answer": NONE, "pos_index": []}]
    path = training_rows.write(tmp_path / "rows.jsonl", rows * 40)
    options = {"keep_generator": True, "freeze_compressor": True, "expand_share": 0.5}
    config = training_rows.config(
        "instruct", tmp_path / "out", dataset=path, pretrain_checkpoint=tmp_path / "start", generation_top_k=2,
        learning_rate=8e-3, lora_dropout=0.0, train_batch_size=8, max_epochs=3, **options,
    )  # fmt: skip
    train(config)
    model = ClaraModel.from_pretrained(tmp_path / "out", dtype=torch.float32, device="cpu")
    assert model.fingerprint == start.fingerprint, "stores stay valid"
    for role, same in {"compressor": True, "query_reasoner": True, "generator": False}.items():
        before, after = start.trainable_parameters([role]), model.trainable_parameters([role])
        assert all(torch.equal(before[name], after[name]) for name in before) is same, role
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    losses = [entry["lm_loss"] for entry in log if "lm_loss" in entry]
    assert losses[-1] < losses[0]


def test_an_answer_that_says_there_is_none_is_not_found(base_folder: Path):
    model = small_model.build_model(base_folder)
    with Clara(model) as clara:
        said = clara.answer("Who came?", small_model.TEXTS, max_new_tokens=3)
    assert said.text.strip() and not said.no_answer and said.found(0.0)
    prompts = replace(model.config.prompts, no_answer=said.text.strip())
    model.config = replace(model.config, prompts=prompts)
    with Clara(model) as clara:
        again, stream = (
            clara.answer("Who came?", small_model.TEXTS, max_new_tokens=3),
            clara.stream("Who came?", small_model.TEXTS, max_new_tokens=3),
        )
        assert "".join(stream) == said.text
    for answer in (again, stream.answer):
        assert answer.no_answer and not answer.found(0.0)
    assert tables.answer_text(again).plain == "The documents do not say."


@pytest.mark.parametrize("bias", [0.0, 1.5, -30.0])
def test_the_confidence_is_the_best_beginning_against_that_of_no_answer(base_folder: Path, bias: float):
    model = small_model.build_model(base_folder)
    prompts = replace(model.config.prompts, no_answer=NONE, certainty=Certainty(bias=bias))
    model.config = replace(model.config, prompts=prompts)
    latents = model.compress(small_model.TEXTS)
    ids = model.tokens.prompt_ids(model.config.prompts.answer, len(latents), "Who came?")
    with model.roles.acting_as("generator"), torch.no_grad():
        states = model.hidden_states(model.fill_slots(torch.tensor([ids]), latents.vectors), torch.ones(1, len(ids)))
        likely = model.base.get_output_embeddings()(states[:, -1]).softmax(-1)[0]
    made = model.generate_ids([ids], [latents.vectors], max_new_tokens=3)
    example = model.tokens.example(model.config.prompts.answer, len(latents), NONE, 2048, "Who came?")
    first = example.ids[len(ids)]
    none, best = float(likely[first]) * math.exp(-bias), float(likely[torch.arange(len(likely)) != first].max())
    assert made.confidences[0] == pytest.approx(best / (best + none), abs=1e-5)
    assert (made.ids[0, 0] == first) == (made.confidences[0] < 0.5)


def test_the_text_of_no_answer_is_kept_with_the_prompts(base_folder: Path, tmp_path: Path):
    model = small_model.build_model(base_folder)
    assert "no_answer" not in model.config.to_dict()["prompts"] and model.tokens.no_answer_id is None
    model.config = replace(model.config, prompts=replace(model.config.prompts, no_answer=NONE))
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["prompts"]["no_answer"] == NONE
    assert model.config.prompts.certainty == Certainty()
    assert ClaraModel.from_pretrained(tmp_path, device="cpu").config.prompts.no_answer == NONE


def test_what_the_ranking_says_goes_into_the_confidence_of_each_question(base_folder: Path):
    model = small_model.build_model(base_folder)
    certainty = Certainty(odds=0.5, latents=3.0, words=4.0, bias=-1.0, usual_latents=0.2, usual_words=0.4)
    model.config = replace(model.config, prompts=replace(model.config.prompts, no_answer=NONE, certainty=certainty))
    questions = ["Who came?", small_model.TEXTS[1], "zzz"]
    with Clara(model) as clara:
        together = clara.answers(questions, [small_model.TEXTS] * 3, 2, max_new_tokens=3)
        plain = clara.answers(questions, [small_model.TEXTS] * 3, 2, max_new_tokens=3, rerank=False)
    for ranked, question in zip(together, questions, strict=True):
        best = ranked.ranking[0]
        read = model.compress([small_model.TEXTS[one.index] for one in ranked.ranking[:2]])
        prior = -1 + 3 * best.latents + 4 * shared_words(question, small_model.TEXTS[best.index])
        alone = model.generate([question], [read], max_new_tokens=3, priors=[prior])
        assert ranked.confidence == pytest.approx(alone.confidences[0], abs=1e-5)
        assert (ranked.confidence < 0.5) == bool(alone.ids[0, 0] == model.tokens.no_answer_id)
    for one, question in zip(plain, questions, strict=True):
        prior = -1 + 3 * 0.2 + 4 * shared_words(question, small_model.TEXTS[0])
        alone = model.generate([question], [model.compress(small_model.TEXTS[:2])], max_new_tokens=3, priors=[prior])
        assert one.confidence == pytest.approx(alone.confidences[0], abs=1e-5)


def test_certainty_by_hand():
    certainty = Certainty(odds=0.5, latents=2.0, words=1.0, bias=-3.0, usual_latents=0.5, refuse_below=0.2)
    assert certainty.prior(0.75, 0.5) == -1.0 and certainty.prior(None, None) == -2.0
    assert certainty.of(-1.0, 4.0) == pytest.approx(1 / (1 + math.exp(-1.0)))
    assert certainty.of(-1.0, certainty.shift(-1.0)) == pytest.approx(0.2)  # the odds at which it is just written
    with pytest.raises(ClaraError, match=r"refuse_below between 0 and 1, got 0\.5 and 1\.5"):
        Certainty(odds=0.5, refuse_below=1.5)
    with pytest.raises(ClaraError, match="certainty must be an object with some of odds"):
        Certainty.from_dict({"weight": 1})
