"""Async calls run in the model's own few threads: the event loop's default executor stays free for everybody else."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from haystack import Pipeline
from haystack_kit import LOADING as HAYSTACK_LOADING
from haystack_kit import documents_of
from llama_index_kit import LOADING, FixedRetriever, text_nodes
from small_model import QUESTIONS, TEXTS
from store_kit import filled

from clara_integrations import haystack, llama_index
from clara_model.inference.loader import ASYNC_THREADS

QUESTION = QUESTIONS[0]
FEW = {"max_new_tokens": 2}


class Taken(ThreadPoolExecutor):
    """A default executor in which nobody of ours may run."""

    def submit(self, call, /, *args, **options):
        raise AssertionError(f"{call} was given to the loop's default executor")


def calls_of(folder, store="nowhere"):
    """One async call of each kind, of components that have not loaded their model."""
    rerank, llm = llama_index.ClaraRerank(folder, **LOADING), llama_index.ClaraLLM(folder, **FEW, **LOADING)
    embedding = llama_index.ClaraEmbedding(folder, dimensions=8, **LOADING)
    kept, found = (kind(folder, store=store, **given) for kind, given in (
        (llama_index.ClaraRetriever, LOADING), (haystack.ClaraRetriever, HAYSTACK_LOADING)
    ))  # fmt: skip
    retriever = FixedRetriever(text_nodes(TEXTS))
    engine = llama_index.ClaraQueryEngine.from_retriever(retriever, folder, **FEW, **LOADING)
    options = {"model": folder, **HAYSTACK_LOADING}
    ranker, generator = haystack.ClaraRanker(**options), haystack.ClaraGenerator(generation_kwargs=FEW, **options)
    text = haystack.ClaraTextEmbedder(dimensions=8, **options)
    document = haystack.ClaraDocumentEmbedder(dimensions=8, progress_bar=False, **options)
    pipeline = Pipeline()
    pipeline.add_component("ranker", haystack.ClaraRanker(**options))
    pipeline.add_component("generator", haystack.ClaraGenerator(generation_kwargs=FEW, **options))
    pipeline.connect("ranker", "generator")
    documents = documents_of(TEXTS)
    return {
        "rerank": lambda: rerank.apostprocess_nodes(text_nodes(TEXTS), query_str=QUESTION),
        "complete": lambda: llm.acomplete(QUESTION),
        "query vector": lambda: embedding.aget_query_embedding(QUESTION),
        "text vector": lambda: embedding.aget_text_embedding(TEXTS[0]),
        "text vectors": lambda: embedding.aget_text_embedding_batch(TEXTS),
        "engine": lambda: engine.aquery(QUESTION),
        "nodes of a store": lambda: kept.aretrieve(QUESTION),
        "documents of a store": lambda: found.run_async(QUESTION),
        "ranker": lambda: ranker.run_async(QUESTION, documents),
        "generator": lambda: generator.run_async(QUESTION, documents),
        "text embedder": lambda: text.run_async(QUESTION),
        "document embedder": lambda: document.run_async(documents),
        "pipeline": lambda: pipeline.run_async({"query": QUESTION, "documents": documents}),
    }


@pytest.mark.parametrize("name", list(calls_of("nowhere")))
def test_nothing_runs_in_the_loops_default_executor(name, clara, tiny_clara_folder, tmp_path):
    call = calls_of(tiny_clara_folder, filled(tiny_clara_folder, tmp_path) if "store" in name else "nowhere")[name]

    async def ask():
        asyncio.get_running_loop().set_default_executor(Taken())
        return await asyncio.gather(call(), call())

    assert len(asyncio.run(ask())) == 2


def test_a_name_is_looked_up_while_many_calls_wait(clara, tiny_clara_folder):
    ranker = haystack.ClaraRanker(model=tiny_clara_folder, **HAYSTACK_LOADING)

    async def ask():
        loop = asyncio.get_running_loop()
        calls = [asyncio.create_task(ranker.run_async(f"{QUESTION} {n}", documents_of(TEXTS))) for n in range(64)]
        await asyncio.sleep(0)
        await loop.getaddrinfo("127.0.0.1", 80)
        waiting = sum(not call.done() for call in calls)
        named = [thread for thread in threading.enumerate() if thread.name.startswith("clara-async")]
        await asyncio.gather(*calls)
        return waiting, len(named)

    waiting, threads = asyncio.run(ask())
    assert waiting > 32
    assert 1 <= threads <= ASYNC_THREADS + 1  # one may be of a model that has just been let go of


def test_asynchronous_gives_what_synchronous_gives(clara, tiny_clara_folder):
    options = {"model": tiny_clara_folder, **HAYSTACK_LOADING}
    documents = documents_of(TEXTS)
    for component, given in (
        (haystack.ClaraRanker(**options), (QUESTION, documents, 2, 0.0)),
        (haystack.ClaraTextEmbedder(**options), (QUESTION,)),
        (haystack.ClaraDocumentEmbedder(progress_bar=False, **options), (documents,)),
    ):
        assert asyncio.run(component.run_async(*given)) == component.run(*given)


def test_no_documents_need_no_model():
    ranker, embedder = haystack.ClaraRanker("nowhere"), haystack.ClaraDocumentEmbedder("nowhere", progress_bar=False)
    assert asyncio.run(ranker.run_async("", [])) == {"documents": []}
    assert asyncio.run(embedder.run_async([])) == {"documents": []}
