"""Latents built on sums of the text's own embeddings: the sums, batching, gradients, files, and positions."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import small_model
import torch
from torch import Tensor

from clara_model import ClaraModel
from clara_model.errors import ClaraError
from clara_model.modeling.objectives import Objective, TrainingModel
from clara_model.modeling.residual import BlockResidual, blocks, spread_positions

TEXTS = [*small_model.TEXTS, "", "a", small_model.TEXTS[1] * 9]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model.save_base(tmp_path_factory.mktemp("base"))


def build(base: Path, **fields: object) -> ClaraModel:
    model = small_model.build_model(base, **{"residual": "blocks", "memory_positions": "spread", **fields})
    torch.manual_seed(5)
    for parameter in model.residuals.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("length", "count", "expected"),
    [(8, 4, [0, 0, 1, 1, 2, 2, 3, 3]), (5, 2, [0, 0, 0, 1, 1]), (2, 4, [0, 2]), (3, 3, [0, 1, 2])],
)
def test_blocks_are_equal_parts_in_order(length: int, count: int, expected: list[int]):
    block, place = blocks(torch.full((length,), length), torch.arange(length), count)
    assert block.tolist() == expected
    assert place.tolist() == [i - expected.index(b) for i, b in enumerate(expected)]


def test_latent_is_centre_plus_scaled_sum_plus_gated_state():
    torch.manual_seed(0)
    residual = BlockResidual(torch.randn(6), blocks=2, projections=1, first=1)
    for parameter in residual.parameters():
        parameter.data += torch.randn_like(parameter)
    embeds, states = torch.randn(1, 5, 6), torch.randn(1, 2, 6)
    text = torch.tensor([[False, True, True, True, False]])
    center, (second,), gate = residual.center, residual.projection, residual.gate
    a, b, c = embeds[0, 1:4] - center
    expected = torch.stack([center + (a + second @ b) / math.sqrt(2), center + c]) + gate * states[0]
    same(residual(torch.zeros(1, 5, dtype=torch.long), embeds, text, states)[0], expected)


def test_untrained_residual_at_one_token_a_block_is_the_text_itself(base: Path):
    ids = small_model.build_model(base).tokens.plain_ids(TEXTS[0])
    model = small_model.build_model(base, residual="blocks", doc_max_length=len(ids), compression_rate=1)
    model.residuals.of["compressor"].gate.data.zero_()
    same(model.compress(TEXTS[:1]).vectors[0], model.base.get_input_embeddings()(torch.tensor(ids)))


@pytest.mark.parametrize("positions", ["appended", "spread"])
def test_batched_equals_one_by_one_and_padded_equals_unpadded(base: Path, positions: str):
    model = build(base, memory_positions=positions)
    for encode in (model.compress, model.encode_queries):
        batch = encode(TEXTS).vectors
        for i, text in enumerate(TEXTS):
            same(batch[i], encode([text]).vectors[0])
    padded = model.tokens.documents(TEXTS)
    ids = torch.cat([torch.full((len(TEXTS), 7), 9), padded.ids], dim=1)
    mask = torch.cat([torch.zeros(len(TEXTS), 7, dtype=torch.long), padded.mask], dim=1)
    with torch.no_grad():
        same(model.encode("compressor", ids, mask)[0], model.compress(TEXTS).vectors)


def test_question_is_one_block_at_every_memory_token(base: Path):
    model = build(base)
    model.residuals.of["query_reasoner"].gate.data.zero_()
    latents = model.encode_queries(["Who catalogued the tide clock?"]).vectors[0]
    same(latents, latents[:1].expand_as(latents))


def test_spread_positions():
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1], [1] * 8])
    assert spread_positions(mask, 2).tolist() == [[0, 0, 0, 1, 2, 3, 1, 3], [0, 1, 2, 3, 4, 5, 1, 4]]


def test_spread_positions_change_latents_and_fingerprint(base: Path):
    appended, spread = build(base, memory_positions="appended"), build(base)
    assert not torch.allclose(appended.compress(TEXTS).vectors, spread.compress(TEXTS).vectors, atol=1e-3)
    assert len({build(base, residual=r, memory_positions=p).fingerprint
                for r in ("none", "blocks") for p in ("appended", "spread")}) == 4  # fmt: skip


@pytest.mark.parametrize("part", ["center", "projection", "gate"])
def test_a_change_of_the_residual_changes_the_fingerprint(base: Path, part: str):
    model = build(base)
    before = model.fingerprint
    with torch.no_grad():
        getattr(model.residuals.of["compressor"], part).add_(0.5)
    assert model.fingerprint != before


def test_every_part_trains_with_its_role(base: Path):
    model = build(base)
    training = TrainingModel(model, Objective(stage="pretrain"))
    documents = model.tokens.documents(TEXTS[:2])
    examples = [model.tokens.example(model.config.prompts.answer, 1, "answer", 400, "question?") for _ in range(2)]
    ids, mask = model.tokens.pad([e.ids for e in examples])
    labels, _ = model.tokens.pad([e.labels for e in examples], -100)
    index = torch.tensor([[0], [1]])
    read = {"document_ids": documents.ids, "document_mask": documents.mask, "document_index": index}
    training(**read, prompt_ids=ids, prompt_mask=mask, labels=labels)["loss"].backward()
    for name, parameter in model.residuals.of["compressor"].named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert all(not p.requires_grad for p in model.residuals.of["query_reasoner"].parameters())


def test_save_and_load_keep_every_tensor(base: Path, tmp_path: Path):
    model = build(base)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["residual"], config["memory_positions"]) == ("blocks", "spread")
    again = ClaraModel.from_pretrained(tmp_path, dtype=torch.float32, device="cpu")
    assert again.fingerprint == model.fingerprint
    same(again.compress(TEXTS).vectors, model.compress(TEXTS).vectors)
    same(again.encode_queries(TEXTS[:2]).vectors, model.encode_queries(TEXTS[:2]).vectors)
    state = model.state()
    state.residual.pop("residual.compressor.gate")
    with pytest.raises(ClaraError, match=r"'residual\.compressor\.gate' in .* is missing"):
        again.load_weights(state)


def test_a_query_reasoner_that_is_added_starts_from_the_compressor(base: Path):
    model = build(base, roles=("compressor", "generator"))
    model.add_role("query_reasoner", copy_of="compressor")
    compressor, query = model.residuals.of["compressor"], model.residuals.of["query_reasoner"]
    assert torch.equal(compressor.center, query.center) and torch.equal(compressor.gate, query.gate)
    assert query.projection.shape == (1, 32, 32)


def test_a_checkpoint_without_residual_is_written_as_before(base: Path):
    model = small_model.build_model(base)
    assert not {"residual", "memory_positions", "base_sha256"} & set(model.config.to_dict())
    assert not model.state().residual
    assert {"residual", "base_sha256"} <= set(replace(model.config, residual="blocks", base_sha256="0").to_dict())


@pytest.mark.parametrize("field", ["residual", "memory_positions"])
def test_unknown_values_are_refused(base: Path, field: str):
    with pytest.raises(ClaraError, match=f"^{field} must be one of "):
        small_model.build_model(base, **{field: "other"})
