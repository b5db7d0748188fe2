import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scheduling import busy, queued
from small_model import QUESTIONS, TEXTS, build_model

from clara_model import ClaraModel
from clara_model.errors import ClaraError
from clara_model.inference.clara import Answer, Clara
from clara_model.inference.results import Ranked
from clara_model.latents import Latents
from clara_model.modeling.embedding import embed
from clara_model.store.cache import LatentCache

SHORT = {"max_new_tokens": 6}


@pytest.fixture(scope="module")
def shared(tiny_clara_folder: Path) -> ClaraModel:
    """One model for the tests that do not change it."""
    return ClaraModel.from_pretrained(tiny_clara_folder, dtype=torch.float32, device="cpu")


@pytest.fixture
def clara(shared: ClaraModel) -> Clara:
    """With a cache of its own."""
    return Clara(shared)


@pytest.fixture
def passes(shared: ClaraModel, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Every encoder batch: role and number of texts."""
    seen: list[tuple[str, int]] = []
    real = shared.encode_rows

    def counted(role, rows, *, one_text_per_pass=False):
        seen.append((role, len(rows)))
        return real(role, rows, one_text_per_pass=one_text_per_pass)

    monkeypatch.setattr(shared, "encode_rows", counted)
    return seen


def compressed(passes: list[tuple[str, int]]) -> int:
    """Texts that went through the compressor."""
    return sum(number for role, number in passes if role == "compressor")


def same(one: Answer, other: Answer) -> None:
    """Equal in all but the times, and scores to rounding."""
    assert (one.text, one.selected, one.usage, one.finish_reason) == (
        *(other.text, other.selected, other.usage, other.finish_reason),
    )
    assert [r.index for r in one.ranking] == [r.index for r in other.ranking]
    assert [r.score for r in one.ranking] == pytest.approx([r.score for r in other.ranking], abs=1e-5)


# -- compress ---------------------------------------------------------------------------------------------------------


def test_compressing_is_the_models_own(clara, shared):
    found, expected = clara.compress(TEXTS), shared.compress(TEXTS)
    assert torch.equal(found.vectors, expected.vectors)
    assert (found.lengths, found.fingerprint) == (expected.lengths, expected.fingerprint)


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 2}, {"batch_tokens": 1}, {"batch_tokens": 90}])
def test_batches_and_padding_change_nothing(shared, options):
    texts = [*TEXTS, "Short.", ""]
    one_batch = Clara(shared).compress(texts)
    assert torch.equal(Clara(shared, **options).compress(texts).vectors, one_batch.vectors)


def test_batches_keep_their_bounds(shared, passes):
    Clara(shared, batch_size=2).compress(TEXTS)
    assert [number for _, number in passes] == [2, 2, 1]


def test_identical_texts_are_compressed_once(clara, passes):
    texts = [TEXTS[0], TEXTS[1], TEXTS[0], TEXTS[0]]
    found = clara.compress(texts)
    assert compressed(passes) == 2
    assert torch.equal(found.vectors[0], found.vectors[2]) and torch.equal(found.vectors[0], found.vectors[3])
    assert not torch.equal(found.vectors[0], found.vectors[1])


def test_cached_is_what_was_compressed(clara, passes):
    first = clara.compress(TEXTS)
    again = clara.compress([*reversed(TEXTS), "A new one."])
    assert compressed(passes) == len(TEXTS) + 1
    assert torch.equal(again.vectors[:-1], first.vectors.flip(0))
    assert again.lengths[:-1] == tuple(reversed(first.lengths))


def test_what_a_caller_does_to_latents_does_not_reach_the_cache(clara):
    found = clara.compress(TEXTS)
    kept = found.vectors.clone()
    found.vectors.zero_()
    assert torch.equal(clara.compress(TEXTS).vectors, kept)


def test_without_a_cache_all_is_compressed_again(shared, passes):
    clara = Clara(shared, cache_bytes=0)
    first = clara.compress(TEXTS)
    assert torch.equal(clara.compress(TEXTS).vectors, first.vectors)
    assert compressed(passes) == 2 * len(TEXTS)


def test_ranking_then_answering_compresses_once(clara, passes):
    clara.rank(QUESTIONS[0], TEXTS)
    clara.answer(QUESTIONS[0], TEXTS, **SHORT)
    list(clara.stream(QUESTIONS[0], TEXTS, **SHORT))
    assert compressed(passes) == len(TEXTS)


def test_a_store_of_ones_own(shared, passes):
    store = LatentCache()
    Clara(shared, store=store).compress(TEXTS)
    Clara(shared, store=store).compress(TEXTS)
    assert compressed(passes) == len(TEXTS) == len(store)


def test_weights_that_have_moved_are_not_served_from_the_cache(model):
    clara = Clara(model)
    before = clara.compress(TEXTS)
    model.train()
    with torch.no_grad():
        next(iter(model.roles.parameters("compressor").values())).mul_(3.0)
    model.eval()
    after = clara.compress(TEXTS)
    assert after.fingerprint != before.fingerprint
    assert not torch.allclose(after.vectors, before.vectors)


def test_out_of_memory_gives_the_same_latents_in_smaller_batches(clara, shared, monkeypatch, caplog):
    expected = Clara(shared).compress(TEXTS)
    real, sizes = shared.encode_rows, []

    def small_device(role, rows, *, one_text_per_pass=False):
        sizes.append(len(rows))
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(role, rows, one_text_per_pass=one_text_per_pass)

    monkeypatch.setattr(shared, "encode_rows", small_device)
    with caplog.at_level(logging.WARNING):
        found = clara.compress(TEXTS)
    assert torch.equal(found.vectors, expected.vectors)
    assert sizes[0] == 5 and sizes[-1] <= 2
    assert "out of memory with 5 documents" in caplog.text


def test_out_of_memory_for_one_document_is_a_clear_error(clara, shared, monkeypatch):
    def no_room(role, ids, mask):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")

    monkeypatch.setattr(shared, "encode", no_room)
    with pytest.raises(ClaraError, match="not enough memory for one document"):
        clara.compress(TEXTS)
    monkeypatch.undo()
    assert len(clara.compress(TEXTS)) == len(TEXTS), "the model is free again"


def test_out_of_memory_while_generating(clara, shared, monkeypatch):
    expected = clara.answers(QUESTIONS, TEXTS, **SHORT)
    real = shared.generate_ids

    def small_device(prompts, *args, **kwargs):
        if len(prompts) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(prompts, *args, **kwargs)

    monkeypatch.setattr(shared, "generate_ids", small_device)
    for one, other in zip(clara.answers(QUESTIONS, TEXTS, **SHORT), expected, strict=True):
        same(one, other)


# -- rank and answer --------------------------------------------------------------------------------------------------


def test_ranking_is_by_cosine_best_first(clara, shared):
    expected = shared.score(shared.encode_queries(QUESTIONS[:1]), shared.compress(TEXTS))[0]
    ranking = clara.rank(QUESTIONS[0], TEXTS)
    assert [r.index for r in ranking] == expected.argsort(descending=True).tolist()
    assert [r.score for r in ranking] == pytest.approx(expected.sort(descending=True).values.tolist(), abs=1e-5)
    assert all(type(r.score) is float and type(r.index) is int for r in ranking)


def test_equal_scores_keep_the_order_given(clara):
    texts = [TEXTS[1], TEXTS[0], TEXTS[1], TEXTS[0], TEXTS[1]]
    ranking = clara.rank(QUESTIONS[0], texts)
    by_text = {text: [r.index for r in ranking if texts[r.index] == text] for text in texts}
    assert by_text == {TEXTS[1]: [0, 2, 4], TEXTS[0]: [1, 3]}
    assert len({r.score for r in ranking}) == 2


@pytest.mark.parametrize(("top_k", "number"), [(None, 5), (1, 1), (3, 3), (99, 5)])
def test_top_k_of_a_ranking(clara, top_k, number):
    assert clara.rank(QUESTIONS[0], TEXTS, top_k) == clara.rank(QUESTIONS[0], TEXTS)[:number]


def test_a_ranking_brings_its_documents_where_they_are_asked_for(clara):
    long = " ".join(TEXTS * 3)  # read in windows
    texts = [*TEXTS, long]
    plain, ranking = clara.rank(QUESTIONS[0], texts, 6), clara.rank(QUESTIONS[0], texts, 6, return_documents=True)
    assert [one.text for one in ranking] == [texts[one.index] for one in ranking]
    assert [replace(one, text=None) for one in ranking] == plain
    with pytest.raises(ValueError, match="return_documents=True returns the texts that were given, but latents"):
        clara.rank(QUESTIONS[0], clara.compress(TEXTS), return_documents=True)


@pytest.mark.parametrize("ranking", ["latents", "hybrid"])
def test_pairs_score_as_the_ranking_of_their_question_does(shared, passes, ranking):
    clara = Clara(shared, ranking=ranking)
    texts = [*TEXTS, " ".join(TEXTS * 3)]
    pairs = [[question, text] for text in texts for question in QUESTIONS[:2]]  # questions in turn
    scores = clara.predict(pairs)
    assert (scores.dtype, scores.shape) == (np.float32, (12,))
    assert [number for role, number in passes if role == "query_reasoner"] == [2]  # each question once
    for start, question in enumerate(QUESTIONS[:2]):
        alone = {one.index: one.score for one in clara.rank(question, texts)}
        assert scores[start::2].tolist() == pytest.approx([alone[index] for index in range(len(texts))], abs=1e-5)


@pytest.mark.parametrize(
    ("pairs", "error", "said"),
    [
        ([], ValueError, "at least one pair"),
        (("a question?", "a text"), TypeError, "pair 1 of 2 must be .question, text., got 'a question.'"),
        ([("a?", "b"), ("c?", "d", "e")], TypeError, "pair 2 of 2 must be"),
        ([("a?", None)], TypeError, "text must be a string, got NoneType"),
        ([(" ", "b")], ValueError, "the question is blank"),
        ("a?", TypeError, "a list of pairs .question, text., got str"),
    ],
)
def test_what_is_no_list_of_pairs_is_one_sentence(clara, pairs, error, said):
    with pytest.raises(error, match=said):
        clara.predict(pairs)


def test_a_ranked_prints_short():
    one = Ranked(2, 0.78712345, by="both", latents=0.5123456, words=0.2751)
    assert str([one]) == "[Ranked(index=2, score=0.787, by='both', latents=0.512, words=0.275)]"
    assert repr(Ranked(0, 0.5, text="Bern")) == "Ranked(index=0, score=0.500, by='latents', text='Bern')"


@pytest.mark.parametrize(("top_k", "read"), [(None, 2), (1, 1), (4, 4), (99, 5)])
def test_an_answer_says_what_it_was_read_from(clara, top_k, read):
    answer = clara.answer(QUESTIONS[0], TEXTS, top_k, **SHORT)
    assert answer.ranking == clara.rank(QUESTIONS[0], TEXTS)
    assert answer.selected == [r.index for r in answer.ranking][:read]
    usage = answer.usage
    most = clara.doc_max_length + 1  # a cut document loses its end token to one more text token (published format)
    assert usage.text_tokens == sum(min(clara.count_tokens(TEXTS[index]), most) for index in answer.selected)
    assert usage.slots == 4 * read
    assert usage.prompt_tokens > usage.slots
    assert 1 <= usage.completion_tokens <= 6
    assert answer.finish_reason in ("stop", "length")
    timings = answer.timings
    assert timings.total == timings.compress + timings.query + timings.rank + timings.generate > 0


def test_an_answer_is_the_models_own(clara, shared):
    texts, picks = shared.generate_from_questions(QUESTIONS[:1], [TEXTS], 6)
    answer = clara.answer(QUESTIONS[0], TEXTS, **SHORT)
    assert (answer.text, answer.selected) == (texts[0], picks[0].tolist())


def test_answers_in_a_batch_are_those_one_by_one(clara):
    for batched, question in zip(clara.answers(QUESTIONS, TEXTS, **SHORT), QUESTIONS, strict=True):
        same(batched, clara.answer(question, TEXTS, **SHORT))


def test_ragged_candidates_are_served_per_question(clara, passes):
    rows = [TEXTS[:1], TEXTS, [TEXTS[3], TEXTS[3], TEXTS[0]]]
    batched = clara.answers(QUESTIONS, rows, 3, **SHORT)
    assert compressed(passes) == len(TEXTS)
    assert [len(answer.selected) for answer in batched] == [1, 3, 3]
    for answer, question, row in zip(batched, QUESTIONS, rows, strict=True):
        same(answer, clara.answer(question, row, 3, **SHORT))


def test_latents_stand_for_their_texts(clara, passes):
    latents = clara.compress(TEXTS)
    before = compressed(passes)
    assert clara.rank(QUESTIONS[0], latents) == clara.rank(QUESTIONS[0], TEXTS)
    same(clara.answer(QUESTIONS[0], latents, **SHORT), clara.answer(QUESTIONS[0], TEXTS, **SHORT))
    mixed = clara.answers(QUESTIONS[:2], [latents, TEXTS[:2]], **SHORT)
    same(mixed[0], clara.answer(QUESTIONS[0], TEXTS, **SHORT))
    assert compressed(passes) == before


def test_latents_that_were_saved_serve_too(clara, tmp_path):
    clara.compress(TEXTS).save(tmp_path / "latents.safetensors")
    loaded = Latents.load(tmp_path / "latents.safetensors")
    same(clara.answer(QUESTIONS[0], loaded, **SHORT), clara.answer(QUESTIONS[0], TEXTS, **SHORT))


def test_latents_of_another_checkpoint_are_refused(clara, base_folder):
    other = Clara(build_model(base_folder, seed=9)).compress(TEXTS)
    for use in (clara.rank, clara.answer, lambda q, d: clara.answers([q], [d]), lambda q, d: list(clara.stream(q, d))):
        with pytest.raises(ClaraError, match="made by another checkpoint"):
            use(QUESTIONS[0], other)


def test_without_ranking_the_order_given_is_kept(clara, passes):
    answer = clara.answer(QUESTIONS[0], TEXTS, 3, rerank=False, **SHORT)
    assert (answer.ranking, answer.selected) == ([], [0, 1, 2])
    assert "query_reasoner" not in dict(passes)


def test_a_checkpoint_without_a_query_reasoner(base_folder, caplog):
    clara = Clara(build_model(base_folder, roles=("compressor", "generator")))
    assert not clara.can_rank
    with caplog.at_level(logging.WARNING):
        answer = clara.answer(QUESTIONS[0], TEXTS, 3, **SHORT)
    assert (answer.ranking, answer.selected) == ([], [0, 1, 2])
    assert "from the first 3 of 5 documents" in caplog.text
    with pytest.raises(ClaraError, match="no query reasoner"):
        clara.rank(QUESTIONS[0], TEXTS)


def test_stop_strings_and_sampling(clara):
    whole = clara.answer(QUESTIONS[0], TEXTS, max_new_tokens=12)
    stop = whole.text[4:6]
    stopped = clara.answer(QUESTIONS[0], TEXTS, max_new_tokens=12, stop=stop)
    assert stopped.text == whole.text[: whole.text.find(stop)]
    assert stopped.finish_reason == "stop"
    drawn = [clara.answer(QUESTIONS[0], TEXTS, temperature=5.0, seed=s, max_new_tokens=12).text for s in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert clara.answer(QUESTIONS[0], TEXTS, temperature=0.0, max_new_tokens=12).text == whole.text
    assert clara.answer(QUESTIONS[0], TEXTS, temperature=5.0, sampling_top_k=1, max_new_tokens=12).text == whole.text


def test_a_seed_leaves_the_random_state_alone(clara):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    clara.answer(QUESTIONS[0], TEXTS, temperature=1.0, seed=1, **SHORT)
    assert torch.equal(torch.rand(1), expected)


# -- stream -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"temperature": 3.0, "seed": 4}, {"top_k": 1}])
def test_streamed_is_not_streamed(clara, options):
    whole = clara.answer(QUESTIONS[1], TEXTS, max_new_tokens=16, **options)
    stream = clara.stream(QUESTIONS[1], TEXTS, max_new_tokens=16, **options)
    pieces = list(stream)
    assert "".join(pieces) == whole.text
    assert len(pieces) > 2 and all(pieces)
    same(stream.answer, whole)


def test_streamed_with_a_stop_string(clara):
    whole = clara.answer(QUESTIONS[0], TEXTS, max_new_tokens=12).text
    stream = clara.stream(QUESTIONS[0], TEXTS, max_new_tokens=12, stop=[whole[4:6]])
    assert "".join(stream) == whole[: whole.find(whole[4:6])] == stream.answer.text


def test_closing_a_stream_early_frees_the_model(clara):
    stream = clara.stream(QUESTIONS[0], TEXTS, max_new_tokens=1500, min_new_tokens=1500)
    next(stream)
    stream.close()
    scheduler = clara.shared.scheduler
    assert not scheduler._queue and not scheduler._running, "the model is free as soon as close returns"
    assert clara.answer(QUESTIONS[0], TEXTS, **SHORT).text


def test_a_stream_that_waits_for_the_model_can_be_closed(clara):
    with busy(clara.shared.scheduler):
        stream = clara.stream(QUESTIONS[0], TEXTS)
        queued(clara.shared.scheduler, 1)
        stream.close()
        assert not clara.shared.scheduler._queue


def test_an_error_while_streaming_reaches_the_reader(clara, shared, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(shared, "generate_ids", broken)
    with pytest.raises(RuntimeError, match="the device is gone"):
        list(clara.stream(QUESTIONS[0], TEXTS))
    monkeypatch.undo()
    assert clara.answer(QUESTIONS[0], TEXTS, **SHORT).text


def test_bad_arguments_of_a_stream_are_raised_at_once(clara):
    with pytest.raises(ValueError, match="blank"):
        clara.stream(" ", TEXTS)
    with pytest.raises(ValueError, match="top_k"):
        clara.stream(QUESTIONS[0], TEXTS, 0)


# -- threads ----------------------------------------------------------------------------------------------------------


def test_many_threads_get_what_each_would_get_alone(shared, passes):
    jobs = [(question, [*TEXTS[start:], f"Extra {start}."]) for question in QUESTIONS for start in range(4)]
    expected = [Clara(shared).answer(question, texts, **SHORT) for question, texts in jobs]
    passes.clear()
    clara = Clara(shared, batch_size=2)

    def work(number: int) -> Answer:
        question, texts = jobs[number]
        if number % 2:
            return clara.answer(question, texts, **SHORT)
        stream = clara.stream(question, texts, **SHORT)
        assert "".join(stream) == stream.answer.text
        return stream.answer

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(work, range(len(jobs))))
    for one, other in zip(found, expected, strict=True):
        same(one, other)
    assert compressed(passes) == len(TEXTS) + 4, "each text once, whoever asked first"


def test_closing_while_others_work(shared):
    clara = Clara(shared)
    with ThreadPoolExecutor(1) as pool:
        scheduler = clara.shared.scheduler
        with busy(scheduler):
            future = pool.submit(clara.answer, QUESTIONS[0], TEXTS, **SHORT)
            queued(scheduler, 1)
            clara.close()
        assert future.result().text


# -- paraphrase, plain, info ------------------------------------------------------------------------------------------


def test_a_paraphrase_for_each_text(clara, shared):
    found = clara.paraphrase(TEXTS, **SHORT)
    expected = shared.generate_from_paraphrase([""] * len(TEXTS), [[text] for text in TEXTS], 6, instruction=0)
    assert found == expected
    assert clara.paraphrase(TEXTS[:2], instruction="Again: {memory}", **SHORT) != found[:2]
    with pytest.raises(ClaraError, match="exactly once"):
        clara.paraphrase(TEXTS, instruction="no place")
    with pytest.raises(ValueError, match="instruction must be a whole number from 0 to 3"):
        clara.paraphrase(TEXTS, instruction=99)


def test_plain_is_the_base_model_alone(clara, shared):
    tokenizer = shared.tokens.tokenizer
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "Hello."}], add_generation_prompt=True)[
        "input_ids"
    ]
    with torch.no_grad(), shared.roles.acting_as("base"):
        expected = shared.base.generate(torch.tensor([ids]), max_new_tokens=6, do_sample=False, pad_token_id=0)[0]
    answer = clara.plain("Hello.", **SHORT)
    assert answer.text == tokenizer.decode(expected[len(ids) :], skip_special_tokens=True)
    assert (answer.usage.prompt_tokens, answer.usage.slots, answer.ranking) == (len(ids), 0, [])
    same(clara.plain([{"role": "user", "content": "Hello."}], **SHORT), answer)
    stream = clara.stream_plain("Hello.", **SHORT)
    assert "".join(stream) == answer.text == stream.answer.text


def test_plain_takes_conversations_and_no_special_tokens_from_them(clara, shared):
    turns = [
        {"role": "user", "content": "One </s> <MEM0> two"},
        {"role": "assistant", "content": "<s> Yes"},
        {"role": "user", "content": "And?"},
    ]
    ids = shared.tokens.chat_ids(turns)
    special = set(shared.tokens.added_ids) | {shared.tokens.tokenizer.bos_token_id}
    assert [token for token in ids if token in special] == [shared.tokens.tokenizer.bos_token_id]
    assert "<MEM0> two" in shared.tokens.tokenizer.decode(ids)
    assert clara.plain(turns, **SHORT).usage.prompt_tokens == len(ids)


def test_plain_that_the_base_cannot_read(clara):
    with pytest.raises(ClaraError, match="the base model reads 2048; shorten it"):
        clara.plain("word " * 5000)
    with pytest.raises(TypeError, match="a role and a content"):
        clara.plain([{"content": "x"}])
    with pytest.raises(ValueError, match="at least one message"):
        clara.plain([])


def test_info_says_what_it_is(clara, shared, tiny_clara_folder):
    facts = clara.info()
    assert facts["roles"] == ["compressor", "query_reasoner", "generator"]
    assert (facts["compression_rate"], facts["doc_max_length"], facts["memory_tokens"]) == (12, 48, 4)
    total = sum(parameter.numel() for parameter in shared.parameters())
    assert facts["base_parameters"] + facts["adapter_parameters"] == total
    assert facts["base_bytes"] + facts["adapter_bytes"] == 4 * total
    assert (facts["dtype"], facts["device"], facts["fingerprint"]) == ("float32", "cpu", shared.fingerprint)
    with Clara.load(tiny_clara_folder, device="cpu", dtype="float32") as loaded:
        assert loaded.info()["name"] == str(tiny_clara_folder)


def test_the_licence_is_the_checkpoints_own(clara, tiny_clara_folder, tmp_path):
    assert "not stated" in clara.info()["licence"]
    with Clara.load("clara-tiny", device="cpu") as bundled:
        assert bundled.info()["licence"] == "Apache-2.0"
    card = "---\nlanguage: en\nlicense: other\nlicense_name: apple-amlr\n---\n# A card\nlicense: none\n"
    copied = shutil.copytree(tiny_clara_folder, tmp_path / "repository" / "compression-8")
    (tmp_path / "repository" / "README.md").write_text(card)
    with Clara.load(tmp_path / "repository", subfolder="compression-8", dtype="float32", device="cpu") as published:
        assert published.info()["licence"] == "apple-amlr"
        published.model.save_pretrained(copied)
    (tmp_path / "repository" / "README.md").unlink()
    with Clara.load(copied, dtype="float32", device="cpu") as again:
        assert again.info()["licence"] == "apple-amlr", "saved with the checkpoint"


def test_what_a_component_asks_for(clara, shared, tiny_clara_folder):
    assert (clara.name, clara.top_k, clara.context_window) == ("(in memory)", 2, 2048)
    assert clara.embed_texts(TEXTS, 16) == embed(clara.compress(TEXTS), 16)
    assert clara.embed_questions(QUESTIONS, 16) == embed(clara.encode_queries(QUESTIONS), 16)
    with Clara.load(tiny_clara_folder, dtype="float32", device="cpu") as loaded:
        assert loaded.name == str(tiny_clara_folder)


# -- what else comes in -----------------------------------------------------------------------------------------------

ODD_TEXTS = {
    "empty": "",
    "blank": " \n\t ",
    "ten megabytes": "All work and no play. " * 480_000,
    "one long word": "x" * 3_000_000,
    "lone surrogates": "caf\ud83d \udc00 ok",
    "markers": "a <MEM0> b <SEP> c </s> d <ENC> [assistant] e",
    "unicode": "日本語 🏳️‍🌈 \u202e עברית",
}


@pytest.mark.parametrize("name", ODD_TEXTS)
def test_odd_documents_are_served(shared, name):
    clara, text = Clara(shared, long_documents="truncate"), ODD_TEXTS[name]
    latents = clara.compress([text, TEXTS[0]])
    assert torch.isfinite(latents.vectors).all()
    assert latents.lengths[0] <= clara.doc_max_length + 1
    torch.testing.assert_close(latents.vectors[1], clara.compress(TEXTS[:1]).vectors[0], atol=1e-5, rtol=1e-4)
    answer = clara.answer(QUESTIONS[0], [text, TEXTS[0]], **SHORT)
    assert sorted(answer.selected) == [0, 1]


@pytest.mark.parametrize("name", sorted(set(ODD_TEXTS) - {"empty", "blank", "ten megabytes", "one long word"}))
def test_odd_questions_are_served(clara, name):
    assert len(clara.answer(ODD_TEXTS[name], TEXTS, **SHORT).ranking) == len(TEXTS)


def test_a_very_long_question_is_shortened_with_a_warning(clara, caplog):
    with caplog.at_level(logging.WARNING):
        answer = clara.answer("why? " * 3000, TEXTS, **SHORT)
    assert answer.usage.prompt_tokens <= 1024
    assert "shortened" in caplog.text


BAD = [
    (("q", []), {}, ValueError, "at least one document, got none"),
    (("q", "one text"), {}, TypeError, "expected a list of documents, got one string; put it in a list"),
    (("q", None), {}, TypeError, "expected a list of documents, got NoneType"),
    (("q", ["a", None]), {}, TypeError, "document 2 of 2 must be a string, got NoneType"),
    (("q", [b"a"]), {}, TypeError, "document 1 of 1 must be a string, got bytes"),
    (("", ["a"]), {}, ValueError, "the question is blank"),
    ((" \n", ["a"]), {}, ValueError, "the question is blank"),
    ((None, ["a"]), {}, TypeError, "question must be a string, got NoneType"),
    (("q", ["a"], 0), {}, ValueError, "top_k must be at least 1, got 0"),
    (("q", ["a"], -1), {}, ValueError, "top_k must be at least 1, got -1"),
    (("q", ["a"], 1.5), {}, TypeError, "top_k must be a whole number, got 1.5"),
    (("q", ["a"], True), {}, TypeError, "top_k must be a whole number, got True"),
]
BAD_GENERATION = [
    (("q", ["a"]), {"max_new_tokens": 0}, ValueError, "max_new_tokens must be at least 1, got 0"),
    (("q", ["a"]), {"stop": [""]}, ValueError, "stop must hold strings that are not empty"),
    (("q", ["a"]), {"temperature": -1}, ValueError, "temperature must be at least 0, got -1"),
    (("q", ["a"]), {"temprature": 1}, TypeError, "unknown sampling argument temprature"),
    (("q", ["a"] * 300, 300), {}, ClaraError, "use a smaller top_k"),
]


@pytest.mark.parametrize(("arguments", "options", "error", "message"), BAD)
def test_bad_input_to_rank(clara, arguments, options, error, message):
    with pytest.raises(error, match=message):
        clara.rank(*arguments, **options)


@pytest.mark.parametrize(("arguments", "options", "error", "message"), BAD + BAD_GENERATION)
def test_bad_input_to_answer(clara, arguments, options, error, message):
    with pytest.raises(error, match=message):
        clara.answer(*arguments, **options)
    with pytest.raises(error, match=message):
        list(clara.stream(*arguments, **options))


@pytest.mark.parametrize(
    ("questions", "texts", "error", "message"),
    [
        ([], TEXTS, ValueError, "at least one question, got none"),
        ("q", TEXTS, TypeError, "expected a list of questions, got one string"),
        (["q", " "], TEXTS, ValueError, "the question is blank"),
        (["q", "r"], [TEXTS], ValueError, "a list of documents for each question, got 1 for 2 questions"),
        (["q", "r"], [TEXTS, []], ValueError, "question 1: expected at least one document"),
        (["q", "r"], [TEXTS, [None]], TypeError, "question 1: document 1 of 1 must be a string"),
        (["q", "r"], [TEXTS, "text"], TypeError, "question 1: expected a list of documents, got one string"),
    ],
)
def test_bad_input_to_answers(clara, questions, texts, error, message):
    with pytest.raises(error, match=message):
        clara.answers(questions, texts)
