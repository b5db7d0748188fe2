"""The components' constructors are explicit, and none may miss an option that a model can be loaded with."""

import inspect
import re

import pytest

from clara_integrations.llama_index import ClaraEmbedding, ClaraLLM, ClaraRerank, ClaraRetriever
from clara_integrations.llama_index.component import Loading
from clara_model.checkpoint.options import LOAD_OPTIONS, NAMES
from haystack_integrations.components.embedders.clara import ClaraDocumentEmbedder, ClaraTextEmbedder
from haystack_integrations.components.generators.clara import ClaraGenerator
from haystack_integrations.components.rankers.clara import ClaraRanker
from haystack_integrations.components.retrievers.clara import ClaraRetriever as HaystackRetriever


@pytest.mark.parametrize("component", [ClaraRerank, ClaraLLM, ClaraEmbedding, ClaraRetriever])
def test_llama_index_fields_are_the_load_options(component):
    """All but a token, which is the hub's own business there."""
    assert set(component.model_fields) & set(LOAD_OPTIONS) == set(LOAD_OPTIONS) - {"token"}
    assert set(Loading.__annotations__) == set(LOAD_OPTIONS) - {"token"}


HAYSTACK = [ClaraRanker, ClaraGenerator, ClaraTextEmbedder, ClaraDocumentEmbedder, HaystackRetriever]


@pytest.mark.parametrize("component", HAYSTACK)
def test_haystack_arguments_and_model_kwargs_are_the_load_options(component):
    named = set(inspect.signature(component.__init__).parameters)
    told = set(re.findall("``([a-z_]+)``", ClaraRanker.__init__.__doc__.partition("model_kwargs:")[2]))
    assert set(NAMES) <= named | told, "named in the constructor, or told to be among model_kwargs"
    assert told & set(LOAD_OPTIONS) >= set(LOAD_OPTIONS) - named - {"batch_size"}
