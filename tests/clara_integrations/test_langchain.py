"""The LangChain components: the order and scores of `Clara.rank` and `Clara.search`, in LangChain's own types."""

import asyncio
import subprocess
import sys
import threading

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda
from pydantic import ValidationError
from small_model import QUESTIONS, TEXTS

from clara_integrations.langchain import ClaraCompressor, ClaraStoreRetriever
from clara_model.inference.clara import Clara

QUESTION = QUESTIONS[0]
LOADING = {"dtype": "float32", "device": "cpu"}


@pytest.fixture
def clara(tiny_clara_folder):
    """Held while a test runs, so that every component shares it."""
    with Clara.load(tiny_clara_folder, **LOADING) as clara:
        yield clara


@pytest.fixture
def documents():
    return [Document(page_content=text, metadata={"n": n}, id=f"d{n}") for n, text in enumerate(TEXTS)]


@pytest.fixture
def store(tiny_clara_folder, tmp_path):
    folder = str(tmp_path / "latents")
    with Clara.load(tiny_clara_folder, store=folder, **LOADING) as filling:
        filling.compress(TEXTS)
    return folder


def test_it_gives_copies_of_the_best_with_their_scores(clara, tiny_clara_folder, documents):
    rerank = ClaraCompressor(model=str(tiny_clara_folder), top_n=3, options=LOADING)
    expected = clara.rank(QUESTION, TEXTS, 3)
    found = rerank.compress_documents(documents, QUESTION)
    assert [(one.id, one.page_content, one.metadata) for one in found] == [
        (f"d{one.index}", TEXTS[one.index], {"n": one.index, "relevance_score": one.score}) for one in expected
    ]
    assert all(set(one.metadata) == {"n"} for one in documents)  # those given are left as they were
    assert asyncio.run(rerank.acompress_documents(documents, QUESTION)) == found
    assert len(ClaraCompressor(model=clara).compress_documents(documents, QUESTION)) == clara.top_k
    strict = ClaraCompressor(model=clara, top_n=3, score_threshold=expected[1].score)
    assert strict.compress_documents(documents, QUESTION) == found[:2]


def test_a_retriever_finds_what_a_search_finds_and_stands_in_a_chain(tiny_clara_folder, store):
    with Clara.load(tiny_clara_folder, store=store, **LOADING) as clara:
        expected = clara.search(QUESTION, 2)
    seen = []

    class Handler(BaseCallbackHandler):
        def on_retriever_end(self, documents, **kwargs):
            seen.append(documents)

    retriever = ClaraStoreRetriever(model=str(tiny_clara_folder), store=store, k=2, options=LOADING)
    found = retriever.invoke(QUESTION, {"callbacks": [Handler()]})
    assert [(one.id, one.page_content, one.metadata["relevance_score"]) for one in found] == [
        (one.id, one.text, one.score) for one in expected
    ]
    assert seen == [found] == [asyncio.run(retriever.ainvoke(QUESTION))]
    chain = retriever | RunnableLambda(lambda documents: [one.page_content for one in documents])
    assert chain.batch([QUESTION, QUESTIONS[1]])[0] == [one.text for one in expected]
    retriever.close()


def test_a_compressor_and_a_retriever_leave_the_loop_free(clara, documents, monkeypatch):
    gate, rank = threading.Event(), Clara.rank

    def waiting(self, *args):
        assert gate.wait(30), "the loop was blocked"
        return rank(self, *args)

    monkeypatch.setattr(Clara, "rank", waiting)

    async def both():
        task = asyncio.create_task(ClaraCompressor(model=clara).acompress_documents(documents, QUESTION))
        await asyncio.sleep(0.05)
        gate.set()
        return await task

    assert len(asyncio.run(both())) == clara.top_k


def test_what_is_wrong_is_told(documents, tmp_path):
    assert ClaraCompressor(model="nowhere").compress_documents([], QUESTION) == []
    with pytest.raises(ValueError, match="ClaraCompressor: query must not be blank"):
        ClaraCompressor(model="nowhere").compress_documents(documents, " ")
    with pytest.raises(ValidationError, match="top_n"):
        ClaraCompressor(model="nowhere", top_n=0)
    with pytest.raises(TypeError, match="ClaraCompressor: unknown model option 'dtyp'; did you mean 'dtype'"):
        ClaraCompressor(model="nowhere", options={"dtyp": "float32"})
    with pytest.raises(FileNotFoundError, match="latents"):
        ClaraStoreRetriever(model="nowhere", store=str(tmp_path / "latents")).invoke(QUESTION)


def test_importing_loads_neither_torch_nor_a_model():
    code = "import sys, clara_integrations.langchain; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
