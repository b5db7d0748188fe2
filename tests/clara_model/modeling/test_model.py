"""ClaraModel: batching, fingerprints, generation options, training switches, and calls that change nothing."""

import logging
import random
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_model
import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer
from transformers.utils import logging as transformers_logging

from clara_model import Clara, ClaraModel
from clara_model.checkpoint.config import ClaraConfig
from clara_model.errors import ClaraError
from clara_model.latents import Latents
from clara_model.modeling.objectives import Objective, TrainingModel

TEXTS, QUESTIONS = small_model.TEXTS, small_model.QUESTIONS


def same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)


# -- compress and encode ----------------------------------------------------------------------------------------


def test_shapes(loaded: ClaraModel):
    latents, queries = loaded.compress(TEXTS), loaded.encode_queries(QUESTIONS)
    assert latents.vectors.shape == (5, 4, 32) and queries.vectors.shape == (3, 4, 32)
    assert not latents.vectors.requires_grad and latents.fingerprint == queries.fingerprint == loaded.fingerprint
    assert loaded.score(queries, latents).shape == (3, 5)
    assert latents.lengths == tuple(min(49, loaded.tokens.count(text)) for text in TEXTS)


@pytest.mark.parametrize("texts", [TEXTS, ["", "a", TEXTS[1] * 9], [" ", "<MEM0></s>", "\ud800"]])
def test_batched_equals_one_by_one(loaded: ClaraModel, texts: list[str]):
    for encode in (loaded.compress, loaded.encode_queries):
        batch = encode(texts)
        assert len({len(loaded.tokens.document_ids(text)) for text in texts}) > 1
        for i, text in enumerate(texts):
            same(batch.vectors[i], encode([text]).vectors[0])
            assert batch.lengths[i] == encode([text]).lengths[0]


def test_order_does_not_matter(loaded: ClaraModel):
    same(loaded.compress(TEXTS[::-1]).vectors, loaded.compress(TEXTS).vectors.flip(0))


@pytest.mark.parametrize("extra", [1, 100])
def test_padded_equals_unpadded(loaded: ClaraModel, extra: int):
    padded = small_model.documents(loaded.tokens, TEXTS)
    ids = torch.cat([torch.full((5, extra), 7), padded.ids], dim=1)
    mask = torch.cat([torch.zeros(5, extra, dtype=torch.long), padded.mask], dim=1)
    with torch.no_grad():
        wider, _ = loaded.encode("compressor", ids, mask)
    same(wider, loaded.compress(TEXTS).vectors)


def test_roles_give_different_latents(loaded: ClaraModel):
    assert (loaded.compress(TEXTS).vectors - loaded.encode_queries(TEXTS).vectors).abs().max() > 1e-2


def test_each_role_reads_its_own_rows(model: ClaraModel):
    documents, questions = model.compress(TEXTS), model.encode_queries(TEXTS)
    with torch.no_grad():
        model.memory.rows["query_reasoner"].mul_(2)
    assert torch.equal(model.compress(TEXTS).vectors, documents.vectors)
    assert not torch.equal(model.encode_queries(TEXTS).vectors, questions.vectors)


def test_long_documents_are_read_up_to_the_maximum(loaded: ClaraModel):
    text = "q" * 49
    same(loaded.compress([text + "z" * 50]).vectors, loaded.compress([text + "different"]).vectors)


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ([], ValueError, "expected at least one document, got none"),
        ("one text", TypeError, "expected a list of documents, got one string; put it in a list"),
        (None, TypeError, "expected a list of documents, got NoneType"),
        (["a", None], TypeError, "document 2 of 2 must be a string, got NoneType"),
        ([["a"]], TypeError, "document 1 of 1 must be a string, got list"),
    ],
)
def test_bad_documents(loaded: ClaraModel, texts: object, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        loaded.compress(texts)
    with pytest.raises(error, match=message.replace("document", "question")):
        loaded.encode_queries(texts)


def test_no_vocabulary_logits_when_encoding(loaded: ClaraModel):
    ran = []
    handle = loaded.base.get_output_embeddings().register_forward_hook(lambda *_: ran.append(1))
    loaded.compress(TEXTS)
    handle.remove()
    assert not ran


# -- fingerprints -----------------------------------------------------------------------------------------------


def test_latents_of_another_checkpoint_are_refused(loaded: ClaraModel, other: ClaraModel):
    foreign = other.compress(TEXTS)
    message = (
        f"these latents were made by another checkpoint ({foreign.fingerprint}, this one is {loaded.fingerprint}); "
        "compress the documents again with this one"
    )
    for call in (
        lambda: loaded.score(loaded.encode_queries(QUESTIONS), foreign),
        lambda: loaded.score(other.encode_queries(QUESTIONS), loaded.compress(TEXTS)),
        lambda: loaded.generate(QUESTIONS[:1], [foreign]),
    ):
        with pytest.raises(ClaraError) as caught:
            call()
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v[:, :2], r"these latents have \(2, 32\) numbers each, this checkpoint makes \(4, 32\)"),
        (lambda v: v[..., :16], r"these latents have \(4, 16\) numbers each"),
        (
            lambda v: torch.where(torch.arange(len(v)).view(-1, 1, 1) == 2, torch.nan, v),
            "of document 2 hold NaN or inf",
        ),
        (lambda v: v * torch.inf, "the latents of document 0 hold NaN or infinity; compress it again, in float32"),
    ],
)
def test_latents_of_another_form_or_without_numbers_are_refused(loaded: ClaraModel, change: Any, message: str):
    latents = loaded.compress(TEXTS)
    bad = Latents(change(latents.vectors), latents.lengths, latents.fingerprint)
    for call in (
        lambda: loaded.score(loaded.encode_queries(QUESTIONS), bad),
        lambda: loaded.generate(QUESTIONS[:1], [bad]),
        lambda: Clara(loaded).rank(QUESTIONS[0], bad),
        lambda: Clara(loaded).answer(QUESTIONS[0], bad, rerank=False),
    ):
        with pytest.raises(ClaraError, match=message):
            call()


def test_weights_that_make_no_numbers_end_in_one_sentence(model: ClaraModel):
    with torch.no_grad():
        model.base.get_decoder().norm.weight.fill_(torch.nan)
    with pytest.raises(ClaraError, match="a score is not a number"):
        Clara(model).answer(QUESTIONS[0], TEXTS)


# -- positions --------------------------------------------------------------------------------------------------


def test_an_answer_beyond_the_bases_positions_is_noticed(model: ClaraModel, caplog: pytest.LogCaptureFixture):
    latents, prompt = [model.compress(TEXTS[:1])], model.tokens.prompt_ids(model.config.prompts.answer, 1, QUESTIONS[0])
    model.base.config.max_position_embeddings = len(prompt) + 3
    model.generate(QUESTIONS[:1], latents, max_new_tokens=3, min_new_tokens=3)
    assert not caplog.records
    model.generate(QUESTIONS[:1], latents, max_new_tokens=5, min_new_tokens=5)
    assert f"an answer ran to position {len(prompt) + 5}, the base model was made for {len(prompt) + 3}" in caplog.text
    model.base.config.max_position_embeddings = len(prompt) - 1
    with pytest.raises(ClaraError, match=f"a prompt has {len(prompt)} tokens, the base model was made for"):
        model.generate(QUESTIONS[:1], latents)


# -- generation -------------------------------------------------------------------------------------------------


def test_batched_answers_equal_one_by_one(loaded: ClaraModel):
    latents = [loaded.compress(TEXTS[:1]), loaded.compress(TEXTS[1:4]), loaded.compress(TEXTS)]
    together = loaded.generate(QUESTIONS, latents, max_new_tokens=8)
    alone = [loaded.generate([q], [part], max_new_tokens=8) for q, part in zip(QUESTIONS, latents, strict=True)]
    assert together.texts == [one.texts[0] for one in alone] and len(set(together.texts)) == 3
    assert together.prompt_tokens == [one.prompt_tokens[0] for one in alone]
    assert together.completion_tokens == [one.completion_tokens[0] for one in alone]


def test_ragged_candidates(loaded: ClaraModel):
    candidates = [TEXTS, TEXTS[:1], TEXTS[2:4]]
    texts, chosen = loaded.generate_from_questions(QUESTIONS, candidates, 4, generation_top_k=3)
    assert chosen.shape == (3, 3) and chosen[1].tolist()[1:] == [-1, -1] and chosen[2].tolist()[2:] == [-1]
    for i, (question, row) in enumerate(zip(QUESTIONS, candidates, strict=True)):
        one, picked = loaded.generate_from_questions([question], [row], 4, generation_top_k=3)
        assert [texts[i]] == one and chosen[i][chosen[i] >= 0].tolist() == picked[0].tolist()


def test_the_best_are_chosen(loaded: ClaraModel):
    _, chosen = loaded.generate_from_questions(QUESTIONS, [TEXTS] * 3, 1, generation_top_k=2)
    scores = loaded.score(loaded.encode_queries(QUESTIONS), loaded.compress(TEXTS))
    assert chosen.tolist() == scores.topk(2).indices.tolist()


@pytest.mark.parametrize(("k", "width"), [(None, 2), (1, 1), (5, 5), (99, 5)])
def test_k_is_the_checkpoints_or_given_and_capped(loaded: ClaraModel, k: int | None, width: int):
    _, chosen = loaded.generate_from_questions(QUESTIONS[:1], [TEXTS], 1, generation_top_k=k)
    assert chosen.shape == (1, width) and loaded.config.top_k == 2


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one(loaded: ClaraModel, k: int):
    with pytest.raises(ValueError, match=f"generation_top_k must be at least 1, got {k}"):
        loaded.generate_from_questions(QUESTIONS[:1], [TEXTS], 1, generation_top_k=k)


@pytest.mark.parametrize(
    ("questions", "documents", "error", "message"),
    [
        (QUESTIONS, [TEXTS], ValueError, "need candidates for each question, got 1 rows for 3 questions"),
        (QUESTIONS[:1], [[]], ValueError, "expected at least one document, got none"),
        (QUESTIONS[:1], TEXTS[:1], TypeError, "expected a list of documents, got one string"),
        (QUESTIONS[:1], "text", TypeError, "documents must be a list of lists of strings"),
        (QUESTIONS[:1], None, TypeError, "documents must be a list of lists of strings"),
        ([None], [TEXTS], TypeError, "question 1 of 1 must be a string, got NoneType"),
    ],
)
def test_bad_questions_and_candidates(loaded: ClaraModel, questions, documents, error, message: str):
    with pytest.raises(error, match=message):
        loaded.generate_from_questions(questions, documents, 1)


def test_generate_needs_latents_for_each_question(loaded: ClaraModel):
    with pytest.raises(ValueError, match="need latents for each of at least one question, got 3 and 1"):
        loaded.generate(QUESTIONS, [loaded.compress(TEXTS)])


@pytest.mark.parametrize("count", [0, -3])
def test_new_tokens_below_one(loaded: ClaraModel, count: int):
    with pytest.raises(ValueError, match=f"max_new_tokens must be at least 1, got {count}"):
        loaded.generate(QUESTIONS[:1], [loaded.compress(TEXTS)], max_new_tokens=count)


def test_an_empty_question_is_answered(loaded: ClaraModel):
    assert len(loaded.generate_from_questions([""], [TEXTS], 2)[0]) == 1


def test_slots_that_do_not_fit(base_folder: Path):
    model = small_model.build_model(base_folder, max_prompt_length=110)
    with pytest.raises(ClaraError, match=r"the slots of 5 documents need .* use a smaller top_k"):
        model.generate_from_text(QUESTIONS[:1], [TEXTS], 1)


def test_stop_strings(loaded: ClaraModel):
    latents = [loaded.compress(TEXTS[:1]), loaded.compress(TEXTS[1:])]
    free = loaded.generate(QUESTIONS[:2], latents, max_new_tokens=12)
    assert free.finish_reasons == ["length", "length"] and free.completion_tokens == [12, 12]
    stop = loaded.tokens.tokenizer.decode(free.ids[0, 3:5])
    assert stop and free.texts[0].count(stop) == 1 and stop not in free.texts[1]
    stopped = loaded.generate(QUESTIONS[:2], latents, max_new_tokens=12, stop=[stop])
    assert stopped.texts == [free.texts[0].partition(stop)[0], free.texts[1]]
    assert stopped.finish_reasons == ["stop", "length"]
    assert stopped.completion_tokens == [5, 12]


def test_an_end_token_ends_a_row_and_is_counted(loaded: ClaraModel):
    latents = [loaded.compress(TEXTS[:1]), loaded.compress(TEXTS[1:])]
    free = loaded.generate(QUESTIONS[:2], latents, max_new_tokens=12)
    end = next(token for token in free.ids[0].tolist() if token not in free.ids[1].tolist())
    at = free.ids[0].tolist().index(end)
    ended = loaded.generate(QUESTIONS[:2], latents, max_new_tokens=12, eos_token_id=end)
    assert ended.finish_reasons == ["stop", "length"] and ended.completion_tokens == [at + 1, 12]
    assert set(ended.ids[0, at + 1 :].tolist()) <= {loaded.tokens.tokenizer.pad_token_id}


def test_sampling_arguments(loaded: ClaraModel):
    latents = [loaded.compress(TEXTS)]
    greedy = loaded.generate(QUESTIONS[:1], latents, max_new_tokens=8).texts

    def sample(seed: int, **options: object) -> list[str]:
        torch.manual_seed(seed)
        return loaded.generate(QUESTIONS[:1], latents, max_new_tokens=8, do_sample=True, **options).texts

    assert sample(1, temperature=3.0) == sample(1, temperature=3.0)
    assert len({sample(seed, temperature=3.0)[0] for seed in range(4)}) > 1
    assert sample(1, top_k=1) == greedy
    assert len(loaded.generate(QUESTIONS[:1], latents, max_new_tokens=3, num_beams=2).texts) == 1


def test_streaming_gives_the_ids_as_they_come(loaded: ClaraModel):
    class Keep(BaseStreamer):
        def __init__(self) -> None:
            self.ids, self.ended = [], False

        def put(self, value: Tensor) -> None:
            self.ids.extend(value.flatten().tolist())

        def end(self) -> None:
            self.ended = True

    streamer, latents = Keep(), [loaded.compress(TEXTS)]
    generated = loaded.generate(QUESTIONS[:1], latents, max_new_tokens=6, streamer=streamer)
    assert streamer.ids == generated.ids[0].tolist() and streamer.ended


HABITS = {
    "do_sample": True,
    "temperature": 0.3,
    "top_p": 0.5,
    "top_k": 3,
    "repetition_penalty": 1.8,
    "max_length": 21,
    "no_repeat_ngram_size": 1,
}


def test_the_bases_generation_habits_do_not_leak(
    base_folder: Path, loaded: ClaraModel, caplog: pytest.LogCaptureFixture
):
    base = small_model.build_base(vocabulary=400)
    base.generation_config = GenerationConfig(bos_token_id=0, eos_token_id=[1, 5], **HABITS)
    model = ClaraModel(base, small_model.build_tokenizer(), loaded.config)
    plain = small_model.build_base(vocabulary=400)
    expected = ClaraModel(plain, small_model.build_tokenizer(), loaded.config, to_be_loaded=True)
    state = loaded.state()
    model.load_weights(state)
    expected.load_weights(state)
    assert model.base.generation_config.eos_token_id == [1, 5]
    model.base.generation_config.eos_token_id = 1
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        ours = model.generate_from_text(QUESTIONS, [TEXTS] * 3, 24)
    assert ours == expected.generate_from_text(QUESTIONS, [TEXTS] * 3, 24)
    assert not caplog.records


def test_paraphrase_instructions(loaded: ClaraModel, monkeypatch: pytest.MonkeyPatch):
    asked = []
    original = loaded.tokens.prompt_ids
    monkeypatch.setattr(
        loaded.tokens, "prompt_ids", lambda p, *a, **k: asked.append(p.user[k["wording"]]) or original(p, *a, **k)
    )
    wordings = loaded.config.prompts.paraphrase.user
    loaded.generate_from_paraphrase([], [TEXTS[:1]], 1, instruction=2)
    loaded.generate_from_paraphrase([], [TEXTS[:1]], 1, instruction="Short: {memory}")
    assert asked == [wordings[2], "Short: {memory}"]
    with pytest.raises(ClaraError, match=r"must hold \{memory\} exactly once, got 'Short'"):
        loaded.generate_from_paraphrase([], [TEXTS[:1]], 1, instruction="Short")
    with pytest.raises(ValueError, match=r"instruction must be a whole number from 0 to 3 .* got 4"):
        loaded.generate_from_paraphrase([], [TEXTS[:1]], 1, instruction=4)


def test_the_base_alone_is_the_base(base_folder: Path, loaded: ClaraModel):
    from transformers import LlamaForCausalLM

    base = LlamaForCausalLM.from_pretrained(base_folder).eval()
    prompts = [loaded.tokens.text_prompt_ids(loaded.config.prompts.answer, TEXTS[0], QUESTIONS[0]), [5, 6, 7]]
    for prompt, ours in zip(prompts, loaded.generate_plain(prompts, max_new_tokens=6).ids.tolist(), strict=True):
        theirs = base.generate(torch.tensor([prompt]), max_new_tokens=6, do_sample=False, pad_token_id=0)
        assert ours == theirs[0, len(prompt) :].tolist()


def test_calls_do_not_change_the_model(model: ClaraModel):
    def snapshot() -> dict[str, object]:
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        modes = [module.training for module in model.modules()]
        grads = [p.requires_grad for p in model.parameters()]
        return {"weights": weights, "modes": modes, "grads": grads, "config": model.config, "role": model.roles.active,
                "generation": model.base.generation_config.to_dict()}  # fmt: skip

    before = snapshot()
    random.seed(0)
    first = model.generate_from_questions(QUESTIONS, [TEXTS] * 3, 3)
    model.generate_from_questions(QUESTIONS, [TEXTS] * 3, 3, generation_top_k=4)
    model.generate_from_text(QUESTIONS[:1], [TEXTS], 3, do_sample=True, temperature=2.0, stop=["x"], eos_token_id=9)
    model.generate_from_paraphrase(QUESTIONS[:1], [TEXTS[:3]], 3, instruction=1)
    model.generate_plain([[5, 6]], max_new_tokens=2)
    with pytest.raises(ClaraError):
        model.generate(QUESTIONS[:1], [Latents(torch.zeros(1, 4, 32), (1,), "other")])
    after = snapshot()
    assert all(torch.equal(before["weights"][name], tensor) for name, tensor in after["weights"].items())
    assert {k: v for k, v in before.items() if k != "weights"} == {k: v for k, v in after.items() if k != "weights"}
    again = model.generate_from_questions(QUESTIONS, [TEXTS] * 3, 3)
    assert first[0] == again[0] and torch.equal(first[1], again[1])


# -- training switches ------------------------------------------------------------------------------------------


def test_one_configuration_is_the_truth(model: ClaraModel):
    changed = replace(model.config, top_k=7, max_prompt_length=99)
    model.config = changed
    assert model.config is model.tokens.config is changed
    with pytest.raises(ClaraError, match=r"max_prompt_length \(99\)"):
        model.tokens.prompt_ids(model.config.prompts.answer, 7, "Why?")


def trained(model: ClaraModel, stage: str, rate: float = 0.05) -> tuple[TrainingModel, torch.optim.Optimizer]:
    training = TrainingModel(model, Objective(stage=stage, top_k=2))
    return training, torch.optim.AdamW([p for p in training.parameters() if p.requires_grad], lr=rate)


def step(training: TrainingModel, optimizer: torch.optim.Optimizer) -> Tensor:
    from test_adapters import batch

    optimizer.zero_grad()
    out = training(**batch(training.model, training.objective.stage))
    out["loss"].backward()
    optimizer.step()
    return out["loss"].detach()


@pytest.mark.parametrize("roles", [(), ("compressor", "generator"), ("query_reasoner",)])
def test_exactly_the_named_roles_train(model: ClaraModel, roles: tuple[str, ...]):
    model.set_trainable(roles)
    training = {id(p) for p in model.parameters() if p.requires_grad}
    assert training == {id(p) for p in model.trainable_parameters(roles).values()}
    assert len(training) == sum(28 + (role != "generator") for role in roles)


def test_training_an_unknown_role(model: ClaraModel):
    with pytest.raises(ClaraError, match="this checkpoint has no poet; it has compressor, query_reasoner, generator"):
        model.set_trainable(("poet",))


def test_loading_gives_an_inference_model(loaded: ClaraModel):
    assert not any(module.training for module in loaded.modules())
    assert not any(p.requires_grad for p in loaded.parameters())
    assert loaded.config.lora_dropout > 0
    assert torch.equal(loaded.compress(TEXTS).vectors, loaded.compress(TEXTS).vectors)


def test_dropout_of_frozen_roles_stays_off_in_training_mode(model: ClaraModel):
    before = model.compress(TEXTS).vectors
    queries = model.encode_queries(TEXTS).vectors
    model.set_trainable(("query_reasoner", "generator"))
    model.train()
    assert model.training
    same(model.compress(TEXTS).vectors, before)
    assert (model.encode_queries(TEXTS).vectors - queries).abs().max() > 1e-3  # the trained role's dropout is on
    assert not torch.equal(model.encode_queries(TEXTS).vectors, model.encode_queries(TEXTS).vectors)
    model.eval()
    assert torch.equal(model.compress(TEXTS).vectors, before)
    assert torch.equal(model.encode_queries(TEXTS).vectors, queries)


def test_stage_three_leaves_the_compressor_as_it_is_to_the_bit(model: ClaraModel):
    latents, before = model.compress(TEXTS), {name: p.detach().clone() for name, p in model.named_parameters()}
    training, optimizer = trained(model, "end_to_end")
    for _ in range(3):
        training.train()
        step(training, optimizer)
    model.eval()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved and all("query_reasoner" in name or "generator" in name for name in moved)
    assert any("memory.rows.query_reasoner" in name for name in moved)
    again = model.compress(TEXTS)
    assert torch.equal(again.vectors, latents.vectors) and again.fingerprint == latents.fingerprint
    model.score(model.encode_queries(QUESTIONS), latents)  # stored latents stay valid


@pytest.mark.parametrize("stage", ["pretrain", "instruct", "end_to_end", "pretrain_retrieval"])
def test_the_loss_falls(model: ClaraModel, stage: str):
    training, optimizer = trained(model, stage, rate=0.005)
    losses = [step(training, optimizer).item() for _ in range(8)]
    assert losses[-1] < losses[0]


# -- roles added later ------------------------------------------------------------------------------------------


def test_a_role_added_as_a_copy(base_folder: Path):
    model = small_model.build_model(base_folder, roles=("compressor", "generator"))
    latents = model.compress(TEXTS)
    with pytest.raises(ClaraError, match="this checkpoint has no query reasoner; it has compressor, generator"):
        model.encode_queries(QUESTIONS)
    model.add_role("query_reasoner", copy_of="compressor")
    assert model.config.roles == ("compressor", "generator", "query_reasoner")
    assert torch.equal(model.encode_queries(TEXTS).vectors, latents.vectors)  # its dropout is off as well
    assert torch.equal(model.compress(TEXTS).vectors, latents.vectors) and model.fingerprint == latents.fingerprint
    training, optimizer = trained(model, "end_to_end")
    step(training, optimizer)
    assert not torch.equal(model.encode_queries(TEXTS).vectors, latents.vectors)
    assert torch.equal(model.compress(TEXTS).vectors, latents.vectors)


def test_a_fresh_generator(base_folder: Path, loaded: ClaraModel):
    model = small_model.build_model(base_folder, roles=("compressor",))
    model.add_role("generator")
    ids = [[5, 6, 7]]
    assert torch.equal(
        model.generate_ids(ids, [], max_new_tokens=4).ids, model.generate_plain(ids, max_new_tokens=4).ids
    )


def test_an_added_role_is_saved(base_folder: Path, tmp_path: Path):
    model = small_model.build_model(base_folder, roles=("compressor", "generator"))
    model.add_role("query_reasoner", copy_of="compressor")
    model.save_pretrained(tmp_path)
    again = ClaraModel.from_pretrained(tmp_path, dtype=torch.float32, device="cpu")
    assert torch.equal(again.encode_queries(TEXTS).vectors, model.encode_queries(TEXTS).vectors)


@pytest.mark.parametrize(
    ("role", "source", "message"),
    [
        ("poet", None, "roles must be some of"),
        ("generator", None, "each once"),
        ("query_reasoner", "poet", "has no poet to copy"),
    ],
)
def test_roles_that_cannot_be_added(base_folder: Path, role: str, source: str | None, message: str):
    model = small_model.build_model(base_folder, roles=("compressor", "generator"))
    with pytest.raises(ClaraError, match=message):
        model.add_role(role, copy_of=source)
    assert model.config.roles == model.roles.names == ("compressor", "generator")


# -- building ---------------------------------------------------------------------------------------------------


def test_building_is_silent(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture, base_folder: Path):
    transformers_logging.warning_once.cache_clear()  # said once in a process, perhaps by another test
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        model = small_model.build_model(base_folder)
        ClaraModel(small_model.build_base(), small_model.build_tokenizer(), model.config)
    assert not caplog.records and "embeddings will be initialized" not in capfd.readouterr().err


def test_fresh_memory_rows_are_near_the_other_embeddings():
    """Drawn around the mean of the trained embeddings, not at the scale of a fresh layer."""
    base = small_model.build_base()
    with torch.no_grad():
        base.get_input_embeddings().weight.add_(3.0)
    model = ClaraModel(
        base, small_model.build_tokenizer(), ClaraConfig(base_model="b", doc_max_length=32, compression_rate=8)
    )
    for rows in model.memory.rows.values():
        assert (rows - 3.0).abs().max() < 0.5


def test_a_padded_vocabulary_shrinks():
    base = small_model.build_base(vocabulary=512)
    model = ClaraModel(
        base, small_model.build_tokenizer(), ClaraConfig(base_model="b", doc_max_length=32, compression_rate=8)
    )
    assert len(base.get_input_embeddings().weight) == len(model.tokens) == 407
