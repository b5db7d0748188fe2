"""Latents that are a text's heaviest tokens: the cut, the sums, batching, and what is saved."""

from pathlib import Path

import pytest
import small_model
import torch
from torch import Tensor

from clara_model import ClaraModel
from clara_model.modeling.objectives import Objective, TrainingModel
from clara_model.modeling.residual import LEAST, REPEATED, AnchorResidual, cut_at_anchors

TEXTS = [*small_model.TEXTS, "", "a", small_model.TEXTS[1] * 9]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model.save_base(tmp_path_factory.mktemp("base"))


def build(base: Path, **fields: object) -> ClaraModel:
    model = small_model.build_model(base, **{"residual": "anchors", **fields})
    torch.manual_seed(5)
    for parameter in model.residuals.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)


def by_hand(ids: list[int], weights: list[float], count: int) -> list[tuple[bool, int, int]]:
    """Anchor, block and distance of every token, said plainly."""
    pairs = list(zip([-1, *ids], ids, strict=False))
    heavy = [w - REPEATED * (pairs[i] in pairs[:i]) for i, w in enumerate(weights)]
    anchors = sorted(sorted(range(len(ids)), key=lambda i: (-heavy[i], i))[:count])
    found = []
    for i in range(len(ids)):
        later = [a for a in anchors if a >= i]
        found.append((i in anchors, anchors.index((later or anchors[-1:])[0]), min(later[0] - i, 3) if later else 0))
    return found


def test_cut_is_the_one_said_plainly():
    torch.manual_seed(0)
    rows = [torch.randint(0, 6, (n,)).tolist() for n in (1, 3, 4, 5, 12, 20)]
    table = (torch.randn(6) * 2).round() / 4  # ties on purpose
    width = 23
    ids, text = torch.full((len(rows), width), 5), torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, -len(row) - 2 : -2] = torch.tensor(row)
        text[i, -len(row) - 2 : -2] = True
    cut = cut_at_anchors(ids, table[ids], text, 4)
    for i, row in enumerate(rows):
        got = [tuple(x[i][text[i]].tolist()) for x in cut]
        assert list(zip(*got, strict=True)) == by_hand(row, [float(table[t]) for t in row], 4)


def test_a_pair_that_came_before_is_no_anchor():
    ids = torch.tensor([[7, 8, 3, 7, 8, 4]])
    cut = cut_at_anchors(ids, torch.tensor([[0.9, 0.8, 0.5, 0.9, 0.8, 0.4]]), torch.ones(1, 6, dtype=torch.bool), 4)
    assert cut.anchor.tolist() == [[True, True, True, True, False, False]]


def test_latent_is_the_anchor_with_shares_of_what_stands_before():
    torch.manual_seed(0)
    residual = AnchorResidual(torch.randn(6), memory_tokens=3, vocabulary=9)
    for parameter in residual.parameters():
        parameter.data += torch.randn_like(parameter)
    residual.weight.data = torch.tensor([0.0, 0.2, 2.0, 3.0, -1.0, 0.0, 0.0, 0.0, 0.0])
    ids, embeds, states = torch.tensor([[8, 0, 1, 2, 3, 4]]), torch.randn(1, 6, 6), torch.randn(1, 3, 6)
    residual.memory_tokens = 2
    e, p = embeds[0] - residual.center, residual.projection
    first = LEAST * p[2] @ e[1] + 0.2 * p[1] @ e[2] + e[3]
    expected = torch.stack([first, e[4] + LEAST * p[0] @ e[5]]) + residual.center + residual.gate * states[0, :2]
    text = torch.tensor([[False, True, True, True, True, True]])
    same(residual(ids, embeds, text, states[:, :2])[0], expected)


def test_a_text_that_fits_is_its_own_embeddings_and_then_centres(base: Path):
    model = small_model.build_model(base, residual="anchors", doc_max_length=64, compression_rate=1)
    model.residuals.of["compressor"].gate.data.zero_()
    ids = model.tokens.plain_ids(TEXTS[0])
    latents = model.compress(TEXTS[:1]).vectors[0]
    same(latents[: len(ids)], model.base.get_input_embeddings()(torch.tensor(ids)))
    same(latents[len(ids) :], model.residuals.of["compressor"].center.expand(64 - len(ids), -1))


def test_batched_equals_one_by_one_and_padded_equals_unpadded(base: Path):
    model = build(base)
    for encode in (model.compress, model.encode_queries):
        batch = encode(TEXTS).vectors
        for i, text in enumerate(TEXTS):
            same(batch[i], encode([text]).vectors[0])
    for role, vectors in (("compressor", model.compress(TEXTS)), ("query_reasoner", model.encode_queries(TEXTS))):
        padded = small_model.documents(model.tokens, TEXTS)
        ids = torch.cat([torch.full((len(TEXTS), 7), 9), padded.ids], dim=1)
        mask = torch.cat([torch.zeros(len(TEXTS), 7, dtype=torch.long), padded.mask], dim=1)
        with torch.no_grad():
            same(model.encode(role, ids, mask)[0], vectors.vectors)


def test_without_a_state_the_base_is_not_run_and_the_latents_are_the_same(base: Path, monkeypatch: pytest.MonkeyPatch):
    model = build(base)
    for residual in model.residuals.of.values():
        residual.gate.data.zero_()
    padded = small_model.documents(model.tokens, TEXTS)
    with torch.no_grad():
        full = model.encode("compressor", padded.ids, padded.mask)[0]
    monkeypatch.setattr(model, "hidden_states", lambda *_: pytest.fail("the base model was run"))
    same(model.compress(TEXTS).vectors, full)
    model.residuals.of["compressor"].gate.data[0] = 1
    with pytest.raises(pytest.fail.Exception, match="the base model was run"):
        model.compress(TEXTS[:1])


@pytest.mark.parametrize("part", ["center", "projection", "gate", "weight"])
def test_a_change_of_any_part_changes_the_fingerprint(base: Path, part: str):
    model = build(base)
    before = model.fingerprint
    with torch.no_grad():
        getattr(model.residuals.of["compressor"], part).add_(0.5)
    assert model.fingerprint != before


def test_every_part_trains_with_its_role(base: Path):
    model = build(base)
    training = TrainingModel(model, Objective(stage="pretrain"))
    documents = small_model.documents(model.tokens, TEXTS[:2])
    examples = [model.tokens.example(model.config.prompts.answer, 1, "answer", 400, "question?") for _ in range(2)]
    ids, mask = model.tokens.pad([e.ids for e in examples])
    labels, _ = model.tokens.pad([e.labels for e in examples], -100)
    index = torch.tensor([[0], [1]])
    read = {"document_ids": documents.ids, "document_mask": documents.mask, "document_index": index}
    with torch.no_grad():
        model.residuals.of["compressor"].weight.clamp_(0.2, 0.9)
    training(**read, prompt_ids=ids, prompt_mask=mask, labels=labels)["loss"].backward()
    for name, parameter in model.residuals.of["compressor"].named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_save_and_load_keep_every_tensor(base: Path, tmp_path: Path):
    model = build(base)
    model.save_pretrained(tmp_path)
    again = ClaraModel.from_pretrained(tmp_path, dtype=torch.float32, device="cpu")
    assert again.fingerprint == model.fingerprint and again.config.residual == "anchors"
    same(again.compress(TEXTS).vectors, model.compress(TEXTS).vectors)
    same(again.encode_queries(TEXTS[:2]).vectors, model.encode_queries(TEXTS[:2]).vectors)


def test_a_query_reasoner_that_is_added_has_the_compressors_weights(base: Path):
    model = build(base, roles=("compressor", "generator"))
    model.add_role("query_reasoner", copy_of="compressor")
    compressor, query = model.residuals.of["compressor"], model.residuals.of["query_reasoner"]
    assert torch.equal(compressor.weight, query.weight) and torch.equal(compressor.center, query.center)
    assert query.projection.shape == (1, 32, 32)
