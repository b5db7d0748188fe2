"""What both frameworks' components stand on: the holder of a model, the checks, streams in asyncio."""

import asyncio
import copy
import inspect
import pickle
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing

import pytest
from small_model import QUESTIONS, TEXTS

from clara_model.components import checks
from clara_model.components.checks import check_generation, check_top
from clara_model.components.items import best_copies, in_batches
from clara_model.components.model_holder import ModelHolder
from clara_model.components.streams import read_stream
from clara_model.inference.clara import Clara
from clara_model.inference.loader import loaded_models

OPTIONS = {"dtype": "float32", "device": "cpu"}


def test_the_constants_are_in_step():
    from clara_model.modeling.embedding import DIMENSIONS

    assert checks.DEFAULT_MODEL == inspect.signature(Clara.load).parameters["name"].default
    assert checks.DEFAULT_DIMENSIONS == DIMENSIONS


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"max_tokens": 3},
            "ClaraGenerator: unknown generation argument 'max_tokens'; did you mean 'max_new_tokens'? ",
        ),
        ({"zzz": 3}, "ClaraGenerator: unknown generation argument 'zzz'; known are max_new_tokens, stop, "),
    ],
)
def test_an_unknown_name_is_told_its_nearest_and_all(given, said):
    with pytest.raises(TypeError) as error:
        check_generation(given, "ClaraGenerator")
    assert str(error.value).startswith(said)
    assert str(error.value).endswith("early_stopping, seed")


@pytest.mark.parametrize(
    ("package", "framework", "extra"),
    [("haystack", "haystack", "haystack"), ("llama_index", "llama_index", "llama-index")],
)
def test_a_missing_framework_names_its_extra(package, framework, extra):
    code = f"import sys; sys.modules[{framework!r}] = None; import clara_integrations.{package}"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = found.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ModuleNotFoundError: {framework}")
    assert f"pip install '.[{extra}]'" in last


@pytest.fixture
def own_folder(tiny_clara_folder, tmp_path):
    """A checkpoint that no other test has loaded."""
    return shutil.copytree(tiny_clara_folder, tmp_path / "checkpoint")


def test_many_threads_that_ask_a_holder_get_one_model(own_folder):
    holder = ModelHolder(own_folder, OPTIONS)
    assert not holder.loaded
    with ThreadPoolExecutor(16) as pool:
        found = set(pool.map(lambda _: holder.get(), range(16)))
    assert len(found) == 1 and holder.loaded
    holder.close()
    assert str(own_folder) not in loaded_models()


def test_copies_and_pickles_of_a_holder_load_for_themselves(own_folder):
    holder = ModelHolder(own_folder, OPTIONS)
    model = holder.get().model
    for made in (copy.copy(holder), copy.deepcopy(holder), pickle.loads(pickle.dumps(holder))):
        assert not made.loaded
        assert made.get().model is model
        made.close()
    assert holder.get().model is model
    del model
    holder.close()
    assert str(own_folder) not in loaded_models()


def test_the_best_copy_counts_where_the_first_one_stood():
    items = [("a", None, 0), ("b", 0.1, 1), ("a", -5.0, 2), ("a", -5.0, 3), ("b", None, 4)]
    found = best_copies(items, lambda item: item[0], lambda item: item[1])
    assert [item[2] for item in found] == [2, 1]


def test_batches():
    assert list(in_batches([1, 2, 3], 2)) == [[1, 2], [3]]
    assert list(in_batches([], 2)) == []


@pytest.mark.parametrize("value", [True, 1.0, "1", None])
def test_a_number_of_documents_is_a_whole_number(value):
    with pytest.raises(TypeError, match="ClaraRerank: top_n must be a whole number"):
        check_top(value, "top_n", "ClaraRerank")


def test_reading_a_stream_and_leaving_one_early(tiny_clara_folder):
    with Clara.load(tiny_clara_folder, **OPTIONS) as clara:

        async def read():
            stream = clara.stream(QUESTIONS[0], TEXTS, max_new_tokens=8)
            whole = [piece async for piece in read_stream(stream)]
            assert "".join(whole) == stream.answer.text
            endless = clara.stream(QUESTIONS[0], TEXTS, max_new_tokens=1500)
            async with aclosing(read_stream(endless)) as pieces:
                assert await anext(pieces) == whole[0]
            waiting = asyncio.create_task(anext(read_stream(clara.stream(QUESTIONS[0], TEXTS, max_new_tokens=1500))))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

        asyncio.run(read())
        for thread in threading.enumerate():
            if thread.name.startswith(("clara-stream", "clara-read", "clara-close")):
                thread.join(timeout=30)
                assert not thread.is_alive()


def test_what_fails_while_a_stream_is_read_is_raised_to_its_reader(tiny_clara_folder):
    with Clara.load(tiny_clara_folder, **OPTIONS) as clara:

        async def read():
            stream = clara.stream(QUESTIONS[0], [text * 50 for text in TEXTS] * 200, 900, rerank=False)
            return [piece async for piece in read_stream(stream)]

        with pytest.raises(ValueError, match="slots"):
            asyncio.run(read())
