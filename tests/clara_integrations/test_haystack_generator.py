"""ClaraGenerator: the answers of `Clara.answer` as messages; sync, async, streamed, and in 80 places at once."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import pytest
from counting import encoded
from edge_cases import EDGE_CASES
from haystack import Document, Pipeline
from haystack.components.builders import AnswerBuilder
from haystack.dataclasses import ChatMessage
from haystack_kit import LOADING, SHORT, documents_of, edge_documents
from small_model import QUESTIONS, TEXTS

from clara_integrations.haystack import ClaraGenerator, ClaraRanker

QUESTION = QUESTIONS[0]


@pytest.fixture
def generator(clara, tiny_clara_folder):
    return ClaraGenerator(model=tiny_clara_folder, generation_kwargs=SHORT, **LOADING)


def test_the_reply_is_the_models_answer_with_its_meta(generator, clara, tiny_clara_folder):
    result = generator.run(QUESTION, documents_of(TEXTS))
    expected = clara.answer(QUESTION, TEXTS, rerank=False, **SHORT)
    usage = expected.usage
    assert result == {
        "replies": [
            ChatMessage.from_assistant(
                expected.text,
                meta={
                    "model": str(tiny_clara_folder),
                    "index": 0,
                    "finish_reason": expected.finish_reason,
                    "usage": {
                        "prompt_tokens": usage.prompt_tokens,
                        "completion_tokens": usage.completion_tokens,
                        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
                        "slots": usage.slots,
                        "text_tokens": usage.text_tokens,
                        "expanded_tokens": 0,
                    },
                    "answered_from": "latents",
                    "confidence": expected.confidence,
                    "found": True,
                    "quotes": [{**asdict(one), "document_id": f"n{one.document}"} for one in expected.quotes],
                    "unsupported": expected.unsupported,
                    "document_ids": ["n0", "n1"],
                    "windows": [
                        {"document_id": "n0", "number": 0, "start": 0, "end": None},
                        {"document_id": "n1", "number": 0, "start": 0, "end": None},
                    ],
                },
            )
        ]
    }
    assert usage.slots == 2 * 4 and usage.prompt_tokens > usage.slots


def test_top_k_and_rerank(clara, tiny_clara_folder):
    generator = ClaraGenerator(model=tiny_clara_folder, top_k=3, rerank=True, generation_kwargs=SHORT, **LOADING)
    meta = generator.run(QUESTION, documents_of(TEXTS))["replies"][0].meta
    assert meta["document_ids"] == [f"n{one.index}" for one in clara.rank(QUESTION, TEXTS, 3)]


def test_generation_arguments_of_a_run_go_before_the_components_key_by_key(generator):
    reply = generator.run(QUESTION, documents_of(TEXTS), generation_kwargs={"max_new_tokens": 1})["replies"][0]
    assert reply.meta["usage"]["completion_tokens"] == 1
    sampled = [
        generator.run(QUESTION, documents_of(TEXTS), generation_kwargs={"temperature": 5.0, "seed": seed})
        for seed in (1, 1, 2)
    ]
    assert sampled[0] == sampled[1] != sampled[2]
    assert sampled[0]["replies"][0].meta["usage"]["completion_tokens"] <= SHORT["max_new_tokens"]


def test_generation_arguments_that_do_not_fit_are_refused(generator):
    unknown = "ClaraGenerator: unknown generation argument 'temperatur'; did you mean 'temperature'"
    with pytest.raises(TypeError, match=unknown):
        generator.run(QUESTION, documents_of(TEXTS), generation_kwargs={"temperatur": 1})
    with pytest.raises(TypeError, match=unknown):
        ClaraGenerator(generation_kwargs={"temperatur": 1})
    generator.generation_kwargs = {"temperatur": 1}
    with pytest.raises(TypeError, match=unknown):
        generator.run(QUESTION, documents_of(TEXTS))
    for wrong in ("top_k", "rerank"):
        with pytest.raises(ValueError, match=f"{wrong} is an argument of the component"):
            ClaraGenerator(generation_kwargs={wrong: 1})


@pytest.mark.parametrize("case", EDGE_CASES, ids=lambda case: case.name)
def test_edge_cases(case, clara, tiny_clara_folder, monkeypatch):
    def ask():
        generator = ClaraGenerator(model=tiny_clara_folder, top_k=case.top_k, generation_kwargs=SHORT, **LOADING)
        return generator.run(case.query, edge_documents(case))["replies"]

    with encoded(monkeypatch) as counts:
        if case.expect == "error":
            with pytest.raises(ValueError):
                ask()
        else:
            replies = ask()
    if case.expect != "ranked":
        assert counts == {"compressor": 0, "query_reasoner": 0}
        assert case.expect == "error" or replies == []
        return
    assert [type(reply.text) for reply in replies] == [str]
    assert replies[0].meta["finish_reason"] in ("stop", "length")
    assert set(replies[0].meta["document_ids"]) <= {doc.id for doc in case.documents}


# -- streams ----------------------------------------------------------------------------------------------------------


def check_chunks(chunks, reply):
    assert "".join(chunk.content for chunk in chunks) == reply.text
    assert len(chunks) > 2
    assert [chunk.start for chunk in chunks] == [True] + [False] * (len(chunks) - 1)
    assert [chunk.finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + [reply.meta["finish_reason"]]
    assert all(chunk.index == 0 and chunk.meta["model"] == reply.meta["model"] for chunk in chunks)
    assert all("ClaraGenerator" in chunk.component_info.type for chunk in chunks)


def test_it_streams_piece_by_piece_and_gives_the_same_reply(generator):
    chunks = []
    result = generator.run(QUESTION, documents_of(TEXTS), streaming_callback=chunks.append)
    assert result == generator.run(QUESTION, documents_of(TEXTS))
    check_chunks(chunks, result["replies"][0])


def test_it_streams_in_asyncio_with_either_kind_of_callback(generator):
    expected, chunks, inside = generator.run(QUESTION, documents_of(TEXTS)), [], []

    async def callback(chunk):
        inside.append(threading.current_thread() is threading.main_thread())
        chunks.append(chunk)

    async def both():
        assert await generator.run_async(QUESTION, documents_of(TEXTS), callback) == expected
        sync = []
        assert await generator.run_async(QUESTION, documents_of(TEXTS), sync.append) == expected
        assert [chunk.content for chunk in sync] == [chunk.content for chunk in chunks]

    asyncio.run(both())
    assert all(inside)
    check_chunks(chunks, expected["replies"][0])


def test_the_loop_goes_on_while_it_generates(generator):
    async def counted():
        turns, task = 0, asyncio.create_task(generator.run_async(QUESTION, documents_of(TEXTS)))
        while not task.done():
            turns += 1
            await asyncio.sleep(0.001)
        return turns

    assert asyncio.run(counted()) > 1


def test_a_callback_that_fails_ends_the_generation(generator):
    def broken(chunk):
        raise RuntimeError("no more")

    async def broken_async(chunk):
        raise RuntimeError("no more")

    many = {"max_new_tokens": 500}
    with pytest.raises(RuntimeError, match="no more"):
        generator.run(QUESTION, documents_of(TEXTS), broken, many)
    with pytest.raises(RuntimeError, match="no more"):
        asyncio.run(generator.run_async(QUESTION, documents_of(TEXTS), broken_async, many))
    for thread in threading.enumerate():
        if thread.name.startswith(("clara-stream", "clara-read", "clara-close")):
            thread.join(timeout=20)
            assert not thread.is_alive()


def test_a_coroutine_as_callback_of_a_sync_run_is_refused(generator):
    async def callback(chunk):
        pass

    with pytest.raises(ValueError, match="cannot be a coroutine"):
        generator.run(QUESTION, documents_of(TEXTS), callback)


@pytest.mark.integration
def test_pipeline_stream_and_answer_builder(generator, clara, tiny_clara_folder):
    pipeline = Pipeline()
    pipeline.add_component("ranker", ClaraRanker(model=tiny_clara_folder, top_k=2, **LOADING))
    pipeline.add_component("generator", generator)
    pipeline.add_component("builder", AnswerBuilder())
    pipeline.connect("ranker.documents", "generator.documents")
    pipeline.connect("ranker.documents", "builder.documents")
    pipeline.connect("generator.replies", "builder.replies")
    inputs = {"query": QUESTION, "documents": documents_of(TEXTS)}
    expected = pipeline.run(inputs)["builder"]["answers"][0]

    async def streamed():
        handle = pipeline.stream(inputs)
        return [chunk async for chunk in handle], handle.result

    chunks, result = asyncio.run(streamed())
    answer = result["builder"]["answers"][0]
    best = clara.rank(QUESTION, TEXTS, 2)
    check_chunks(chunks, answer.meta["all_messages"][0])
    assert (answer.data, answer.query) == (expected.data, QUESTION)
    assert answer.meta["document_ids"] == [doc.id for doc in answer.documents] == [f"n{one.index}" for one in best]


def test_no_documents_from_the_retriever_is_no_answer(generator):
    pipeline = Pipeline()
    pipeline.add_component("generator", generator)
    pipeline.add_component("builder", AnswerBuilder())
    pipeline.connect("generator.replies", "builder.replies")
    assert pipeline.run({"query": QUESTION, "documents": []}) == {"builder": {"answers": []}}


# -- at once ----------------------------------------------------------------------------------------------------------


def calls(number):
    """Calls that differ in question and documents."""
    return [
        (QUESTIONS[index % len(QUESTIONS)], [Document(content=f"{TEXTS[index % 5]} {index % 7}"), *documents_of(TEXTS)])
        for index in range(number)
    ]


def same(found, expected):
    """All that is in a reply, the confidence but for its last digits, which hang on the batch."""
    ours, theirs = ([reply for one in some for reply in one["replies"]] for some in (found, expected))
    assert [reply.text for reply in ours] == [reply.text for reply in theirs]
    sure = [[reply.meta.pop("confidence") for reply in replies] for replies in (ours, theirs)]
    assert sure[0] == pytest.approx(sure[1], rel=1e-4)
    assert [reply.meta for reply in ours] == [reply.meta for reply in theirs]


FEW = {"max_new_tokens": 3}


def test_16_threads_get_what_they_would_get_one_by_one(generator, clara, tiny_clara_folder):
    ranker = ClaraRanker(model=tiny_clara_folder, **LOADING)
    asked = calls(16)
    generator.generation_kwargs = FEW
    expected = [generator.run(*call) for call in asked]
    ranked = [ranker.run(*call)["documents"] for call in asked]
    clara.store.clear()
    with ThreadPoolExecutor(16) as pool:
        answers = pool.map(lambda call: generator.run(*call), asked)
        rankings = pool.map(lambda call: ranker.run(*call)["documents"], asked)
        same(list(answers), expected)
        for found, one in zip(rankings, ranked, strict=True):
            assert [doc.id for doc in found] == [doc.id for doc in one]
            assert [doc.score for doc in found] == pytest.approx([doc.score for doc in one], abs=1e-5)


def test_64_tasks_get_what_they_would_get_one_by_one(generator, clara):
    asked = calls(64)
    generator.generation_kwargs = FEW
    expected = [generator.run(*call) for call in asked]
    clara.store.clear()

    async def at_once():
        async def ignore(chunk):
            pass

        return await asyncio.gather(
            *(generator.run_async(*call, ignore if index % 2 else None) for index, call in enumerate(asked))
        )

    same(asyncio.run(at_once()), expected)


def test_long_documents_are_read_whole_and_cited_by_window(clara, tiny_clara_folder):
    generator = ClaraGenerator(model=tiny_clara_folder, top_k=3, generation_kwargs=SHORT, **LOADING)
    long = Document(id="long", content="\n\n".join(TEXTS * 2))
    meta = generator.run(QUESTION, [*documents_of(TEXTS[:1]), long])["replies"][0].meta
    assert meta["document_ids"] == ["n0", "long"] and len(meta["windows"]) == 3
    for window in meta["windows"][1:]:
        assert window["document_id"] == "long"
        assert clara.count_tokens(long.content[window["start"] : window["end"]]) <= clara.doc_max_length
