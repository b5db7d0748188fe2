"""ClaraSynthesizer: the answers of `Clara.answer`, as responses, streams and events of LlamaIndex."""

import asyncio
import gc
import threading
import time

import pytest
from counting import encoded
from edge_cases import EDGE_CASES
from llama_index.core import Settings
from llama_index.core.base.response.schema import AsyncStreamingResponse, Response, StreamingResponse
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, TokenCountingHandler
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.schema import MetadataMode, QueryBundle
from llama_index_kit import LOADING, debugging, edge_nodes, recorded, text_nodes
from pydantic import BaseModel
from scheduling import busy
from small_model import QUESTIONS, TEXTS

from clara_integrations.llama_index import ClaraSynthesizer
from clara_model.inference.clara import Clara

QUESTION, NODES = QUESTIONS[0], text_nodes(TEXTS[:3])
FEW = {"max_new_tokens": 12}


@pytest.fixture
def make(clara, tiny_clara_folder):
    return lambda **options: ClaraSynthesizer(tiny_clara_folder, **{**FEW, **LOADING, **options})


@pytest.fixture(scope="module")
def expected(clara):
    texts = [node.node.get_content(MetadataMode.LLM) for node in NODES]
    return clara.answer(QUESTION, texts, 3, rerank=False, **FEW)


def test_it_answers_from_all_nodes_in_their_order(make, expected):
    response = make().synthesize(QUESTION, NODES)
    assert type(response) is Response
    assert response.response == expected.text != ""
    assert make().synthesize(QUESTION, NODES[::-1]).response != expected.text
    assert expected.usage.slots == 12


def test_sources_and_metadata_are_the_base_classs(make):
    more = text_nodes(TEXTS[3:])
    response = make().synthesize(QueryBundle(QUESTION), NODES, additional_source_nodes=more)
    assert response.source_nodes == [*NODES, *more]
    told = response.metadata.pop("clara")
    assert response.metadata == {node.node_id: node.metadata for node in [*NODES, *more]}
    assert told.keys() == {"confidence", "found", "quotes", "unsupported"}


def test_a_stream_has_one_piece_for_each_token(make, clara, expected):
    response = make(streaming=True).synthesize(QUESTION, NODES)
    assert type(response) is StreamingResponse
    assert response.source_nodes == NODES
    pieces = list(response.response_gen)
    assert "".join(pieces) == expected.text
    texts = [node.node.get_content(MetadataMode.LLM) for node in NODES]
    assert pieces == list(clara.stream(QUESTION, texts, 3, rerank=False, **FEW))
    assert len(pieces) > 4
    assert str(make(streaming=True).synthesize(QUESTION, NODES)) == expected.text


def test_async_gives_the_same(make, expected):
    async def ask():
        plain = await make().asynthesize(QUESTION, NODES)
        streamed = await make(streaming=True).asynthesize(QUESTION, NODES)
        assert type(streamed) is AsyncStreamingResponse
        return plain, streamed, [piece async for piece in streamed.response_gen]

    plain, streamed, pieces = asyncio.run(ask())
    assert plain.response == "".join(pieces) == expected.text
    assert len(pieces) > 4
    assert streamed.source_nodes == plain.source_nodes == NODES


@pytest.mark.parametrize("streaming", [False, True])
def test_async_leaves_the_loop_free(make, expected, monkeypatch, streaming):
    gate, turn = threading.Event(), Clara.answer

    def waiting(self, *args, **options):
        assert gate.wait(30), "the loop was blocked"
        return turn(self, *args, **options)

    async def ask():
        response = await make(streaming=streaming).asynthesize(QUESTION, NODES)
        return "".join([piece async for piece in response.response_gen]) if streaming else response.response

    async def both(go):
        task = asyncio.create_task(ask())
        await asyncio.sleep(0.05)
        gate.set()
        go.set()
        return await task

    monkeypatch.setattr(Clara, "answer", waiting)
    with busy(make().llm.clara.shared.scheduler, seconds=30) as go:  # a stream waits in a thread of its own
        assert asyncio.run(both(go)) == expected.text


def test_a_stream_that_nobody_reads_ends(make):
    response = make(streaming=True, max_new_tokens=400).synthesize(QUESTION, NODES)
    next(response.response_gen)
    response.response_gen.close()
    make(streaming=True, max_new_tokens=400).synthesize(QUESTION, NODES)  # never read at all
    gc.collect()
    deadline = time.monotonic() + 60
    while any(thread.name == "clara-stream" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def synthesized(synthesizer, is_async):
    """The whole response text."""
    if not is_async:
        return str(synthesizer.synthesize(QUESTION, NODES))

    async def ask():
        response = await synthesizer.asynthesize(QUESTION, NODES)
        if isinstance(response, Response):
            return response.response
        return "".join([piece async for piece in response.response_gen])

    return asyncio.run(ask())


def story(events):
    """What has happened, however many pieces a stream has."""
    names = [name for name in events.names() if name != "ClaraAnswerEvent"]
    return [name for name, before in zip(names, [None, *names], strict=False) if name != before]


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("streaming", [False, True])
def test_it_emits_what_a_stock_synthesizer_does_with_real_counts(make, expected, streaming, is_async, monkeypatch):
    counter, stock_counter = (TokenCountingHandler(tokenizer=str.split) for _ in range(2))
    ours = make(streaming=streaming, callback_manager=CallbackManager([counter]))
    stock = get_response_synthesizer(
        llm=make().llm,
        response_mode="compact",
        streaming=streaming,
        callback_manager=CallbackManager([stock_counter]),
    )
    with recorded() as theirs:
        synthesized(stock, is_async)
    with recorded() as events:
        assert synthesized(ours, is_async) == expected.text
    found, wanted = story(events), story(theirs)
    if streaming:  # the stock one starts to ask only when its stream is read
        found, wanted = sorted(found), sorted(wanted)
    assert found == wanted
    assert {"LLMPredictStartEvent", "LLMChatStartEvent", "LLMChatEndEvent", "GetResponseStartEvent"} <= set(
        story(events)
    )
    assert len(counter.llm_token_counts) == len(stock_counter.llm_token_counts) == 1
    assert counter.prompt_llm_token_count == expected.usage.prompt_tokens < stock_counter.prompt_llm_token_count
    assert counter.completion_llm_token_count == expected.usage.completion_tokens > 1
    assert counter.llm_token_counts[0].prompt == f"user: {QUESTION}"


def test_the_counter_of_settings_counts_too(make, expected, monkeypatch):
    counter = TokenCountingHandler(tokenizer=str.split)
    monkeypatch.setattr(Settings, "_callback_manager", CallbackManager([counter]))
    make().synthesize(QUESTION, NODES)
    assert counter.total_llm_token_count == expected.usage.prompt_tokens + expected.usage.completion_tokens


def test_its_own_event_tells_slots_and_seconds(make, expected):
    for streaming in (False, True):
        manager, handler = debugging()
        synthesizer = make(streaming=streaming, callback_manager=manager)
        with recorded() as events:
            response = synthesizer.synthesize(QUESTION, NODES)
            str(response)
        (answered,) = [event for event in events.events if type(event).__name__ == "ClaraAnswerEvent"]
        usage = expected.usage
        assert (answered.text_tokens, answered.slots) == (usage.text_tokens, usage.slots)
        assert (answered.prompt_tokens, answered.completion_tokens) == (usage.prompt_tokens, usage.completion_tokens)
        assert (answered.finish_reason, answered.model_name) == (expected.finish_reason, synthesizer.llm.model)
        ((begun, ended),) = handler.get_event_pairs(CBEventType.SYNTHESIZE)
        assert begun.payload[EventPayload.QUERY_STR] == QUESTION
        assert ended.payload[EventPayload.RESPONSE] is response


def test_a_loaded_model_answers_as_its_name_does(clara, expected):
    assert ClaraSynthesizer(clara, **FEW).synthesize(QUESTION, NODES).response == expected.text


def test_what_is_wrong_is_told_in_the_synthesizers_name():
    with pytest.raises(ValueError, match=r"^ClaraSynthesizer: max_new_tokens: Input should be greater than 0, got 0$"):
        ClaraSynthesizer("nowhere", max_new_tokens=0)
    with pytest.raises(ValueError, match=r"^ClaraSynthesizer: nonsense: "):
        ClaraSynthesizer("nowhere", nonsense=1)
    with pytest.raises(TypeError, match=r"^ClaraSynthesizer: unknown generation argument 'stops'; did you mean 'stop'"):
        ClaraSynthesizer("nowhere", generate_kwargs={"stops": "."})
    with pytest.raises(ValueError, match=r"^ClaraSynthesizer: query must not be blank"):
        ClaraSynthesizer("nowhere").synthesize(" ", NODES)
    with pytest.raises(ValueError, match="greater than 0"):
        ClaraSynthesizer("nowhere").llm.max_new_tokens = 0


def test_no_nodes_is_an_empty_response_without_the_model():
    assert ClaraSynthesizer("nowhere").synthesize(QUESTION, []).response == "Empty Response"
    other = ClaraSynthesizer("nowhere", streaming=True, empty_response="Nothing.")
    assert list(other.synthesize(QUESTION, []).response_gen) == ["Nothing."]
    assert list(other.get_response(QUESTION, [])) == ["Nothing."]
    assert asyncio.run(ClaraSynthesizer("nowhere").aget_response(QUESTION, [])) == "Empty Response"

    async def pieces(given):
        return [piece async for piece in given]

    async def ask():
        whole = await other.asynthesize(QUESTION, [])
        return await pieces(whole.response_gen) + await pieces(await other.aget_response(QUESTION, []))

    assert asyncio.run(ask()) == ["Nothing.", "Nothing."]


def test_it_needs_no_llm_and_loads_nothing_when_made(monkeypatch):
    monkeypatch.delenv("IS_TESTING", raising=False)
    monkeypatch.setattr(Settings, "_llm", None)
    assert not ClaraSynthesizer("nowhere").llm._holder.loaded
    assert Settings._llm is None


def test_structured_output_and_prompt_templates_are_refused():
    class Wanted(BaseModel):
        name: str

    with pytest.raises(TypeError, match="cannot use output_cls"):
        ClaraSynthesizer("nowhere", output_cls=Wanted)
    synthesizer = ClaraSynthesizer("nowhere")
    assert synthesizer.get_prompts() == {}
    with pytest.raises(TypeError, match="cannot use text_qa_template"):
        synthesizer.update_prompts({"text_qa_template": QUESTION})


def test_generation_options(make, clara, expected):
    texts = [node.node.get_content(MetadataMode.LLM) for node in NODES]
    sampling = {"temperature": 0.8, "seed": 3}
    sampled = clara.answer(QUESTION, texts, 3, rerank=False, **FEW, **sampling).text
    assert make(generate_kwargs=sampling).synthesize(QUESTION, NODES).response == sampled != expected.text
    assert make().synthesize(QUESTION, NODES, **sampling).response == sampled
    for options, error in (({"top_k": 3}, ValueError), ({"nonsense": 3}, TypeError)):
        with pytest.raises(error, match=next(iter(options))):
            make().synthesize(QUESTION, NODES, **options)


# a synthesizer has no top_k: it answers from the nodes that it is given
@pytest.mark.parametrize("case", [case for case in EDGE_CASES if case.top_k is None], ids=lambda case: case.name)
def test_edge_cases(case, make, monkeypatch):
    synthesizer = make(max_new_tokens=1)
    if case.expect == "error":
        with pytest.raises(ValueError, match="blank"):
            synthesizer.synthesize(case.query, edge_nodes(case))
        return
    with encoded(monkeypatch) as counts:
        response = synthesizer.synthesize(case.query, edge_nodes(case))
    assert counts["query_reasoner"] == (case.name in ("long text", "mixed metadata")), "its best windows are looked for"
    if case.expect == "empty":
        assert response.response == "Empty Response"
        assert counts["compressor"] == 0
    else:
        assert isinstance(response.response, str)
        assert [node.node_id for node in response.source_nodes] == [doc.id for doc in case.documents]
