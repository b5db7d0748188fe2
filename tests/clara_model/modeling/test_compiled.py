"""Decoding from recorded graphs, on the CPU: the compiled path is forced, and compiles to what it would run anyway."""

import copy
import logging
import threading
from pathlib import Path

import pytest
import small_model
import torch
from transformers.generation import CompileConfig

from clara_model import Clara, ClaraModel
from clara_model.errors import ClaraError
from clara_model.modeling import compiled, merged
from clara_model.modeling.compiled import Compiled


def forced(backend: object = "eager") -> CompileConfig:
    config = CompileConfig(backend=backend, mode=None, fullgraph=False)
    config._compile_all_devices = True
    return config


@pytest.fixture
def compiling(model: ClaraModel, monkeypatch: pytest.MonkeyPatch) -> ClaraModel:
    """Without the decoder that is for CPUs."""
    torch._dynamo.reset()
    monkeypatch.setattr(merged, "fits", lambda base: False)
    model.compiled = Compiled(forced())
    return model


def written(model: ClaraModel, count: int, **options: object) -> list[str]:
    latents = [model.compress(small_model.TEXTS[start : start + 2]) for start in range(count)]
    questions = (small_model.QUESTIONS * count)[:count]
    torch.manual_seed(3)
    made = model.generate(questions, latents, **{"max_new_tokens": 10, **options})
    assert len(made.ids) == len(made.texts) == count
    return made.texts


def test_loading_records_in_the_thread_that_runs_the_passes(tiny_clara_folder: Path, monkeypatch: pytest.MonkeyPatch):
    """On a CPU nothing is recorded; which thread has called what would be is the same."""
    threads: list[tuple[str, str]] = []
    calls = ("record_usual_lengths", "encode_rows")
    for name in calls:
        work = getattr(ClaraModel, name)

        def noted(self, *args, _name=name, _work=work, **options):
            threads.append((_name, threading.current_thread().name))
            return _work(self, *args, **options)

        monkeypatch.setattr(ClaraModel, name, noted)
    monkeypatch.setattr(ClaraModel, "compile_decoding", lambda self: setattr(self, "compiled", Compiled(forced())))
    with Clara.load(tiny_clara_folder, decoding="compiled", dtype="float32", device="cpu") as clara:
        assert [name for name, _ in threads] == [*calls]
        clara.rank("Who came?", small_model.TEXTS)
    assert {thread for _, thread in threads} == {"clara-model"}


def test_the_same_tokens_from_few_graphs(compiling: ClaraModel):
    plain = copy.deepcopy(compiling)
    plain.compiled = None
    for count in (1, 3, 4, 3, 1):
        assert written(compiling, count) == written(plain, count)
    assert written(compiling, 1, stop=["e"]) == written(plain, 1, stop=["e"])
    assert written(compiling, 2, do_sample=True) == written(plain, 2, do_sample=True)
    assert list(compiling.compiled._caches) == [(4, 256), (1, 256), (2, 256)]
    assert written(compiling, 3, num_beams=2) == written(plain, 3, num_beams=2)
    assert written(compiling, 3, do_sample=True) == written(plain, 3, do_sample=True), "nobody else draws"
    assert len(compiling.compiled._caches) == 3


def test_a_graph_is_recorded_once_for_its_size(compiling: ClaraModel, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiled, "SHAPES", 1)
    runs: list[int] = []

    def backend(graph: torch.fx.GraphModule, example: object) -> object:
        runs.append(len(runs))
        return graph.forward

    compiling.compiled = Compiled(forced(backend))
    written(compiling, 1)
    first = len(runs)
    assert first
    written(compiling, 1)
    written(compiling, 1, max_new_tokens=30)
    assert len(runs) == first
    written(compiling, 2)
    assert len(runs) > first and list(compiling.compiled._caches) == [(2, 256)]


def test_what_cannot_be_compiled_is_said_once_and_goes_on(compiling: ClaraModel, caplog: pytest.LogCaptureFixture):
    def broken(graph: torch.fx.GraphModule, example: object) -> object:
        raise RuntimeError("no compiler here")

    plain = copy.deepcopy(compiling)
    plain.compiled, compiling.compiled = None, Compiled(forced(broken))
    with caplog.at_level(logging.WARNING, logger=compiled.__name__):
        for count in (1, 3, 1):
            assert written(compiling, count) == written(plain, count)
    assert len(caplog.records) == 1 and "no compiler here" in caplog.text and "\n" not in caplog.messages[0]


def test_a_cpu_is_refused(tiny_clara_folder: Path):
    with pytest.raises(ClaraError, match="decoding 'compiled' needs a GPU, the model is on cpu; use 'quick' there"):
        ClaraModel.from_pretrained(tiny_clara_folder, device="cpu", decoding="compiled")


def encoded(model: ClaraModel, question: str) -> torch.Tensor:
    return model.encode_rows("query_reasoner", [model.tokens.document_ids(question)])


def test_a_question_of_its_own_is_encoded_by_one_graph_for_its_length(
    compiling: ClaraModel, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(compiled, "STEP", 32)
    runs: list[torch.Size] = []

    def backend(graph: torch.fx.GraphModule, example: list[torch.Tensor]) -> object:
        runs.append(example[0].shape)
        return graph.forward

    plain = copy.deepcopy(compiling)
    plain.compiled, compiling.compiled = None, Compiled(forced(backend))
    memory = compiling.config.memory_tokens
    shorter, longer = "Who came?", " ".join(["Who came to the mill that evening?"] * 6)
    lengths = [len(compiling.tokens.document_ids(question)) for question in (shorter, longer)]
    assert lengths[0] <= compiled.STEP < lengths[1] <= compiled.LONGEST and memory < lengths[0]
    for question in (shorter, longer, *small_model.QUESTIONS, longer):
        torch.testing.assert_close(encoded(compiling, question), encoded(plain, question), atol=2e-5, rtol=1e-4)
    assert len(runs) == 2, "one graph for each step of lengths, whole"
    documents = compiling.compress(small_model.TEXTS).vectors
    assert torch.equal(documents, plain.compress(small_model.TEXTS).vectors), "what is kept is never compiled"
    assert len(runs) == 2


def test_a_question_that_cannot_be_compiled_is_encoded_all_the_same(
    compiling: ClaraModel, caplog: pytest.LogCaptureFixture
):
    def broken(graph: torch.fx.GraphModule, example: object) -> object:
        raise RuntimeError("no compiler here")

    plain = copy.deepcopy(compiling)
    plain.compiled, compiling.compiled = None, Compiled(forced(broken))
    with caplog.at_level(logging.WARNING, logger=compiled.__name__):
        for question in small_model.QUESTIONS:
            assert torch.equal(encoded(compiling, question), encoded(plain, question))
    assert len(caplog.records) == 1 and "no compiler here" in caplog.text


def test_an_error_that_is_not_the_compilers_is_told(compiling: ClaraModel, monkeypatch: pytest.MonkeyPatch):
    def ends(*_: object, **__: object) -> object:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(compiling.compiled, "_decoder", ends)
    with pytest.raises(RuntimeError, match="out of memory"):
        encoded(compiling, "Who came?")
