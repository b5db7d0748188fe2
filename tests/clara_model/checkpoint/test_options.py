"""The one list of options, and every place that must go by it."""

import re
import subprocess
import sys
from dataclasses import fields, replace

import pytest
import torch

from clara_model.checkpoint.devices import DTYPES
from clara_model.checkpoint.options import GENERATION, ClaraKeywords, ClaraOptions, LoadKeywords, LoadOptions
from clara_model.checkpoint.prompts import PromptSet
from clara_model.cli.main import _parser
from clara_model.inference.clara import Clara
from clara_model.validation import SAMPLING


@pytest.mark.parametrize(("named", "kind"), [(LoadKeywords, LoadOptions), (ClaraKeywords, ClaraOptions)])
def test_the_keywords_are_the_options(named, kind):
    keywords = {name: found.__forward_arg__ for name, found in named.__annotations__.items()}
    assert keywords == {option.name: option.type for option in fields(kind)}


def test_what_says_how_to_write_is_known_where_it_is_checked():
    assert GENERATION == ("max_new_tokens", "stop", "copy", *SAMPLING)
    assert re.findall("``([a-z_]+)``", Clara.answer.__doc__.partition("**generation:")[2]) == [*GENERATION]


def test_a_model_in_memory_takes_no_load_options(loaded):
    with pytest.raises(TypeError, match="dtype"):
        Clara(loaded, dtype="float32")


def test_the_command_takes_every_float_type():
    for dtype in DTYPES:
        assert _parser().parse_args(["info", "--dtype", dtype]).dtype == dtype


def test_resolved_options_that_mean_the_same_are_equal():
    one = LoadOptions(dtype="float32", device="cpu", token="secret").resolved()
    other = LoadOptions(dtype=torch.float32, device=torch.device("cpu"), attn_implementation="sdpa").resolved()
    assert one == other and hash(one) == hash(other) and one.token == "secret"
    assert "secret" not in repr(one)
    assert one != replace(one, prompts=PromptSet())
    assert one.resolved() == one


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"dtype": "float32"}, "exact"),
        ({"dtype": "bfloat16"}, "quick"),
        ({}, "quick"),
        ({"decoding": "exact"}, "exact"),
    ],
    ids=str,
)
def test_decoding_is_quick_unless_float32_is_asked_for(asked, found):
    resolved = LoadOptions(device="cpu", **asked).resolved()
    assert resolved.decoding == found == resolved.resolved().decoding


def test_an_unknown_way_of_decoding_is_refused():
    with pytest.raises(ValueError, match="decoding must be one of quick, exact, compiled, got 'fast'"):
        LoadOptions(decoding="fast").resolved()


def test_naming_options_loads_no_torch():
    code = "import sys, clara_model.checkpoint.options; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
