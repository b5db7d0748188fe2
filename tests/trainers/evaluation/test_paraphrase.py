"""What a text that was told again is scored by: words, and the names that a spaCy model finds."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from clara_model.errors import ClaraError
from trainers.evaluation import paraphrase

NAMES = ("Ada Lovelace", "Paris", "Mars")
needs_spacy = pytest.mark.skipif(find_spec("spacy") is None, reason="needs the package spacy")


@pytest.fixture
def listed_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """In spaCy's place, where it is not installed: the names of a list."""
    monkeypatch.setattr(paraphrase, "names_of", lambda model: lambda text: {name for name in NAMES if name in text})


@pytest.mark.parametrize(
    ("said", "share"),
    [("Mars and Paris, said Ada Lovelace.", 1.0), ("Paris it was.", 1 / 3), ("Nothing of the kind.", 0.0)],
)
def test_names_kept_are_a_share_also_where_all_are_lost(listed_names, said: str, share: float):
    scores = paraphrase.scorer()(said, ["Ada Lovelace flew from Paris to Mars."])
    assert scores["entities"] == pytest.approx(share)


def test_of_several_references_the_best_counts_and_one_without_names_has_no_share(listed_names):
    score = paraphrase.scorer()
    assert score("To Mars.", ["She flew.", "Paris, Mars.", "Mars."])["entities"] == 1.0
    assert "entities" not in score("To Mars.", ["She flew."])
    assert score("She flew.", ["She flew."])["rouge1"] == 1.0


def test_a_model_that_is_not_there_is_one_sentence(tmp_path: Path):
    with pytest.raises(ClaraError, match=r"pip install spacy|cannot be loaded \(.*; name an installed one"):
        paraphrase.names_of(str(tmp_path / "nothing"))


@needs_spacy
def test_a_spacy_model_finds_the_names(tmp_path: Path):
    import spacy

    model = spacy.blank("en")
    model.to_disk(tmp_path / "blank")
    with pytest.raises(ClaraError, match="finds no names"):
        paraphrase.names_of(str(tmp_path / "blank"))
    model.add_pipe("entity_ruler").add_patterns([{"label": "NAME", "pattern": name} for name in NAMES])
    model.to_disk(tmp_path / "ruler")
    score = paraphrase.scorer(str(tmp_path / "ruler"))
    assert score("It was in Paris.", ["Ada Lovelace was in Paris."])["entities"] == 0.5
    assert score("It was somewhere.", ["Ada Lovelace was in Paris."])["entities"] == 0.0


@pytest.mark.skipif(
    find_spec("spacy") is not None and find_spec(paraphrase.SPACY_MODEL) is not None, reason="the model is installed"
)
def test_without_a_model_there_is_no_such_figure():
    assert "entities" not in paraphrase.scorer()("Paris.", ["Paris."])
