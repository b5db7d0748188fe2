"""`store=` in the components: what a folder holds is compressed by nobody again, in this process or another."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_model import QUESTIONS, TEXTS

from clara_integrations import haystack, llama_index
from clara_model.inference.clara import Clara

HERE = Path(__file__).parent
QUESTION = QUESTIONS[0]

HAYSTACK = """
from haystack import Pipeline
from clara_integrations.haystack import ClaraGenerator, ClaraRanker
from haystack_kit import LOADING, SHORT, documents_of
options = {"model": folder, "store": store, **LOADING}
pipeline = Pipeline()
pipeline.add_component("ranker", ClaraRanker(top_k=2, **options))
pipeline.add_component("generator", ClaraGenerator(generation_kwargs=SHORT, **options))
pipeline.connect("ranker", "generator")
result = pipeline.run({"query": QUESTIONS[0], "documents": documents_of(TEXTS)})
answer = result["generator"]["replies"][0].text
pipeline.close()
"""
LLAMA_INDEX = """
from clara_integrations.llama_index import ClaraQueryEngine
from llama_index_kit import LOADING, FixedRetriever, text_nodes
nodes = text_nodes(TEXTS)
for node in nodes:
    node.node.metadata = {}
options = {"top_n": 2, "max_new_tokens": 6, "store": store, **LOADING}
engine = ClaraQueryEngine.from_retriever(FixedRetriever(nodes), folder, **options)
answer = engine.query(QUESTIONS[0]).response
engine.close() if hasattr(engine, "close") else None
"""
FILL = """
from clara_model import Clara
with Clara.load(folder, store=store, dtype="float32", device="cpu") as clara:
    clara.compress(TEXTS)
answer = ""
"""
HAYSTACK_DATABASE = """
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.document_stores.in_memory import InMemoryDocumentStore
from clara_integrations.haystack import ClaraDocumentEmbedder, ClaraRanker, ClaraTextEmbedder
from haystack_kit import LOADING, documents_of
options = {"model": folder, "store": store, **LOADING}
database = InMemoryDocumentStore()
database.write_documents(ClaraDocumentEmbedder(progress_bar=False, **options).run(documents_of(TEXTS))["documents"])
query = ClaraTextEmbedder(**options).run(QUESTIONS[0])["embedding"]
found = InMemoryEmbeddingRetriever(database, top_k=len(TEXTS)).run(query)["documents"]
answer = ClaraRanker(top_k=1, **options).run(query=QUESTIONS[0], documents=found)["documents"][0].content
"""
LLAMA_INDEX_DATABASE = """
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode
from clara_integrations.llama_index import ClaraEmbedding, ClaraRerank
from llama_index_kit import LOADING
options = {"model": folder, "store": store, **LOADING}
index = VectorStoreIndex([TextNode(text=text) for text in TEXTS], embed_model=ClaraEmbedding(**options))
found = index.as_retriever(similarity_top_k=len(TEXTS)).retrieve(QUESTIONS[0])
answer = ClaraRerank(top_n=1, **options).postprocess_nodes(found, query_str=QUESTIONS[0])[0].text
"""
CODE = """
import json, sys
sys.path[:0] = {paths}
from small_model import QUESTIONS, TEXTS
from clara_model import ClaraModel
folder, store = {folder!r}, {store!r}
counts = {{"compressor": 0, "query_reasoner": 0}}
original = ClaraModel.encode
def encode(self, role, ids, *args, **options):
    counts[role] += len(ids)
    return original(self, role, ids, *args, **options)
ClaraModel.encode = encode
{run}
print(json.dumps([counts["compressor"], answer]))
"""


def in_a_process(run, folder, store):
    """Texts that were compressed, and the answer."""
    paths = [str(HERE), str(HERE.parent), str(HERE.parents[1])]
    code = CODE.format(paths=paths, folder=str(folder), store=str(store), run=run)
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.integration
def test_what_one_process_and_framework_has_kept_no_other_compresses(tiny_clara_folder, tmp_path):
    kept = tmp_path / "kept"
    compressed, answer = in_a_process(HAYSTACK, tiny_clara_folder, kept)
    assert compressed == len(TEXTS)  # once for the ranker, not again for the generator
    assert in_a_process(HAYSTACK, tiny_clara_folder, kept) == [0, answer]
    assert in_a_process(LLAMA_INDEX, tiny_clara_folder, kept) == [0, answer]
    assert in_a_process(LLAMA_INDEX, tiny_clara_folder, tmp_path / "other") == [len(TEXTS), answer]


@pytest.mark.slow
@pytest.mark.integration
def test_a_vector_database_in_front_of_a_shared_store_compresses_nothing(tiny_clara_folder, tmp_path):
    pytest.importorskip("lance", reason="extra lance")
    kept = tmp_path / "kept.lance"
    assert in_a_process(FILL, tiny_clara_folder, kept)[0] == len(TEXTS)
    compressed, best = in_a_process(HAYSTACK_DATABASE, tiny_clara_folder, kept)
    assert compressed == 0
    assert best in TEXTS
    assert in_a_process(LLAMA_INDEX_DATABASE, tiny_clara_folder, kept) == [0, best]


@pytest.mark.parametrize(
    "kind", [llama_index.ClaraRerank, llama_index.ClaraLLM, llama_index.ClaraEmbedding, llama_index.ClaraRetriever]
)
def test_a_llama_index_component_saves_its_stores_path(kind, tmp_path):
    saved = kind("nowhere", store=tmp_path / "kept").to_dict()
    assert saved["store"] == str(tmp_path / "kept")
    assert kind.from_dict(saved).store == saved["store"]


@pytest.mark.parametrize("kind", [getattr(haystack, name) for name in haystack.__all__])
def test_a_haystack_component_saves_its_stores_path_and_refuses_a_store(kind, tmp_path):
    saved = kind("nowhere", store=tmp_path / "kept").to_dict()
    assert saved["init_parameters"]["store"] == str(tmp_path / "kept")
    assert kind.from_dict(saved).to_dict() == saved
    with pytest.raises(TypeError, match=f"{kind.__name__}: store must be the path of a folder, but got dict"):
        kind("nowhere", store={})


def test_a_loaded_model_takes_no_store(tiny_clara_folder, tmp_path):
    with Clara.load(tiny_clara_folder, dtype="float32", device="cpu") as clara:
        with pytest.raises(ValueError, match="store: a Clara that is loaded already takes no options"):
            haystack.ClaraRanker(clara, store=tmp_path)
