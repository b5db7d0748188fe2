"""ClaraLLM: the base model on plain text, through all eight ways to call an LLM of LlamaIndex."""

import asyncio
import copy
import json
import pickle

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, MessageRole
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.response_synthesizers import ResponseMode, get_response_synthesizer
from llama_index_kit import LOADING, recorded, text_nodes
from small_model import QUESTIONS, TEXTS

from clara_integrations.llama_index import ClaraEmbedding, ClaraLLM

FEW = {"max_new_tokens": 10}
TALK = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content=QUESTIONS[0])]
TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTIONS[0]}]


@pytest.fixture
def make(clara, tiny_clara_folder):
    return lambda **options: ClaraLLM(model=tiny_clara_folder, **{**FEW, **LOADING, **options})


def test_all_ways_to_call_it_say_the_same(make, clara):
    llm, said, chatted = make(), clara.plain(QUESTIONS[0], **FEW), clara.plain(TURNS, **FEW)
    assert llm.complete(QUESTIONS[0]).text == said.text != ""
    assert llm.chat(TALK).message.content == chatted.text != ""
    assert llm.chat(TALK).message.role == MessageRole.ASSISTANT

    async def ask():
        streamed = [part async for part in await llm.astream_complete(QUESTIONS[0])]
        talked = [part async for part in await llm.astream_chat(TALK)]
        return await llm.acomplete(QUESTIONS[0]), await llm.achat(TALK), streamed, talked

    completed, answered, astreamed, atalked = asyncio.run(ask())
    assert (completed.text, answered.message.content) == (said.text, chatted.text)
    for parts, answer in (
        (list(llm.stream_complete(QUESTIONS[0])), said),
        (astreamed, said),
        (list(llm.stream_chat(TALK)), chatted),
        (atalked, chatted),
    ):
        assert len(parts) > 4
        assert "".join(part.delta for part in parts) == answer.text
        assert parts[-1].raw["usage"]["completion_tokens"] == answer.usage.completion_tokens
        assert parts[-1].raw["finish_reason"] == answer.finish_reason


def test_a_system_prompt_comes_first_unless_the_prompt_is_formatted(make, clara):
    llm = make(system_prompt="Be brief.")
    assert llm.complete(QUESTIONS[0]).text == clara.plain(TURNS, **FEW).text
    assert llm.complete(QUESTIONS[0], formatted=True).text == clara.plain(QUESTIONS[0], **FEW).text


def test_token_counting_reads_the_real_numbers(make, clara):
    counter = TokenCountingHandler(tokenizer=str.split)
    make(callback_manager=CallbackManager([counter])).chat(TALK)
    used = clara.plain(TURNS, **FEW).usage
    assert counter.prompt_llm_token_count == used.prompt_tokens
    assert counter.completion_llm_token_count == used.completion_tokens


def test_each_call_has_its_events_once(make):
    with recorded() as events:
        make().chat(TALK)
        asyncio.run(make().achat(TALK))
    assert events.names() == ["LLMChatStartEvent", "LLMChatEndEvent"] * 2


def test_metadata_is_the_base_models(make, tiny_clara_folder):
    metadata = make().metadata
    assert (metadata.context_window, metadata.num_output, metadata.is_chat_model) == (2048, 10, True)
    assert metadata.model_name == str(tiny_clara_folder)
    assert ClaraLLM(model="nowhere", context_window=512).metadata.context_window == 512


def test_what_the_base_model_cannot_read_is_refused():
    llm = ClaraLLM(model="nowhere", context_window=512)
    with pytest.raises(ValueError, match="tool"):
        llm.chat([ChatMessage(role="tool", content="42")])
    with pytest.raises(ValueError, match="text only, got ImageBlock"):
        llm.chat([ChatMessage(role="user", blocks=[ImageBlock(image=b"aaaa")])])


def test_it_comes_back_from_json_and_pickle(make):
    llm = make(generate_kwargs={"temperature": 0.5, "seed": 1})
    expected = llm.complete(QUESTIONS[0]).text
    for other in (ClaraLLM.from_dict(json.loads(llm.to_json())), pickle.loads(pickle.dumps(llm)), copy.deepcopy(llm)):
        assert other.to_dict() == llm.to_dict()
        assert other.complete(QUESTIONS[0]).text == expected


def test_a_stock_synthesizer_and_a_chat_engine_work_with_it(make, clara, tiny_clara_folder):
    llm = make(max_new_tokens=4)
    stock = get_response_synthesizer(llm=llm, response_mode=ResponseMode.COMPACT)
    assert stock.synthesize(QUESTIONS[0], text_nodes(TEXTS[:2])).response
    embedding = ClaraEmbedding(model=tiny_clara_folder, dimensions=16, **LOADING)
    index = VectorStoreIndex([node.node for node in text_nodes(TEXTS)], embed_model=embedding)
    engine = index.as_chat_engine(llm=llm, chat_mode="condense_plus_context", similarity_top_k=1)
    assert engine.chat(QUESTIONS[0]).response
    assert "prompt_tokens" not in str(engine.chat_history)
    assert engine.chat(QUESTIONS[1]).response
