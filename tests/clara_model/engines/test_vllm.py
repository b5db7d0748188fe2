"""An engine over HTTP: the same ids as the model's own loop, many at once, and one sentence for whatever fails."""

import re
import threading
import time
from dataclasses import replace

import pytest
import torch
from stub_engine import choice, stub_engine

from clara_model.checkpoint.certainty import Certainty
from clara_model.checkpoint.export import export
from clara_model.engines.vllm import VllmEngine
from clara_model.errors import ClaraError, EngineError
from clara_model.validation import Generation

QUESTIONS = ["Who catalogued the tide clock?", "Where is the paper museum?", "Who rebuilt the mill?", "How many came?"]
TEXTS = ["Ada Fenwick catalogued the tide clock.", "The paper museum is in Cold Harbour.", "About 905 came."]


@pytest.fixture(scope="module")
def folder(loaded, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "generator"
    export(loaded.base, loaded.tokens.tokenizer, out)
    return out


@pytest.fixture
def stub(folder):
    with stub_engine(folder) as server:
        yield server


@pytest.fixture
def engine(stub, loaded):
    made = VllmEngine(stub.url, loaded, timeout=20)
    yield made
    made.close()


def prompts(model, questions=QUESTIONS, texts=TEXTS):
    blocks = model.compress(texts).vectors
    ids = [model.tokens.prompt_ids(model.config.prompts.answer, len(texts), question) for question in questions]
    return ids, [blocks] * len(questions)


class Collected:
    """A reader that keeps the ids, and leaves after some."""

    def __init__(self, leave_after=None):
        self.ids, self.leave_after, self.gone = [], leave_after, False

    def put(self, value):
        self.check()
        self.ids += value.tolist()
        self.gone = self.leave_after is not None and len(self.ids) >= self.leave_after

    def check(self):
        if self.gone:
            raise InterruptedError("the reader has left")


@pytest.mark.parametrize("stop", [(), ("e",)])
def test_ids_texts_counts_and_reasons_are_those_of_the_models_own_loop(loaded, engine, stop):
    ids, blocks = prompts(loaded)
    own = [loaded.generate_ids([i], [b], max_new_tokens=12, stop=stop) for i, b in zip(ids, blocks, strict=True)]
    made = engine.write(loaded, ids, blocks, Generation.check(12, stop, {}))
    for name in ("texts", "prompt_tokens", "completion_tokens", "finish_reasons"):
        assert getattr(made, name) == [getattr(one, name)[0] for one in own]
    assert made.confidences == pytest.approx([one.confidences[0] for one in own], abs=1e-5)
    for row, one in zip(made.ids, own, strict=True):
        assert row[: one.ids.shape[1]].tolist() == one.ids[0].tolist()


@pytest.mark.parametrize("bias", [0.0, -30.0])
def test_the_confidence_of_a_generator_that_says_when_nothing_answers(loaded, engine, stub, monkeypatch, bias):
    prompt = replace(loaded.config.prompts, no_answer="Who", certainty=Certainty(bias=bias))
    monkeypatch.setattr(loaded, "config", replace(loaded.config, prompts=prompt))
    ids, blocks = prompts(loaded)
    own = [loaded.generate_ids([i], [b], max_new_tokens=2) for i, b in zip(ids, blocks, strict=True)]
    monkeypatch.setattr("clara_model.engines.vllm._LIKELIEST", 400)  # all of the vocabulary: it is a random model
    for reader in (None, Collected()):
        some = slice(0, 1 if reader else None)
        made = engine.write(loaded, ids[some], blocks[some], Generation(2), reader)
        assert made.confidences == pytest.approx([one.confidences[0] for one in own][some], abs=1e-5)
        assert made.ids.tolist() == torch.cat([one.ids for one in own])[some].tolist()


def test_a_stream_gives_each_id_as_it_comes(loaded, engine):
    ids, blocks = prompts(loaded)
    own = loaded.generate_ids(ids[:1], blocks[:1], max_new_tokens=12)
    reader = Collected()
    made = engine.write(loaded, ids[:1], blocks[:1], Generation(12), reader)
    assert reader.ids == own.ids[0].tolist() == made.ids[0].tolist()
    assert made.texts == own.texts


def test_a_prompt_without_slots_goes_as_ids_that_no_text_can_forge(loaded, stub, engine):
    ids = loaded.tokens.chat_ids([{"role": "user", "content": "say <MEM0> and </s>"}])
    with loaded.roles.acting_as("generator"):
        own = loaded.generate_ids([ids], [], max_new_tokens=6)
    made = engine.write(loaded, [ids], [torch.empty(0)], Generation(6))
    assert stub.bodies[-1]["prompt"] == ids and not set(ids) & set(loaded.tokens.memory_ids)
    assert made.ids.tolist() == own.ids.tolist()


def test_prompts_of_one_call_and_callers_are_asked_for_at_once(loaded, stub, engine):
    ids, blocks = prompts(loaded)
    stub.before = threading.Barrier(3 * len(ids), timeout=30).wait  # nobody is answered before all have asked
    made, how = {}, Generation(3)
    expected = [loaded.generate_ids([i], [b], max_new_tokens=3).texts[0] for i, b in zip(ids, blocks, strict=True)]

    def ask(number):
        made[number] = engine.write(loaded, ids, blocks, how).texts

    callers = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert list(made.values()) == [expected] * 3


def test_a_reader_that_leaves_ends_the_request(loaded, stub, engine):
    stub.seconds = 0.1
    ids, blocks = prompts(loaded)
    with pytest.raises(InterruptedError):
        engine.write(loaded, ids[:1], blocks[:1], Generation(200), Collected(leave_after=2))
    assert stub.left.wait(10), "the server goes on writing for nobody"


def test_a_reader_may_leave_before_the_first_piece(loaded, stub, engine):
    stub.fault = lambda handler, body: time.sleep(5)
    reader, ids_blocks = Collected(), prompts(loaded)
    threading.Timer(0.2, lambda: setattr(reader, "gone", True)).start()
    start = time.monotonic()
    with pytest.raises(InterruptedError):
        engine.write(loaded, ids_blocks[0][:1], ids_blocks[1][:1], Generation(5), reader)
    assert time.monotonic() - start < 3


def test_sampling_goes_by_vllms_names_and_greedy_needs_none(loaded, stub, engine):
    ids, blocks = prompts(loaded)
    how = Generation.check(5, ("x",), {"temperature": 0.7, "top_p": 0.9, "min_p": 0.1, "seed": 4, "min_new_tokens": 2})
    engine.write(loaded, ids[:1], blocks[:1], how)
    sent = {name: value for name, value in stub.bodies[-1].items() if name != "prompt_embeds"}
    assert sent == {
        **{"model": engine.name, "max_tokens": 5, "return_token_ids": True, "logprobs": 0, "temperature": 0.7},
        **{"top_p": 0.9},
        **{"top_k": 50, "min_p": 0.1, "seed": 4, "stop": ["x"], "min_tokens": 2},
    }  # transformers draws from the best 50 by default
    engine.write(loaded, ids[:1], blocks[:1], Generation(5))
    assert stub.bodies[-1]["temperature"] == 0 and "top_k" not in stub.bodies[-1]


@pytest.mark.parametrize(
    "sampling", [{"repetition_penalty": 1.2}, {"no_repeat_ngram_size": 3}, {"num_beams": 2}, {"typical_p": 0.5}]
)
def test_what_ends_or_misleads_an_engine_is_refused_before_it_is_sent(loaded, stub, engine, sampling):
    ids, blocks = prompts(loaded)
    how = Generation.check(5, (), sampling | {"do_sample": True})
    with pytest.raises(ClaraError, match=f"{next(iter(sampling))} is not possible with an engine"):
        engine.write(loaded, ids[:1], blocks[:1], how)
    assert stub.bodies == []
    engine.write(loaded, ids[:1], blocks[:1], Generation.check(2, (), {"repetition_penalty": 1.0}))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_latents_that_are_no_numbers_are_not_sent(loaded, stub, engine, value):
    ids, blocks = prompts(loaded)
    bad = blocks[0].clone()
    bad[1, 0, 3] = value
    with pytest.raises(ClaraError, match="hold NaN or infinity"):
        engine.write(loaded, ids[:1], [bad], Generation(5))
    assert stub.bodies == []


def test_another_generator_under_the_address_is_refused_with_both_names(folder, loaded, other, stub, engine):
    with stub_engine(folder) as running:
        with pytest.raises(EngineError) as refused:
            VllmEngine(running.url, other)
    message = str(refused.value)
    assert running.name in message and len(set(re.findall(r"clara-[0-9a-f]{16}", message))) == 2
    assert "clara export" in message and "--served-model-name" in message
    stub.name = "clara-0000000000000000"  # the server was started anew with something else
    ids, blocks = prompts(loaded)
    with pytest.raises(
        EngineError, match=f"serves clara-0000000000000000, and this checkpoint's generator is {engine.name}"
    ):
        engine.write(loaded, ids[:1], blocks[:1], Generation(5))


def test_nobody_at_the_address_is_one_sentence_with_the_command(loaded, stub, engine):
    with pytest.raises(
        EngineError, match=r"no engine answers at http://127\.0\.0\.1:9 .*start it with: python -m vllm"
    ) as error:
        VllmEngine("http://127.0.0.1:9/v1/", loaded)
    assert "--port 9" in str(error.value) and "\n" not in str(error.value)
    stub.http.shutdown()
    stub.http.server_close()
    ids, blocks = prompts(loaded)
    engine._start_anew()  # without its open connections
    with pytest.raises(EngineError, match="no engine answers"):
        engine.write(loaded, ids[:1], blocks[:1], Generation(5))


@pytest.mark.parametrize("url", ["localhost:8000", "", "ftp://host", "http://", None])
def test_an_address_is_checked(loaded, url):
    with pytest.raises(ValueError, match="engine_url must be an address such as"):
        VllmEngine(url, loaded)


def test_a_key_goes_with_every_request(folder, loaded):
    with stub_engine(folder, key="secret") as running:
        with pytest.raises(EngineError, match="wants another key; give its --api-key as engine_api_key"):
            VllmEngine(running.url, loaded, api_key="other")
        engine = VllmEngine(f"{running.url}/v1", loaded, api_key="secret")
        ids, blocks = prompts(loaded)
        assert engine.write(loaded, ids[:1], blocks[:1], Generation(5)).completion_tokens


def says(status, values):
    return lambda handler, body: handler.reply(status, values)


def cut(handler, body):
    handler.start_stream()
    handler.piece({"choices": [choice([7], [-0.1], [{}], None)]})
    handler.close_connection = True


def ended_early(handler, body):
    handler.start_stream()
    handler.piece({"choices": [choice([7], [-0.1], [{}], None)]})
    handler.end_stream()


def failed_in_the_middle(handler, body):
    handler.start_stream()
    handler.piece({"choices": [choice([7], [-0.1], [{}], None)]})
    handler.piece({"error": {"message": "EngineCore encountered an issue", "code": 500}})
    handler.end_stream()


@pytest.mark.parametrize(
    ("fault", "streamed", "message"),
    [
        (says(400, {"error": {"message": "It is\ntoo long"}}), False, "refused the prompt: It is too long"),
        (says(400, {"error": {"message": "It is too long"}}), True, "refused the prompt: It is too long"),
        (says(500, {"error": {"message": "EngineDeadError"}}), False, "failed with 500: EngineDeadError"),
        (says(503, b"busy"), False, "failed with 503: busy"),
        (says(200, b"<html>"), False, "is no vLLM server: '<html>'"),
        (says(200, {"choices": [{"token_ids": [], "finish_reason": "stop"}]}), False, "has written nothing"),
        (says(200, {"choices": [{"text": "hello", "finish_reason": "stop"}]}), False, "gives no token ids or"),
        (says(200, {"choices": [{"token_ids": [4], "finish_reason": "abort"}]}), False, "an answer with 'abort'"),
        (cut, True, "broke off"),
        (ended_early, True, "broke off in the middle of an answer"),
        (failed_in_the_middle, True, "failed: EngineCore encountered an issue"),
    ],
)  # fmt: skip
def test_a_fault_of_the_server_is_one_sentence(loaded, stub, engine, fault, streamed, message):
    stub.fault = fault
    ids, blocks = prompts(loaded)
    with pytest.raises(EngineError, match=re.escape(message)) as error:
        engine.write(loaded, ids[:1], blocks[:1], Generation(5), Collected() if streamed else None)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_server_that_is_slow_is_waited_for_no_longer_than_asked(loaded, stub, streamed):
    stub.fault = lambda handler, body: time.sleep(3)
    engine = VllmEngine(stub.url, loaded, timeout=0.3)
    ids, blocks = prompts(loaded)
    with pytest.raises(EngineError, match=r"gave no answer within 0\.3 s; raise engine_timeout"):
        engine.write(loaded, ids[:1], blocks[:1], Generation(5), Collected() if streamed else None)


def test_one_fault_ends_the_other_prompts_of_the_call(loaded, stub, engine):
    def fault(handler, body):
        if len(stub.bodies) == 1:
            return handler.reply(500, {"error": {"message": "first"}})
        time.sleep(10)

    stub.fault = fault
    ids, blocks = prompts(loaded)
    start = time.monotonic()
    with pytest.raises(EngineError, match="failed with 500: first"):
        engine.write(loaded, ids, blocks, Generation(5))
    assert time.monotonic() - start < 5


def test_a_prompt_beyond_what_the_base_reads_is_refused_here(loaded, stub, engine):
    with pytest.raises(ClaraError, match="the base model was made for 2048"):
        engine.write(loaded, [[5] * 3000], [torch.empty(0)], Generation(5))
    assert stub.bodies == []
