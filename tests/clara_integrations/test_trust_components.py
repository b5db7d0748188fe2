"""Both frameworks: text beside latents, words in the ranking, and an answer that is too unlikely to be given."""

import asyncio
from dataclasses import asdict

import pytest
from haystack import Document
from haystack.utils import ComponentDevice
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index_kit import LOADING, recorded
from small_model import QUESTIONS, TEXTS

from clara_integrations.llama_index import ClaraQueryEngine, ClaraRerank, ClaraSynthesizer
from clara_integrations.llama_index.reading import ClaraAnswerEvent
from clara_model.inference.clara import Clara
from haystack_integrations.components.generators.clara import ClaraGenerator
from haystack_integrations.components.rankers.clara import ClaraRanker

QUESTION, FEW = QUESTIONS[0], {"max_new_tokens": 12}
NOT_GIVEN = "Nobody knows."


def text_nodes(texts):
    return [NodeWithScore(node=TextNode(id_=f"n{number}", text=text)) for number, text in enumerate(texts)]


@pytest.fixture(scope="module")
def expected(clara):
    """What the generator writes of three texts, the first two read as text."""
    with Clara(clara.model, expand=2, ranking="hybrid") as mixed:
        return mixed.answer(QUESTION, TEXTS[:3], 3, rerank=False, **FEW)


def synthesizer(folder, **options):
    return ClaraSynthesizer(folder, expand=2, ranking="hybrid", **FEW, **LOADING, **options)


def generator(folder, **options):
    mixed = {"expand": 2, "ranking": "hybrid"}
    device = ComponentDevice.from_str("cpu")
    return ClaraGenerator(
        folder, top_k=3, generation_kwargs=FEW, dtype="float32", device=device, model_kwargs=mixed, **options
    )


DOCUMENTS = [Document(id=f"n{number}", content=text) for number, text in enumerate(TEXTS[:3])]


def test_a_copied_answer_comes_through_both_frameworks_whole_and_streamed(clara, tiny_clara_folder):
    with Clara(clara.model, expand=2, ranking="hybrid") as mixed:
        expected = mixed.answer(QUESTION, TEXTS[:3], 3, rerank=False, copy=True, **FEW)
    assert any(expected.text in text for text in TEXTS[:3])
    quote = {"start": 0, "end": len(expected.text)}
    for streaming in (False, True):
        response = synthesizer(tiny_clara_folder, generate_kwargs={"copy": True}, streaming=streaming).synthesize(
            QUESTION, text_nodes(TEXTS[:3])
        )
        assert str(response) == expected.text
        if not streaming:
            assert [quote.items() <= one.items() for one in response.metadata["clara"]["quotes"]] == [True]
        pieces = []
        how = {"generation_kwargs": {"copy": True}, "streaming_callback": pieces.append if streaming else None}
        (reply,) = generator(tiny_clara_folder).run(QUESTION, DOCUMENTS, **how)["replies"]
        assert reply.text == expected.text and len([one for one in pieces if one.content]) == streaming
        assert [quote.items() <= one.items() for one in reply.meta["quotes"]] == [True]


def test_the_first_nodes_are_read_as_text_and_the_answer_tells_about_itself(expected, tiny_clara_folder):
    assert expected.expanded == 2 and expected.usage.slots == 4
    with recorded() as events:
        response = synthesizer(tiny_clara_folder).synthesize(QUESTION, text_nodes(TEXTS[:3]))
    assert response.response == expected.text
    told = {"confidence": pytest.approx(expected.confidence), "found": True, "unsupported": expected.unsupported}
    told["quotes"] = [asdict(one) for one in expected.quotes]
    assert response.metadata["clara"] == told
    (event,) = [one for one in events.events if isinstance(one, ClaraAnswerEvent)]
    assert (event.expanded_tokens, event.slots) == (expected.usage.expanded_tokens, 4)
    assert {name: getattr(event, name) for name in told} == told


def test_the_first_documents_are_read_as_text_and_the_reply_tells_about_itself(expected, tiny_clara_folder):
    (reply,) = generator(tiny_clara_folder).run(QUESTION, DOCUMENTS)["replies"]
    assert reply.text == expected.text and reply.meta["usage"]["expanded_tokens"] == expected.usage.expanded_tokens
    assert reply.meta["confidence"] == pytest.approx(expected.confidence) and reply.meta["found"]
    assert reply.meta["quotes"] == [{**asdict(one), "document_id": f"n{one.document}"} for one in expected.quotes]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("least", "given"), [(0.0, True), (1e-9, True), (0.99, False)])
def test_an_unlikely_answer_of_llama_index_is_not_given(expected, tiny_clara_folder, streaming, least, given):
    ours = synthesizer(tiny_clara_folder, streaming=streaming, min_confidence=least, no_answer=NOT_GIVEN)
    text = expected.text if given else NOT_GIVEN
    with recorded() as events:
        response = ours.synthesize(QUESTION, text_nodes(TEXTS[:3]))
        assert str(response) == text

    async def ask():
        response = await ours.asynthesize(QUESTION, text_nodes(TEXTS[:3]))
        return "".join([piece async for piece in response.response_gen]) if streaming else response.response

    assert asyncio.run(ask()) == text
    (event,) = [one for one in events.events if isinstance(one, ClaraAnswerEvent)]
    assert event.found is given
    if not streaming:
        assert response.metadata["clara"]["found"] is given


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("least", "given"), [(0.0, True), (1e-9, True), (0.99, False)])
def test_an_unlikely_reply_of_haystack_is_not_given(expected, tiny_clara_folder, streaming, least, given):
    pieces: list[str] = []

    async def later(chunk):
        pieces.append(chunk.content)

    ours = generator(tiny_clara_folder, min_confidence=least, no_answer=NOT_GIVEN)
    text = expected.text if given else NOT_GIVEN
    told = (lambda chunk: pieces.append(chunk.content)) if streaming else None
    assert ours.to_dict()["init_parameters"]["min_confidence"] == least
    for run in (
        lambda: ours.run(QUESTION, DOCUMENTS, told),
        lambda: asyncio.run(ours.run_async(QUESTION, DOCUMENTS, later if streaming else None)),
    ):
        (reply,) = run()["replies"]
        assert (reply.text, reply.meta["found"]) == (text, given)
        assert "".join(pieces) == (text if streaming else "")
        pieces.clear()


def test_rankers_take_words_into_account(clara, tiny_clara_folder):
    with Clara(clara.model, ranking="hybrid") as mixed:
        expected = mixed.rank(QUESTION, TEXTS)
    assert expected != clara.rank(QUESTION, TEXTS)
    nodes = ClaraRerank(tiny_clara_folder, ranking="hybrid", top_n=9, **LOADING).postprocess_nodes(
        text_nodes(TEXTS), query_str=QUESTION
    )
    documents = [Document(id=str(number), content=text) for number, text in enumerate(TEXTS)]
    ranker = ClaraRanker(
        tiny_clara_folder, dtype="float32", device=ComponentDevice.from_str("cpu"), model_kwargs={"ranking": "hybrid"}
    )
    for found in ([one.score for one in nodes], [one.score for one in ranker.run(QUESTION, documents)["documents"]]):
        assert found == pytest.approx([one.score for one in expected])


class Given(BaseRetriever):
    def _retrieve(self, _):
        return text_nodes(TEXTS)


def test_a_query_engine_hands_it_all_on(tiny_clara_folder):
    options = {"expand": 1, "ranking": "hybrid", "min_confidence": 0.99, "no_answer": NOT_GIVEN}
    for engine in (
        ClaraQueryEngine.from_retriever(Given(), tiny_clara_folder, **options, **FEW, **LOADING),
        ClaraQueryEngine.from_args(Given(), tiny_clara_folder, **options, **FEW, **LOADING),
    ):
        with recorded() as events:
            assert str(engine.query(QUESTION)) == NOT_GIVEN
        (event,) = [one for one in events.events if isinstance(one, ClaraAnswerEvent)]
        assert event.expanded_tokens and not event.found


@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_what_is_no_share_is_refused(tiny_clara_folder, value):
    with pytest.raises(ValueError, match="ClaraSynthesizer: min_confidence must be from 0 to 1, but got"):
        ClaraSynthesizer(tiny_clara_folder, min_confidence=value)
    with pytest.raises(ValueError, match="ClaraGenerator: min_confidence must be from 0 to 1, but got"):
        ClaraGenerator(tiny_clara_folder, min_confidence=value)
    with pytest.raises(TypeError, match="min_confidence must be a number, but got '1'"):
        ClaraGenerator(tiny_clara_folder, min_confidence="1")
