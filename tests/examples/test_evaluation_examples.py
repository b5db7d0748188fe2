"""The scripts that prepare an evaluation: documents and questions to try it on, and checkpoints at other rates."""

import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples" / "evaluation"))
import latent_map  # noqa: E402
import own_documents  # noqa: E402
import rates  # noqa: E402

from clara_model import ClaraModel  # noqa: E402
from clara_model.checkpoint import bundled_models  # noqa: E402
from clara_model.checkpoint.files import BUNDLED  # noqa: E402


def written(folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[list[str], list[dict]]:
    """Documents and questions."""
    monkeypatch.setattr(sys, "argv", ["own_documents.py", str(folder), *words])
    own_documents.main()
    lines = (folder / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    return [file.read_text("utf-8") for file in sorted((folder / "documents").iterdir())], [*map(json.loads, lines)]


@pytest.mark.parametrize("words", [(), ("--model", "clara-small"), ("--model", "clara-small", "--documents", "8")])
def test_every_question_is_answered_by_a_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words):
    texts, questions = written(tmp_path, monkeypatch, *words)
    assert texts and questions
    for one in questions:
        accepted = [one["answer"]] if isinstance(one["answer"], str) else one["answer"]
        assert any(answer in text for answer in accepted for text in texts), one["question"]


def test_candidates_of_a_data_set_become_documents_each_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows = [
        {"question": f"Who is {n}?", "docs": ["shared", f"own {n}"], "golden_answers": ["A", "B"], "pos_index": [1]}
        for n in range(3)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("--data", str(tmp_path / "rows.jsonl"), "--questions", "2")
    texts, questions = written(tmp_path / "own", monkeypatch, *words)
    assert texts == ["shared\n", "own 0\n", "own 1\n"]
    assert questions == [{"question": f"Who is {n}?", "answer": ["A", "B"]} for n in range(2)]


@pytest.mark.slow
@pytest.mark.skipif(
    bundled_models.default_model() != bundled_models.SMALL, reason="clara-small's base model is not installed"
)
def test_a_checkpoint_whose_slots_are_anchors_is_copied_at_each_rate(tmp_path: Path):
    made = rates.copies(BUNDLED / "clara-small", [2, 4], tmp_path)
    loaded = [ClaraModel.from_pretrained(folder, dtype=torch.float32, device="cpu") for folder in made]
    assert [model.compress(["Sugar and tea."]).vectors.shape[1] for model in loaded] == [64, 32]


def test_other_slots_than_anchors_are_not_copied(tmp_path: Path):
    with pytest.raises(SystemExit, match="other rates have to be trained"):
        rates.copies(BUNDLED / "clara-tiny", [2], tmp_path)


def test_latents_are_drawn_beside_their_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    docs = [["Ann kept bees.", "Bo fished."], ["Cy baked bread.", "Di sold tea."]]
    rows = [{"question": "Who?", "docs": texts, "answer": "Ann"} for texts in docs]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["clara-tiny", "--dataset", str(tmp_path / "rows.jsonl"), "--png", str(tmp_path / "map.png")]
    monkeypatch.setattr(sys, "argv", ["latent_map.py", *words])
    latent_map.main()
    assert (tmp_path / "map.png").read_bytes()[1:4] == b"PNG"
