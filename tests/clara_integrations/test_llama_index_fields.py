"""Fields of the LlamaIndex components: the model by position, assigned values checked, errors in the class's name."""

import pytest
from pydantic import ValidationError

from clara_integrations.llama_index import ClaraEmbedding, ClaraLLM, ClaraRerank

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
