"""Existing clients against the running server, unchanged: nothing of them is replaced, and none is told what it asks.

`OpenAILike` of LlamaIndex cannot be installed beside the pinned `openai`: it calls that client, which is tested here,
and what it sends is tested by hand.
"""

import pytest
from haystack import Document
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.utils import Secret
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.postprocessor.cohere_rerank import CohereRerank
from llama_index.postprocessor.jinaai_rerank import JinaRerank
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference
from openai import BadRequestError, OpenAI

from haystack_integrations.components.generators.vllm import VLLMChatGenerator
from haystack_integrations.components.rankers.cohere import CohereRanker
from haystack_integrations.components.rankers.huggingface_api import HuggingFaceTEIRanker
from haystack_integrations.components.rankers.jina import JinaRanker
from haystack_integrations.components.rankers.vllm import VLLMRanker

pytestmark = pytest.mark.integration
QUESTION = "Where was Ranvun Mepos born?"
TEXTS = [
    "Ponwis Kilos was born in Tenga. Ponwis was married to Fuyis, a friend from school.",
    "Ranvun Mepos was born in Jiwas. By trade he was a sailor, and liked the work.",
    "The tower Wanlus stands in Kinzos. It was finished in 1473.",
]
KEY = Secret.from_token("none")


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    """The clients want some key; this server wants none."""
    for name in ("COHERE_API_KEY", "CO_API_KEY", "JINAAI_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "none")


@pytest.fixture(scope="module")
def expected(tiny):
    """Order and scores, those from 0 to 1."""
    ranked = tiny.rank(QUESTION, TEXTS)
    assert ranked[0].index == 1 and {one.by for one in ranked} == {"latents"}
    return [(TEXTS[one.index], pytest.approx((1 + one.score) / 2, abs=1e-5)) for one in ranked]


LLAMA_INDEX = {
    "TEI": lambda url: TextEmbeddingInference(base_url=url, top_n=3),
    "Jina": lambda url: JinaRerank(base_url=f"{url}/v1", top_n=3, api_key="none"),
    "Cohere": lambda url: CohereRerank(base_url=url, top_n=3, api_key="none"),
}
HAYSTACK = {
    "TEI": lambda url: HuggingFaceTEIRanker(url=url, token=None, max_retries=0),
    "Jina": lambda url: JinaRanker(api_key=KEY, base_url=f"{url}/v1/rerank"),
    "vLLM": lambda url: VLLMRanker(model="clara-tiny", api_base_url=f"{url}/v1", api_key=None),
    "Cohere": lambda url: CohereRanker(api_key=KEY, api_base_url=url),
}


@pytest.mark.parametrize("name", LLAMA_INDEX)
def test_a_llama_index_reranker(url, expected, name):
    nodes = [NodeWithScore(node=TextNode(text=text), score=0.1) for text in TEXTS]
    found = LLAMA_INDEX[name](url).postprocess_nodes(nodes, QueryBundle(QUESTION))
    assert [(one.node.get_content(), one.score) for one in found] == expected


@pytest.mark.parametrize("name", HAYSTACK)
def test_a_haystack_ranker(url, expected, name):
    ranker = HAYSTACK[name](url)
    if hasattr(ranker, "warm_up"):
        ranker.warm_up()
    found = ranker.run(query=QUESTION, documents=[Document(content=text) for text in TEXTS])["documents"]
    assert [(one.content, one.score) for one in found] == expected


def test_openai_answers_whole_and_streamed_with_sources_and_usage(url, tiny):
    client = OpenAI(base_url=f"{url}/v1", max_retries=0)
    asked = {"model": "clara-tiny", "messages": [{"role": "user", "content": QUESTION}]}
    own = tiny.answer(QUESTION, TEXTS, 2)
    more = {"documents": [{"id": f"doc{n}", "data": {"text": text}} for n, text in enumerate(TEXTS)], "top_k": 2}
    answer = client.chat.completions.create(**asked, extra_body=more)
    assert answer.choices[0].message.content == own.text == "Jiwas"
    assert answer.choices[0].finish_reason == own.finish_reason
    used = answer.usage
    assert (used.prompt_tokens, used.completion_tokens) == (own.usage.prompt_tokens, own.usage.completion_tokens)
    assert used.prompt_tokens_details.slots == own.usage.slots
    sources = answer.clara["sources"]
    assert [one["id"] for one in sources] == [f"doc{index}" for index in own.selected]
    assert sources[0]["text"] == TEXTS[1] and sources[0]["score"] == pytest.approx(own.ranking[0].score, abs=1e-6)

    stream = client.chat.completions.create(
        **asked, extra_body=more, stream=True, stream_options={"include_usage": True}
    )
    pieces = list(stream)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == own.text
    assert pieces[-1].usage == used and pieces[-2].choices[0].finish_reason == own.finish_reason
    assert pieces[-2].clara["sources"] == sources


def test_openai_reads_an_error_as_one(url):
    client = OpenAI(base_url=f"{url}/v1", max_retries=0)
    with pytest.raises(BadRequestError, match="the question is blank") as error:
        client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": " "}], extra_body={"documents": TEXTS}, stream=True
        )
    assert error.value.body["type"] == "invalid_request_error"


@pytest.mark.parametrize("as_question", [False, True])
def test_openai_embeds(url, tiny, as_question):
    client = OpenAI(base_url=f"{url}/v1", max_retries=0)
    kind = {"extra_body": {"input_type": "query"}} if as_question else {}
    made = client.embeddings.create(model="m", input=TEXTS, dimensions=64, **kind)
    own = (tiny.embed_questions if as_question else tiny.embed_texts)(TEXTS, 64)
    for one, vector in zip(made.data, own, strict=True):
        assert one.embedding == pytest.approx(vector, abs=1e-5)
    assert made.usage.prompt_tokens == sum(map(tiny.count_tokens, TEXTS))
    plain = client.embeddings.create(model="m", input=TEXTS[0], encoding_format="float")
    assert plain.data[0].embedding == pytest.approx(tiny.embed_texts(TEXTS[:1])[0], abs=1e-5)


@pytest.mark.parametrize("generator", [OpenAIChatGenerator, VLLMChatGenerator])
def test_a_haystack_chat_generator(url, generator):
    made = generator(model="clara-tiny", api_base_url=f"{url}/v1", api_key=KEY)
    asked = [ChatMessage.from_system("Be brief."), ChatMessage.from_user(QUESTION)]
    how = {"extra_body": {"documents": TEXTS}, "max_completion_tokens": 20}
    assert made.run(asked, generation_kwargs=how)["replies"][0].text == "Jiwas"
    pieces = []
    made = generator(
        model="m", api_base_url=f"{url}/v1", api_key=KEY, streaming_callback=lambda p: pieces.append(p.content)
    )
    assert made.run(asked, generation_kwargs=how)["replies"][0].text == "".join(pieces) == "Jiwas"


def test_what_openai_like_sends(http):
    asked = {"role": "user", "content": [{"type": "text", "text": QUESTION}]}
    body = {
        "model": "m",
        "messages": [asked],
        "temperature": 0.0,
        "max_tokens": None,
        "stream": False,
        "documents": TEXTS,
    }
    assert http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"] == "Jiwas"
