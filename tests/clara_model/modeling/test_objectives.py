"""Objectives: what each stage minimises, on ragged candidates, with labels counted over a larger step."""

import copy

import pytest
import small_model
import torch
import torch.nn.functional as F
from test_adapters import batch

from clara_model import ClaraModel
from clara_model.errors import ClaraError
from clara_model.modeling.objectives import TRAINED_ROLES, Objective, TrainingModel, alignment_losses
from clara_model.modeling.ranking import cosine_scores
from clara_model.modeling.training_batch import step_counts

STAGES = ["pretrain", "instruct", "end_to_end", "pretrain_retrieval"]


@pytest.fixture
def mutable(loaded: ClaraModel) -> ClaraModel:
    return copy.deepcopy(loaded)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"stage": "stage1"},
            "stage must be one of pretrain, instruct, end_to_end, pretrain_retrieval, read_text, got 'stage1'",
        ),
        ({"stage": "pretrain", "alignment_weight": -0.1}, "alignment_weight >= 0"),
        ({"stage": "end_to_end", "top_k": 0}, "top_k >= 1"),
        ({"stage": "end_to_end", "temperature": 0.0}, "temperature > 0"),
    ],
)
def test_values_are_checked(fields: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Objective(**fields)


@pytest.mark.parametrize("stage", STAGES)
def test_exactly_the_stages_roles_get_gradients(mutable: ClaraModel, stage: str):
    training = TrainingModel(mutable, Objective(stage=stage, top_k=2))
    training(**batch(mutable, stage))["loss"].backward()
    moved = {id(p) for p in mutable.parameters() if p.grad is not None and p.grad.any()}
    assert moved == {id(p) for p in mutable.trainable_parameters(TRAINED_ROLES[stage]).values()}


def test_a_stage_whose_role_is_missing(base_folder):
    model = small_model.build_model(base_folder, roles=("compressor", "generator"))
    with pytest.raises(ClaraError, match="this checkpoint has no query_reasoner"):
        TrainingModel(model, Objective(stage="end_to_end"))


@pytest.mark.parametrize("stage", STAGES)
def test_a_batch_of_another_stage(mutable: ClaraModel, stage: str):
    training = TrainingModel(mutable, Objective(stage=stage))
    values = batch(mutable, stage)
    with pytest.raises(ClaraError, match="the batch lacks tensors that this stage needs"):
        training(**{name: values[name] for name in ("document_ids", "document_mask", "document_index")})


@pytest.mark.parametrize("weight", [0.0, 0.1, 2.0])
def test_total_is_next_token_loss_plus_weighted_alignment(mutable: ClaraModel, weight: float):
    training = TrainingModel(mutable, Objective(stage="pretrain", alignment_weight=weight))
    out = training(**batch(mutable, "pretrain"))
    expected = out["lm_loss"] + weight * out["alignment_loss"]
    torch.testing.assert_close(out["loss"].detach(), expected)
    assert out["alignment_loss"] > 0
    assert not out["lm_loss"].requires_grad and not out["alignment_loss"].requires_grad


def test_next_token_loss_is_the_models_own(mutable: ClaraModel):
    """The same prompt through the base's own forward pass with all logits."""
    values = batch(mutable, "instruct")
    out = TrainingModel(mutable, Objective(stage="instruct", alignment_weight=0))(**values)
    with torch.no_grad(), mutable.roles.acting_as("generator"):
        embeds = mutable.fill_slots(values["prompt_ids"], mutable.compress(small_model.TEXTS[:4]).vectors)
        logits = mutable.base(inputs_embeds=embeds, attention_mask=values["prompt_mask"]).logits
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), values["labels"][:, 1:].flatten())
    torch.testing.assert_close(out["loss"].detach(), expected, atol=1e-5, rtol=1e-5)


def test_a_batch_split_in_two_adds_up(mutable: ClaraModel):
    """With the counts of the whole step given, the losses of its parts sum to the loss of the whole."""
    values = batch(mutable, "instruct")
    values["document_index"] = torch.tensor([[0, 1], [1, 0]])
    training = TrainingModel(mutable, Objective(stage="instruct", alignment_weight=0.5))
    totals, parts = step_counts(values), []
    for row in range(2):
        part = {k: v[row : row + 1] for k, v in values.items() if k in ("prompt_ids", "prompt_mask", "labels")}
        part |= {"document_ids": values["document_ids"], "document_mask": values["document_mask"]}
        parts.append(training(document_index=values["document_index"][row : row + 1], totals=totals, **part)["loss"])
    torch.testing.assert_close(sum(parts), training(**values)["loss"], atol=1e-5, rtol=1e-5)


def test_a_documents_second_occurrence_counts_in_the_alignment_loss(mutable: ClaraModel):
    """As in the published code, which encodes a document anew for every row."""
    values = batch(mutable, "instruct")
    training = TrainingModel(mutable, Objective(stage="instruct"))
    spread = dict(values, document_ids=values["document_ids"][[0, 1, 1, 0]])
    spread["document_mask"] = values["document_mask"][[0, 1, 1, 0]]
    spread["document_index"] = torch.tensor([[0, 1], [2, 3]])
    values["document_index"] = torch.tensor([[0, 1], [1, 0]])
    values["document_ids"], values["document_mask"] = values["document_ids"][:2], values["document_mask"][:2]
    torch.testing.assert_close(training(**values)["alignment_loss"], training(**spread)["alignment_loss"])
    spread["document_index"] = values["document_index"] = torch.tensor([[0, -1], [0, 1]])
    values["labels"] = spread["labels"] = torch.full_like(values["labels"], -100)
    assert step_counts(values).tolist() == [0, 3, 0, 2]


def test_no_labels_is_no_loss(mutable: ClaraModel):
    values = batch(mutable, "instruct")
    values["labels"] = torch.full_like(values["labels"], -100)
    assert TrainingModel(mutable, Objective(stage="instruct", alignment_weight=0))(**values)["loss"].item() == 0


def test_a_document_that_is_shared_is_encoded_once(mutable: ClaraModel):
    values = batch(mutable, "instruct")
    training = TrainingModel(mutable, Objective(stage="instruct"))
    values["document_index"] = torch.tensor([[0, 1], [1, 0]])
    shared = training(**values)["lm_loss"]
    spread = dict(values)
    spread["document_ids"] = values["document_ids"][[0, 1, 1, 0]]
    spread["document_mask"] = values["document_mask"][[0, 1, 1, 0]]
    spread["document_index"] = torch.tensor([[0, 1], [2, 3]])
    torch.testing.assert_close(shared, training(**spread)["lm_loss"], atol=1e-5, rtol=1e-5)


# -- ranking stages ---------------------------------------------------------------------------------------------


def ragged(model: ClaraModel, documents: int = 1) -> dict[str, torch.Tensor]:
    """The second question has one candidate only; its prompt has one slot block."""
    values = batch(model, "end_to_end")
    values["document_index"] = torch.tensor([[0, 1], [2, -1]])
    prompt, (first, second) = model.config.prompts.answer, small_model.QUESTIONS[:2]
    examples = [model.tokens.example(prompt, 2, "Ada", 500, first), model.tokens.example(prompt, 1, "Ada", 500, second)]
    values["prompt_ids"], values["prompt_mask"] = model.tokens.pad([e.ids for e in examples])
    values["labels"], _ = model.tokens.pad([e.labels for e in examples], -100)
    return values


def test_ragged_candidates(mutable: ClaraModel):
    out = TrainingModel(mutable, Objective(stage="end_to_end", top_k=2))(**ragged(mutable))
    assert out["scores"][1].tolist()[1] == float("-inf") and out["topk"][1, 0] == 0
    out["loss"].backward()
    assert all(p.grad.isfinite().all() for p in mutable.parameters() if p.grad is not None)


def test_scores_and_selection_are_those_of_inference(mutable: ClaraModel):
    values = batch(mutable, "end_to_end")
    out = TrainingModel(mutable, Objective(stage="end_to_end", top_k=2))(**values)
    queries = mutable.encode_queries(small_model.QUESTIONS[:2]).vectors
    latents = mutable.compress(small_model.TEXTS[:4]).vectors.view(2, 2, 4, 32)
    expected = cosine_scores(queries, latents)
    torch.testing.assert_close(out["scores"], expected, atol=1e-5, rtol=1e-5)
    assert out["topk"].tolist() == expected.topk(2).indices.tolist()


def test_k_is_capped_at_the_candidates(mutable: ClaraModel):
    out = TrainingModel(mutable, Objective(stage="end_to_end", top_k=9))(**batch(mutable, "end_to_end"))
    assert out["topk"].shape == (2, 2)


def test_forward_is_the_hard_choice(mutable: ClaraModel):
    """The loss is that of the chosen documents' own latents, best first, not of a mixture."""
    values = batch(mutable, "end_to_end")
    out = TrainingModel(mutable, Objective(stage="end_to_end", top_k=2, temperature=10.0))(**values)
    order = [int(values["document_index"][row, i]) for row in range(2) for i in out["topk"][row]]
    instruct = values | {"document_index": torch.tensor(order).view(2, 2)}
    for name in ("question_ids", "question_mask"):
        instruct.pop(name)
    expected = TrainingModel(mutable, Objective(stage="instruct", alignment_weight=0))(**instruct)["loss"]
    torch.testing.assert_close(out["loss"], expected, atol=1e-5, rtol=1e-5)


# -- alignment --------------------------------------------------------------------------------------------------


def test_alignment_by_hand():
    """Two text states (the padded one apart) of mean (2, 3), two memory states of mean (0, 1): (4 + 4) / 2."""
    states = torch.tensor([[[9.0, 9.0], [1.0, 2.0], [3.0, 4.0], [-1.0, 0.0], [1.0, 2.0]]])
    mask = torch.tensor([[0, 1, 1, 1, 1]])
    assert alignment_losses(states, mask, memory_tokens=2).tolist() == [4.0]
    assert alignment_losses(states[:, 1:], mask[:, 1:], memory_tokens=2).tolist() == [4.0]
