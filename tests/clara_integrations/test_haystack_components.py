"""What all Haystack components have in common: light constructors, lifecycle, plain values, one shared model."""

import asyncio
import copy
import shutil
import subprocess
import sys

import pytest
from counting import encoded
from haystack import Pipeline
from haystack.components.generators.utils import print_streaming_chunk
from haystack.core.errors import DeserializationError
from haystack.utils import ComponentDevice, DeviceMap, Secret
from haystack_kit import CPU, LOADING, SHORT, documents_of
from small_model import QUESTIONS, TEXTS

from clara_integrations.haystack import ClaraDocumentEmbedder, ClaraGenerator, ClaraRanker, ClaraTextEmbedder
from clara_model.errors import ClaraError
from clara_model.inference.clara import Clara
from clara_model.inference.loader import loaded_models

QUESTION = QUESTIONS[0]
KINDS = [ClaraRanker, ClaraGenerator, ClaraTextEmbedder, ClaraDocumentEmbedder]
WHERE = {
    ClaraRanker: "rankers.clara.ranker",
    ClaraGenerator: "generators.clara.generator",
    ClaraTextEmbedder: "embedders.clara.text_embedder",
    ClaraDocumentEmbedder: "embedders.clara.document_embedder",
}
TOKEN = {"type": "env_var", "env_vars": ["HF_API_TOKEN", "HF_TOKEN"], "strict": False}
COMMON = {
    "model": "clara-tiny",
    "subfolder": None,
    "revision": None,
    "dtype": None,
    "device": None,
    "token": TOKEN,
    "store": None,
    "model_kwargs": {},
}
READING = {"meta_fields_to_embed": [], "embedding_separator": "\n"}
DEFAULTS = {
    ClaraRanker: {**COMMON, **READING, "top_k": 10, "score_threshold": None, "batch_size": None},
    ClaraGenerator: {
        **COMMON,
        **READING,
        "top_k": None,
        "rerank": False,
        "generation_kwargs": {},
        "streaming_callback": None,
        "batch_size": None,
        "min_confidence": 0.0,
        "no_answer": "The documents do not say.",
        "engine_url": None,
        "engine_api_key": {"type": "env_var", "env_vars": ["CLARA_ENGINE_API_KEY"], "strict": False},
        "engine_timeout": None,
    },
    ClaraTextEmbedder: {**COMMON, "dimensions": 1024, "prefix": "", "suffix": ""},
    ClaraDocumentEmbedder: {
        **COMMON,
        **READING,
        "dimensions": 1024,
        "prefix": "",
        "suffix": "",
        "progress_bar": True,
        "batch_size": 32,
    },
}
GIVEN = {
    "model": "apple/CLaRa-7B-E2E",
    "subfolder": "compression-16",
    "revision": "main",
    "dtype": "bfloat16",
    "device": ComponentDevice.from_str("cuda:1"),
    "token": Secret.from_env_var("MY_TOKEN"),
    "store": "kept/latents",
    "model_kwargs": {"quantization": "int8", "cache_bytes": 10},
}
SAVED = {
    **GIVEN,
    "device": {"type": "single", "device": "cuda:1"},
    "token": {"type": "env_var", "env_vars": ["MY_TOKEN"], "strict": True},
}


OWN = {
    ClaraRanker: {"top_k": 3, "score_threshold": 0.25, "meta_fields_to_embed": ["title"], "batch_size": 4},
    ClaraGenerator: {"top_k": 2, "rerank": True, "generation_kwargs": {"max_new_tokens": 8, "stop": ["."]}},
    ClaraTextEmbedder: {"dimensions": 7, "prefix": "query: ", "suffix": "?"},
    ClaraDocumentEmbedder: {"dimensions": 7, "progress_bar": False, "batch_size": 2, "embedding_separator": " "},
}


@pytest.fixture
def own_folder(tiny_clara_folder, tmp_path):
    """A checkpoint that no other test has loaded."""
    return shutil.copytree(tiny_clara_folder, tmp_path / "checkpoint")


def copies(folder) -> int:
    """Of this checkpoint in memory."""
    return loaded_models().count(str(folder))


# -- plain values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_to_dict_with_defaults_is_exact_and_names_the_module(kind):
    assert kind().to_dict() == {
        "type": f"haystack_integrations.components.{WHERE[kind]}.{kind.__name__}",
        "init_parameters": DEFAULTS[kind],
    }


@pytest.mark.parametrize("kind", KINDS)
def test_to_dict_and_back_with_everything_given(kind):
    made = kind(**GIVEN, **OWN[kind])
    saved = made.to_dict()
    assert saved["init_parameters"] == {**DEFAULTS[kind], **SAVED, **OWN[kind]}
    before = copy.deepcopy(saved)
    again = kind.from_dict(saved)
    assert saved == before
    assert again.to_dict() == before
    assert (again.device, again.token) == (made.device, made.token)


def test_a_callback_is_saved_by_its_name():
    generator = ClaraGenerator(streaming_callback=print_streaming_chunk)
    saved = generator.to_dict()
    assert saved["init_parameters"]["streaming_callback"].endswith(".utils.print_streaming_chunk")
    before = copy.deepcopy(saved)
    assert ClaraGenerator.from_dict(saved).streaming_callback is print_streaming_chunk
    assert saved == before


def test_what_has_no_plain_form_is_not_saved(tiny_clara_folder):
    with pytest.raises(ValueError, match="token-based secret"):
        ClaraRanker(token=Secret.from_token("hush")).to_dict()
    with Clara.load(tiny_clara_folder, dtype="float32", device="cpu") as clara:
        with pytest.raises(ValueError, match="give it the model's name"):
            ClaraRanker(model=clara).to_dict()


def pipeline_of(folder) -> Pipeline:
    """Ranker and generator on one model."""
    pipeline = Pipeline()
    pipeline.add_component("ranker", ClaraRanker(model=folder, top_k=2, **LOADING))
    pipeline.add_component("generator", ClaraGenerator(model=folder, generation_kwargs=SHORT, **LOADING))
    pipeline.connect("ranker.documents", "generator.documents")
    return pipeline


@pytest.mark.integration
def test_a_pipeline_goes_through_yaml_with_nothing_allowed(own_folder):
    pipeline = pipeline_of(own_folder)
    text = pipeline.dumps()
    again = Pipeline.loads(text)
    assert again == pipeline
    assert again.dumps() == text
    inputs = {"query": QUESTION, "documents": documents_of(TEXTS)}
    assert again.run(inputs) == pipeline.run(inputs)
    pipeline.close()
    again.close()
    assert copies(own_folder) == 0


def test_a_component_of_another_class_is_not_loaded():
    with pytest.raises(DeserializationError, match="can't be deserialized as 'ClaraRanker'"):
        ClaraRanker.from_dict(ClaraTextEmbedder().to_dict())
    with pytest.raises(DeserializationError, match="can't be deserialized as 'ClaraRanker'"):
        ClaraRanker.from_dict({"type": "clara_integrations.haystack.ClaraRanker", "init_parameters": {}})


# -- constructors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_constructor_loads_nothing_and_reads_no_secret(kind):
    made = kind(model="no/such-model", token=Secret.from_env_var("NO_SUCH_VARIABLE"))
    assert copies("no/such-model") == 0
    with pytest.raises(ValueError, match="NO_SUCH_VARIABLE"):
        made.warm_up()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_wrong_is_refused_at_construction(kind):
    with pytest.raises(ValueError, match=f"{kind.__name__}: device must be a ComponentDevice"):
        kind(device="cpu")
    with pytest.raises(ValueError, match="device must be a single device"):
        kind(device=ComponentDevice.from_multiple(DeviceMap({"": CPU.first_device._single_device})))
    with pytest.raises(TypeError, match="dtype must be a string"):
        kind(dtype=object())
    with pytest.raises(TypeError, match=f"{kind.__name__}: model must be a name, a folder or a Clara, got int"):
        kind(model=3)
    with pytest.raises(TypeError, match=f"{kind.__name__}: unknown model option 'promts'; did you mean 'prompts'"):
        kind(model_kwargs={"promts": 1})
    with pytest.raises(TypeError, match=f"{kind.__name__}: prompts of model_kwargs must be a plain value"):
        kind(model_kwargs={"prompts": object()})
    with pytest.raises(ValueError, match="must not hold dtype, token"):
        kind(model_kwargs={"dtype": "float32", "token": "hush"})


@pytest.mark.parametrize("kind", KINDS)
def test_what_says_which_model_it_is_cannot_be_assigned(kind):
    made = kind("clara-tiny")
    for name in COMMON:
        with pytest.raises(AttributeError, match=f"{kind.__name__}: {name} says which model is loaded"):
            setattr(made, name, "other")
    assert made.to_dict() == kind().to_dict()


def test_an_assigned_number_is_checked_when_it_runs():
    ranker, generator, embedder = ClaraRanker("nowhere"), ClaraGenerator("nowhere"), ClaraDocumentEmbedder("nowhere")
    ranker.top_k, generator.top_k, embedder.batch_size = 0, -1, True
    with pytest.raises(ValueError, match="ClaraRanker: top_k must be > 0, but got 0"):
        ranker.run(QUESTION, [])
    with pytest.raises(ValueError, match="ClaraGenerator: top_k must be > 0, but got -1"):
        generator.run(QUESTION, [])
    with pytest.raises(TypeError, match="ClaraDocumentEmbedder: batch_size must be a whole number, but got True"):
        embedder.run([])


# -- lifecycle --------------------------------------------------------------------------------------------------------


def run(component):
    """One call of any component."""
    if isinstance(component, ClaraTextEmbedder):
        return component.run(QUESTION)
    if isinstance(component, ClaraDocumentEmbedder):
        return component.run(documents_of(TEXTS))
    return component.run(QUESTION, documents_of(TEXTS))


@pytest.mark.parametrize("kind", KINDS)
def test_warm_up_and_close_any_number_of_times(kind, own_folder):
    extra = {"progress_bar": False} if kind is ClaraDocumentEmbedder else {}
    made = kind(model=own_folder, **LOADING, **extra)
    made.close()
    made.warm_up()
    held = made.clara
    made.warm_up()
    assert made.clara is held
    expected = run(made)
    made.close()
    made.close()
    assert copies(own_folder) == 0
    assert run(made) == expected
    asyncio.run(made.close_async())
    assert copies(own_folder) == 0
    asyncio.run(made.warm_up_async())
    asyncio.run(made.warm_up_async())
    assert copies(own_folder) == 1
    made.close()


def test_components_of_one_model_share_one_copy_that_the_last_close_frees(own_folder):
    made = [kind(model=own_folder, **LOADING) for kind in KINDS]
    for component in made:
        component.warm_up()
    assert len({id(component.clara.model) for component in made}) == 1
    assert copies(own_folder) == 1
    for component in made[:-1]:
        component.close()
        assert copies(own_folder) == 1
    made[-1].close()
    assert copies(own_folder) == 0


@pytest.mark.integration
def test_a_document_that_is_ranked_and_then_answered_from_is_compressed_once(own_folder, monkeypatch):
    """Though Haystack hands the generator deep copies of the ranker's documents."""
    pipeline = pipeline_of(own_folder)
    inputs = {"query": QUESTION, "documents": documents_of(TEXTS)}
    with encoded(monkeypatch) as counts:
        pipeline.run(inputs)
        assert counts == {"compressor": len(TEXTS), "query_reasoner": 1}
        pipeline.run(inputs)
        assert counts == {"compressor": len(TEXTS), "query_reasoner": 2}
    pipeline.close()


def test_a_model_that_was_handed_over_stays_open(own_folder):
    with Clara.load(own_folder, dtype="float32", device="cpu") as clara:
        ranker = ClaraRanker(model=clara)
        expected = clara.rank(QUESTION, TEXTS)
        found = ranker.run(QUESTION, documents_of(TEXTS))["documents"]
        assert [doc.score for doc in found] == [one.score for one in expected]
        ranker.close()
        assert clara.rank(QUESTION, TEXTS) == expected
        with pytest.raises(ValueError, match="ClaraRanker: dtype: a Clara that is loaded already takes no options"):
            ClaraRanker(model=clara, dtype="float32")
    with pytest.raises(ClaraError, match="closed"):
        ranker.run(QUESTION, documents_of(TEXTS))


@pytest.mark.parametrize("kind", KINDS)
def test_every_component_takes_a_loaded_model(kind, own_folder):
    with Clara.load(own_folder, dtype="float32", device="cpu") as clara:
        assert run(kind(clara)) == run(kind(str(own_folder), **LOADING))


# -- imports ----------------------------------------------------------------------------------------------------------

BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(name + " is not there", name=name)

sys.meta_path.insert(0, Blocked())
import clara_integrations.haystack as package
package.ClaraRanker(), package.ClaraGenerator(), package.ClaraTextEmbedder(), package.ClaraDocumentEmbedder()
package.ClaraRetriever(store="kept")
assert not {blocked!r} & set(sys.modules)
"""
TIMED = """
import sys, time
start = time.perf_counter()
import haystack, haystack.dataclasses
between = time.perf_counter()
import clara_integrations.haystack
ours = time.perf_counter() - between
print(between - start, ours)
models = {"clara_model.modeling.model", "clara_model.inference.clara", "transformers", "peft"}
assert not models & set(sys.modules), models & set(sys.modules)
"""


@pytest.mark.integration
def test_it_imports_without_torch_and_without_the_other_framework():
    """Haystack itself imports torch where it is installed; with torch out of reach, the components still come up."""
    code = BLOCKED.format(blocked={"torch", "transformers", "llama_index", "llama_index_core", "peft"})
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr


@pytest.mark.integration
def test_importing_it_takes_less_than_half_as_long_as_importing_haystack():
    found = subprocess.run([sys.executable, "-c", TIMED], capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    stock, ours = map(float, found.stdout.split())
    assert ours < 0.5 * stock
