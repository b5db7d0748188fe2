"""Late interaction: the score by hand, a question's slots, what is saved, and that all take the score from there."""

from dataclasses import replace
from pathlib import Path

import pytest
import small_model
import torch
import torch.nn.functional as F
from torch import Tensor

from clara_model import Clara, ClaraError, ClaraModel
from clara_model.modeling.embedding import embed
from clara_model.modeling.objectives import Objective, TrainingModel
from clara_model.modeling.ranking import HALFWAY, UNLIKE, coarse_blocks, cosine_scores, late_scores, scores_in_parts
from clara_model.modeling.residual import FAINTEST, QuestionTokens

TEXTS = [*small_model.TEXTS, "", "a", small_model.TEXTS[1] * 9]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model.save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def late(base: Path) -> ClaraModel:
    return build(base)


def build(base: Path, **fields: object) -> ClaraModel:
    """A model whose question slots are trained a little and whose gates are closed."""
    model = small_model.build_model(base, **{"residual": "anchors", "ranking": "late", **fields})
    torch.manual_seed(5)
    question = model.residuals.of["query_reasoner"]
    question.weight.data = torch.rand_like(question.weight)
    for residual in model.residuals.of.values():
        residual.center.data = 0.2 * torch.ones_like(question.center)
        residual.gate.data.zero_()
    return model


def worth(cosine: float) -> float:
    likeness = max(0.0, (cosine - UNLIKE) / (1 - UNLIKE))
    return (1 + HALFWAY) * likeness / (likeness + HALFWAY)


def test_score_by_hand():
    """Slots of length 3 and 1; the document's likest are 0.8 and 0.6 like them, the other document's 1 and -1."""
    question = torch.tensor([[[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])
    documents = torch.tensor([[[8.0, 6.0], [-1.0, 0.0], [0.0, 0.0]], [[2.0, 0.0], [0.0, -5.0], [2.0, 0.0]]])
    expected = [(3 * worth(0.8) + worth(0.6)) / 4, (3 * worth(1.0) + worth(0.0)) / 4]
    torch.testing.assert_close(late_scores(question, documents), torch.tensor([expected]))
    assert worth(1.0) == pytest.approx(1.0) and worth(0.1) == 0.0


def test_own_or_shared_batched_or_alone_and_in_parts():
    torch.manual_seed(0)
    questions, documents = torch.randn(3, 4, 6), torch.randn(5, 4, 6)
    questions[0, 2:], questions[1, :2] = 0, 0  # empty slots at the end, and before the end
    scores = late_scores(questions, documents)
    torch.testing.assert_close(late_scores(questions, documents.expand(3, 5, 4, 6)), scores)
    torch.testing.assert_close(torch.cat([late_scores(q[None], documents) for q in questions]), scores)
    torch.testing.assert_close(scores_in_parts(questions, documents, 200, ranking="late"), scores)
    torch.testing.assert_close(late_scores(questions * 7, documents * 0.1), scores)
    assert float(scores.min()) >= 0 and float(scores.max()) <= 1


def test_zeros_score_zero_and_the_score_is_float32():
    ones, zeros = torch.ones(1, 2, 3, dtype=torch.bfloat16), torch.zeros(1, 2, 3, dtype=torch.bfloat16)
    for question, document in ((ones, zeros), (zeros, ones), (zeros, zeros)):
        assert late_scores(question, document).dtype == torch.float32
        assert late_scores(question, document).tolist() == [[0.0]]


def test_gradient_raises_the_likest_slot_alone():
    question = torch.tensor([[[1.0, 0.5, 0.0]]], requires_grad=True)
    documents = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]], requires_grad=True)
    late_scores(question, documents).sum().backward()
    assert documents.grad[0, 0].abs().sum() > 0 and documents.grad[0, 1].abs().sum() == 0
    assert question.grad[0, 0, 0] > 0 > question.grad[0, 0, 1]


def test_a_question_has_a_slot_for_each_token_and_keeps_the_heaviest():
    torch.manual_seed(0)
    residual = QuestionTokens(torch.randn(6), vocabulary=9)
    residual.projection.data += torch.randn_like(residual.projection)
    residual.weight.data = torch.tensor([0.5, 0.2, 2.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    ids, embeds = torch.tensor([[8, 0, 1, 2, 3, 7]]), torch.randn(1, 6, 6)
    text = torch.tensor([[False, True, True, True, True, False]])

    def slot(place: int, weight: float) -> Tensor:
        turned, middle = (
            residual.projection[0] @ (embeds[0, place] - residual.center),
            F.normalize(residual.center, dim=0),
        )
        return weight * F.normalize(turned - turned @ middle * middle, dim=0)

    found = residual(ids, embeds, text, torch.zeros(1, 5, 6))[0]
    every = [slot(1, 0.5), slot(2, 0.2), slot(3, 2.0), slot(4, FAINTEST), torch.zeros(6)]
    torch.testing.assert_close(found, torch.stack(every))
    fewer = residual(ids, embeds, text, torch.zeros(1, 2, 6))[0]
    torch.testing.assert_close(fewer, torch.stack([slot(1, 0.5), slot(3, 2.0)]))


def test_an_empty_document_slot_is_like_no_token(late: ClaraModel):
    question = late.encode_queries(TEXTS[:1]).vectors
    empty = late.residuals.of["compressor"].center.expand(1, *question.shape[1:])
    assert late_scores(question, empty).tolist() == [[0.0]]
    assert float(question.abs().sum()) > 0


def test_batched_equals_one_by_one_and_padded_equals_unpadded(late: ClaraModel):
    together = late.encode_queries(TEXTS).vectors
    for one, text in zip(together, TEXTS, strict=True):
        torch.testing.assert_close(one, late.encode_queries([text]).vectors[0])
    padded = small_model.documents(late.tokens, TEXTS)
    ids = torch.cat([torch.full((len(TEXTS), 7), 9), padded.ids], dim=1)
    mask = torch.cat([torch.zeros(len(TEXTS), 7, dtype=torch.long), padded.mask], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(late.encode("query_reasoner", ids, mask)[0], together, atol=2e-5, rtol=1e-5)


def test_saved_equals_loaded_and_the_fingerprint_says_how_it_ranks(late: ClaraModel, base: Path, tmp_path: Path):
    late.save_pretrained(tmp_path)
    again = ClaraModel.from_pretrained(tmp_path, dtype=torch.float32, device="cpu")
    assert again.config.ranking == "late" and again.fingerprint == late.fingerprint
    torch.testing.assert_close(again.encode_queries(TEXTS).vectors, late.encode_queries(TEXTS).vectors)
    cosine = small_model.build_model(base, residual="anchors")
    assert "ranking" not in cosine.config.to_dict()
    before = cosine.fingerprint
    cosine.tokens.config = cosine.config = replace(cosine.config, ranking="late")
    assert cosine.fingerprint != before


def test_it_needs_slots_for_the_question(base: Path):
    with pytest.raises(ClaraError, match=r"ranking late needs residual anchors.* got none"):
        small_model.build_model(base, ranking="late")
    with pytest.raises(ClaraError, match="ranking must be one of cosine, late, got 'maxsim'"):
        small_model.build_model(base, ranking="maxsim")


def test_everything_ranks_by_the_one_score(late: ClaraModel, tmp_path: Path):
    question, texts = TEXTS[1], [*TEXTS[:3], "a"]
    expected = late_scores(late.encode_queries([question]).vectors, late.compress(texts).vectors)[0]
    assert not torch.allclose(
        expected, cosine_scores(late.encode_queries([question]).vectors, late.compress(texts).vectors)[0]
    )
    torch.testing.assert_close(late.score(late.encode_queries([question]), late.compress(texts))[0], expected)
    order = expected.argsort(descending=True, stable=True).tolist()
    with Clara(late, store=tmp_path / "store") as clara:
        ranked = clara.rank(question, texts)
        assert [one.index for one in ranked] == order
        assert [one.score for one in ranked] == pytest.approx(expected[order].tolist(), abs=1e-5)
        assert clara.answer(question, texts, top_k=1, max_new_tokens=1).ranking[0].index == order[0]
        found = clara.search(question, top_k=4)
        assert [one.score for one in found] == pytest.approx(expected[order].tolist(), abs=1e-5)
        vectors = clara.embed_texts(texts, 64)
        asked = clara.embed_questions([question], 64)[0]
    means = F.normalize(late.compress(texts).vectors.mean(dim=1), dim=-1)
    torch.testing.assert_close(torch.tensor(vectors)[:, :32], means)  # a mean of 32 numbers needs no sketch
    torch.testing.assert_close(torch.tensor(asked), torch.tensor(embed(late.encode_queries([question]), 64, "late")[0]))


def test_coarse_blocks_of_the_cosine_are_the_blocks_to_the_bit():
    blocks = torch.randn(3, 4, 6).bfloat16()
    assert coarse_blocks(blocks, "cosine") is blocks
    assert torch.equal(scores_in_parts(blocks, blocks), scores_in_parts(blocks, blocks, ranking="cosine"))
    product = coarse_blocks(blocks[:1], "late")[0] @ coarse_blocks(blocks[1:2], "late")[0].T
    pairs = torch.einsum("id,jd->", blocks[0].float(), blocks[1].float()) / 16
    torch.testing.assert_close(product[0, 0], pairs)


@pytest.mark.parametrize("stage", ["pretrain_retrieval", "end_to_end"])
def test_training_moves_the_question_through_the_score(base: Path, stage: str):
    model = build(base)
    training = TrainingModel(model, Objective(stage=stage, top_k=2)).train()
    documents, question = (
        small_model.documents(model.tokens, TEXTS[:3]),
        small_model.documents(model.tokens, TEXTS[1:2]),
    )
    example = model.tokens.example(model.config.prompts.answer, 2, "answer", 400, "question?")
    (ids, mask), (labels, _) = model.tokens.pad([example.ids]), model.tokens.pad([example.labels], -100)
    loss = training(
        document_ids=documents.ids, document_mask=documents.mask, document_index=torch.tensor([[0, 1, 2]]),
        question_ids=question.ids, question_mask=question.mask, positives=torch.tensor([[0.0, 1.0, 0.0]]),
        prompt_ids=ids, prompt_mask=mask, labels=labels,
    )  # fmt: skip
    expected = late_scores(model.encode_queries(TEXTS[1:2]).vectors, model.compress(TEXTS[:3]).vectors)
    torch.testing.assert_close(loss["scores"], expected, atol=1e-5, rtol=1e-5)
    loss["loss"].backward()
    for name in ("projection", "weight"):
        assert getattr(model.residuals.of["query_reasoner"], name).grad.abs().sum() > 0, name
