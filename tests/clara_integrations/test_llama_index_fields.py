"""Fields of the LlamaIndex components: the model by position, assigned values checked, errors in the class's name."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import TextNode
from pydantic import ValidationError

from clara_integrations.llama_index import ClaraEmbedding, ClaraLLM, ClaraRerank, ClaraSynthesizer

CLARA_TESTS = Path(__file__).parents[1] / "clara_model"
KINDS = [ClaraRerank, ClaraEmbedding, ClaraLLM]


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_goes_by_position_too(kind):
    assert kind("some/checkpoint").to_dict() == kind(model="some/checkpoint").to_dict()
    assert kind.from_dict(kind("some/checkpoint", device="cpu").to_dict()).checkpoint == "some/checkpoint"
    with pytest.raises(TypeError, match="multiple values for argument 'model'"):
        kind("some/checkpoint", model="other")


@pytest.mark.parametrize("kind", KINDS)
def test_what_says_which_model_it_is_cannot_be_assigned(kind):
    made = kind("nowhere")
    for name in ("model", "subfolder", "device", "dtype"):
        with pytest.raises(ValidationError, match=kind.__name__):
            setattr(made, name, "cpu")
    assert made.to_dict() == kind("nowhere").to_dict()


@pytest.mark.parametrize(
    ("made", "name", "wrong", "right"),
    [
        (ClaraRerank("nowhere"), "top_n", 0, 3),
        (ClaraRerank("nowhere"), "metadata_mode", "some", "llm"),
        (ClaraLLM("nowhere"), "max_new_tokens", -1, 5),
        (ClaraEmbedding("nowhere"), "embed_batch_size", 0, 8),
        (ClaraEmbedding("nowhere"), "model_name", "other", None),
    ],
)
def test_an_assigned_value_is_checked(made, name, wrong, right):
    before, holder = getattr(made, name), made._holder
    with pytest.raises(ValidationError, match=type(made).__name__):
        setattr(made, name, wrong)
    assert getattr(made, name) == before
    if right is not None:
        setattr(made, name, right)
        assert getattr(made, name) == right
    assert made._holder is holder


def test_unknown_generation_arguments_are_refused_with_the_nearest():
    with pytest.raises(TypeError, match=r"^ClaraLLM: unknown generation argument 'max_token'; did you mean 'max_new"):
        ClaraLLM("nowhere", generate_kwargs={"max_token": 3})
    made = ClaraLLM("nowhere")
    with pytest.raises(TypeError, match=r"^ClaraLLM: unknown generation argument 'seeds'; did you mean 'seed'"):
        made.generate_kwargs = {"seeds": 3}


def test_an_event_of_a_model_that_is_not_loaded_does_not_load_it():
    made = ClaraLLM("nowhere", context_window=100)
    assert made.to_payload()["model_name"] == "nowhere"
    assert not made._holder.loaded


@pytest.mark.parametrize("kind", [*KINDS, ClaraSynthesizer])
def test_a_component_of_a_loaded_clara_never_comes_back_as_another_model(kind, clara):
    made = kind(clara)
    with pytest.raises(ValueError, match="given a loaded Clara cannot be saved; give it the model's name"):
        pickle.dumps(made)
    for copied in (made, clara):
        with pytest.raises(ValueError, match="a loaded Clara cannot be copied or sent to another process"):
            copy.deepcopy(copied)
    if kind is not ClaraSynthesizer:
        named = kind("some/checkpoint")
        assert pickle.loads(pickle.dumps(named)).model == copy.deepcopy(named).model == "some/checkpoint"


def test_an_ingestion_pipeline_of_two_processes_refuses_a_loaded_clara(clara):
    pipeline = IngestionPipeline(transformations=[ClaraEmbedding(model=clara)])
    with pytest.raises(ValueError, match="a ClaraEmbedding that was given a loaded Clara cannot be saved"):
        pipeline.run(nodes=[TextNode(text="one"), TextNode(text="two")], num_workers=2)


@pytest.mark.slow
@pytest.mark.skipif(not __debug__, reason="is run by the test itself")
def test_nothing_that_a_user_can_do_is_guarded_by_an_assert():
    """pytest evaluates the asserts of tests without `assert` statements, so they hold under -O too."""
    files = [__file__, CLARA_TESTS / "test_validation.py"]
    done = subprocess.run(
        [sys.executable, "-O", "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", *files],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
