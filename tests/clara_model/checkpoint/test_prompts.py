"""Prompts: this project's wording, JSON files, and the constants of a published modeling file, never executed."""

import json
import warnings
from pathlib import Path

import pytest

from clara_model.checkpoint.prompts import Prompt, PromptSet, from_folder, from_source
from clara_model.errors import ClaraError

MODELING = r'''
import os
open(os.environ["CLARA_TEST_WITNESS"], "w").close()
raise RuntimeError("this file must never be run")

COLOURS = ["red", "blue"]
WORDINGS = [
    'Text: {docs} again, please:',
    "Say \"{docs}\" otherwise:\n",
]

class Model:
    def _pairs(self, docs, query, answer):
        """Pairs."""
        prompt_system = 'Write pairs.'
        prompt_user = f"Background:\n{docs}"
        user = prompt_user.replace(':\ ', ': ')
        return user

    def _paraphrase(self, docs, answer):
        prompt_system = 'Follow the instructions to paraphrase.'
        prompt_user = random.choice(WORDINGS).format(docs=docs)

    def _answer(self, docs, query):
        prompt_system = 'Answer ' 'briefly.'
        prompt_user = f"Background:\n{docs}\n\nQuestion:{QUESTION}"

    def unrelated(self, text):
        prompt_user = "nothing"
'''


@pytest.mark.parametrize("question", ["query", "question"])
def test_prompts_of_a_modeling_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, question: str):
    witness = tmp_path / "witness"
    monkeypatch.setenv("CLARA_TEST_WITNESS", str(witness))
    path = tmp_path / "modeling_clara.py"
    path.write_text(MODELING.replace("QUESTION}", question + "}"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = PromptSet.from_file(path)
    assert found == PromptSet(
        answer=Prompt(system="Answer briefly.", user=("Background:\n{memory}\n\nQuestion:{question}",)),
        question_answering=Prompt(system="Write pairs.", user=("Background:\n{memory}",)),
        paraphrase=Prompt(
            system="Follow the instructions to paraphrase.",
            user=("Text: {memory} again, please:", 'Say "{memory}" otherwise:\n'),
        ),
    )
    assert not witness.exists()


def test_modeling_file_with_only_an_answer_prompt_keeps_the_other_wordings():
    source = "def f(docs, query):\n    prompt_system = 'S'\n    prompt_user = f'{docs}: {query}'\n"
    found = PromptSet.from_dict(from_source(source))
    assert found.answer == Prompt(system="S", user=("{memory}: {question}",))
    assert found.paraphrase == PromptSet().paraphrase


def test_modeling_file_without_prompts(tmp_path: Path):
    path = tmp_path / "modeling.py"
    path.write_text("x = 1\n")
    with pytest.raises(ClaraError, match="holds no answer prompt; pass prompts= with a prompts file"):
        PromptSet.from_file(path)


def test_prompts_of_a_json_file(tmp_path: Path):
    path = tmp_path / "prompts.json"
    values = {
        "answer": {"system": "", "user": ["{memory} {question}"]},
        "question_answering": {"system": "Q", "user": "{memory}"},
        "paraphrase": {"user": ["a {memory}", "b {memory}"]},
    }
    path.write_text(json.dumps(values))
    assert PromptSet.from_file(path) == PromptSet(
        answer=Prompt(user=("{memory} {question}",)),
        question_answering=Prompt(system="Q", user=("{memory}",)),
        paraphrase=Prompt(user=("a {memory}", "b {memory}")),
    )


def test_recorded_prompts_file(goldens: Path):
    found = PromptSet.from_file(goldens / "prompts.json")
    assert found.to_dict() == json.loads((goldens / "prompts.json").read_text())


def test_to_dict_and_back():
    assert PromptSet.from_dict(json.loads(json.dumps(PromptSet().to_dict()))) == PromptSet()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.json", "{", "holds no readable prompts"),
        ("p.json", "[]", "must hold a JSON object of prompts, got list"),
        ("p.json", "\xff", "holds no readable prompts"),
        ("p.json", '{"answr": {}}', "unknown prompts answr; known are answer, question_answering, paraphrase"),
        ("p.json", '{"answer": "text"}', "a prompt must have the form"),
        ("p.json", '{"answer": {"system": "s"}}', "a prompt must have the form"),
        ("p.json", '{"answer": {"user": [1]}}', "a prompt must have the form"),
        ("p.py", "def f(:", "holds no readable prompts"),
    ],
)
def test_unreadable_files(tmp_path: Path, name: str, content: str, message: str):
    path = tmp_path / name
    path.write_text(content, encoding="latin-1")
    with pytest.raises(ClaraError, match=message):
        PromptSet.from_file(path)


def test_missing_file(tmp_path: Path):
    with pytest.raises(ClaraError, match=r"prompts file .* does not exist"):
        PromptSet.from_file(tmp_path / "none.json")


@pytest.mark.parametrize("wording", ["no place", "{memory} and {memory}", ""])
def test_a_wording_needs_one_place_for_the_documents(wording: str):
    with pytest.raises(ClaraError, match=r"must hold \{memory\} exactly once"):
        Prompt(user=(wording,))


def test_a_prompt_needs_a_wording():
    with pytest.raises(ClaraError, match="needs at least one user wording"):
        Prompt(user=())


@pytest.mark.parametrize("wording", ["{memory}", "{memory} {question} {question}"])
def test_an_answer_prompt_needs_one_place_for_the_question(wording: str):
    with pytest.raises(ClaraError, match=r"must hold \{question\} exactly once"):
        PromptSet(answer=Prompt(user=(wording,)))


# -- whose prompts ----------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint's folder inside another one."""
    folder = tmp_path / "compression-16"
    folder.mkdir()
    return folder


def prompts_file(path: Path, system: str) -> None:
    path.write_text(MODELING.replace("QUESTION}", "query}").replace("'Answer ' 'briefly.'", repr(system)))


def test_a_checkpoints_own_prompts_come_first(checkpoint: Path):
    prompts_file(checkpoint.parent / "model_a.py", "The parent's.")
    prompts_file(checkpoint / "modeling_z.py", "Its own.")
    (checkpoint / "modeling_a.py").write_text("x = 1")
    assert from_folder(checkpoint).answer.system == "Its own."


def test_a_parents_prompts_are_the_last_resort_and_said_to_be(checkpoint: Path, caplog: pytest.LogCaptureFixture):
    prompts_file(checkpoint.parent / "modeling_clara.py", "The parent's.")
    (checkpoint / "modeling_a.py").write_text("x = 1")
    assert from_folder(checkpoint).answer.system == "The parent's."
    assert f"the prompts were read from {checkpoint.parent}" in caplog.text


@pytest.mark.parametrize("source", ["def (", "x = " + "(" * 10_000, "\0", "\ud800"])
def test_an_unreadable_file_of_its_own_is_an_error(checkpoint: Path, source: str):
    prompts_file(checkpoint.parent / "modeling_clara.py", "The parent's.")
    (checkpoint / "modeling_clara.py").write_bytes(source.encode("utf-8", "surrogatepass"))
    with pytest.raises(ClaraError, match=f"^{checkpoint}/modeling_clara.py holds no readable prompts"):
        from_folder(checkpoint)


def test_no_file_with_prompts(checkpoint: Path):
    (checkpoint / "modeling_clara.py").write_text("x = 1")
    with pytest.raises(ClaraError, match="has no modeling file to read its prompts from; pass prompts="):
        from_folder(checkpoint)


@pytest.mark.parametrize("values", [5, [], "x", {"answer": 5}, {"answer": {"user": [5]}}, {"answer": {"user": {}}}])
def test_prompts_of_another_form(values: object):
    with pytest.raises(ClaraError, match=r"must (be an object|have the form)"):
        PromptSet.from_dict(values)
