"""The components' constructors are explicit, and none may miss an option that a model can be loaded with."""

import inspect
import re

import pytest

from clara_integrations.llama_index import ClaraEmbedding, ClaraLLM, ClaraRerank, ClaraRetriever
from clara_integrations.llama_index.component import ClaraComponent, Loading
from clara_model.checkpoint.options import NAMES
from clara_model.components.model_holder import LOAD_OPTIONS
from haystack_integrations.components.embedders.clara import ClaraDocumentEmbedder, ClaraTextEmbedder
from haystack_integrations.components.generators.clara import ClaraGenerator
from haystack_integrations.components.rankers.clara import ClaraRanker
from haystack_integrations.components.retrievers.clara import ClaraRetriever as HaystackRetriever

PER_CLARA = {"cache_bytes", "batch_tokens", "batch_size", "long_documents", "cold", "ranking", "expand", "store"}
"""Options of one `Clara` rather than of the model; which of them a component offers by name is its own business."""


@pytest.mark.parametrize("component", [ClaraRerank, ClaraLLM, ClaraEmbedding, ClaraRetriever])
def test_llama_index_fields_are_the_load_options(component):
    """All but a token, which is the hub's own business there."""
    fields = set(component.model_fields) & set(LOAD_OPTIONS)
    assert set(NAMES) - fields == {"token"}
    assert set(Loading.__annotations__) - PER_CLARA == set(NAMES) - {"token"}
    assert set(Loading.__annotations__) == set(ClaraComponent.model_fields) & set(LOAD_OPTIONS)


HAYSTACK = [ClaraRanker, ClaraGenerator, ClaraTextEmbedder, ClaraDocumentEmbedder, HaystackRetriever]


@pytest.mark.parametrize("component", HAYSTACK)
def test_haystack_arguments_and_model_kwargs_are_the_load_options(component):
    named = set(inspect.signature(component.__init__).parameters)
    told = set(re.findall("``([a-z_]+)``", ClaraRanker.__init__.__doc__.partition("model_kwargs:")[2]))
    assert set(NAMES) <= named | told, "named in the constructor, or told to be among model_kwargs"
    assert told & set(LOAD_OPTIONS) >= set(LOAD_OPTIONS) - named - {"batch_size"}
