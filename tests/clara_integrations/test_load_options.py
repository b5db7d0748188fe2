"""The components' constructors are explicit, and none may miss an option that a model can be loaded with."""

import inspect

import pytest

from clara_integrations.llama_index import ClaraEmbedding, ClaraLLM, ClaraRerank, ClaraRetriever
from clara_model.checkpoint.options import LOAD_OPTIONS
from haystack_integrations.components.embedders.clara import ClaraDocumentEmbedder, ClaraTextEmbedder
from haystack_integrations.components.generators.clara import ClaraGenerator
from haystack_integrations.components.rankers.clara import ClaraRanker
from haystack_integrations.components.retrievers.clara import ClaraRetriever as HaystackRetriever


@pytest.mark.parametrize("component", [ClaraRerank, ClaraLLM, ClaraEmbedding, ClaraRetriever])
def test_llama_index_fields_are_the_load_options(component):
    """All but a token, which is the hub's own business there."""
    assert set(component.model_fields) & set(LOAD_OPTIONS) == set(LOAD_OPTIONS) - {"token"}


HAYSTACK = [ClaraRanker, ClaraGenerator, ClaraTextEmbedder, ClaraDocumentEmbedder, HaystackRetriever]


@pytest.mark.parametrize("component", HAYSTACK)
def test_haystack_components_take_every_load_option_by_name_or_among_model_kwargs(component):
    named = set(inspect.signature(component.__init__).parameters)
    plain = {name: "auto" for name in LOAD_OPTIONS if name not in named}
    assert component(store="a folder", model_kwargs=plain).model_kwargs == plain
