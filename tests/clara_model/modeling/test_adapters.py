"""Roles: switching, loading, and gradients that are the same with and without checkpointing."""

import copy
import logging
import warnings

import pytest
import small_model
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from clara_model import ClaraModel
from clara_model.checkpoint.config import ROLES, ClaraConfig
from clara_model.errors import ClaraError
from clara_model.modeling.adapters import BASE, Roles, without_some
from clara_model.modeling.objectives import Objective, TrainingModel

CONFIG = ClaraConfig(base_model="b", lora_rank=4, lora_alpha=8)
IDS = torch.tensor([[5, 6, 7, 8]])


def states(model: ClaraModel, role: str) -> torch.Tensor:
    with torch.no_grad(), model.roles.acting_as(role):
        return model.base.get_decoder()(IDS).last_hidden_state


# -- switching --------------------------------------------------------------------------------------------------


def test_every_role_computes_something_else(loaded: ClaraModel):
    found = [states(loaded, role) for role in (*ROLES, BASE)]
    for i, one in enumerate(found):
        assert torch.equal(one, states(loaded, (*ROLES, BASE)[i]))
        assert all((one - other).abs().max() > 1e-3 for other in found[:i])


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("role", ROLES)
def test_a_role_is_base_plus_scaled_product(loaded: ClaraModel, role: str, grad: bool):
    layer = loaded.roles.layers()["model.layers.0.self_attn.q_proj"]
    weights = loaded.roles.parameters(role)
    down = weights["model.layers.0.self_attn.q_proj.lora_A.weight"]
    up = weights["model.layers.0.self_attn.q_proj.lora_B.weight"]
    x = torch.randn(2, 3, 32)
    with torch.set_grad_enabled(grad), loaded.roles.acting_as(role):
        out = layer(x)
    expected = x @ layer.base_layer.weight.T + 2.0 * (x @ down.T) @ up.T
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("grad", [True, False])
def test_the_base_alone_is_the_base(loaded: ClaraModel, grad: bool):
    layer = loaded.roles.layers()["model.layers.0.self_attn.q_proj"]
    x = torch.randn(2, 3, 32)
    with torch.set_grad_enabled(grad), loaded.roles.acting_as(BASE):
        assert torch.equal(layer(x), layer.base_layer(x))


def test_the_role_before_comes_back(loaded: ClaraModel):
    roles = loaded.roles
    assert roles.active == BASE
    with roles.acting_as("compressor"):
        with roles.acting_as("generator"):
            assert roles.active == "generator"
        assert roles.active == "compressor"
        with pytest.raises(RuntimeError), roles.acting_as("query_reasoner"):
            raise RuntimeError
        assert roles.active == "compressor"
    assert roles.active == BASE


def test_switching_turns_no_gradients_on_or_off(model: ClaraModel):
    model.set_trainable(("generator",))
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    states(model, "compressor")
    assert before == {name: p.requires_grad for name, p in model.named_parameters()}
    assert any(before.values())


def test_a_deep_copy_switches_on_its_own(loaded: ClaraModel):
    other = copy.deepcopy(loaded)
    with other.roles.acting_as("compressor"):
        assert loaded.roles.active == BASE
        ours = other.base.get_decoder()(IDS).last_hidden_state
        base = loaded.base.get_decoder()(IDS).last_hidden_state
    assert torch.equal(ours.detach(), states(loaded, "compressor")) and not torch.equal(ours, base)


@pytest.mark.parametrize("role", ["poet", "query_reasoner"])
def test_unknown_role(role: str):
    roles = Roles(small_model.build_base(), ClaraConfig(base_model="b", roles=("compressor", "generator")))
    message = f"this checkpoint has no {role.replace('_', ' ')}; it has compressor, generator"
    with pytest.raises(ClaraError, match=message), roles.acting_as(role):
        pass


# -- set-up -----------------------------------------------------------------------------------------------------


def test_fresh_roles_are_the_base():
    base = small_model.build_base().eval()
    with torch.no_grad():
        before = base.get_decoder()(IDS).last_hidden_state
        roles = Roles(base, CONFIG)
        for role in ROLES:
            with roles.acting_as(role):
                assert torch.equal(base.get_decoder()(IDS).last_hidden_state, before)


def test_adding_roles_is_silent(caplog: pytest.LogCaptureFixture):
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        Roles(small_model.build_base(), CONFIG)
    assert not caplog.records


def test_a_role_twice():
    roles = Roles(small_model.build_base(), CONFIG)
    with pytest.raises(ClaraError, match="this checkpoint already has a query reasoner"):
        roles.add("query_reasoner")


def test_a_base_of_another_family():
    base = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=10))
    with pytest.raises(ClaraError, match=r"GPT2LMHeadModel has no layers named q_proj, .* Llama family"):
        Roles(base, CONFIG)


def test_keys_are_the_published_ones(loaded: ClaraModel):
    keys = set(loaded.roles.parameters("compressor"))
    parts = [f"self_attn.{p}_proj" for p in "qkvo"] + [f"mlp.{p}_proj" for p in ("gate", "up", "down")]
    assert keys == {f"model.layers.{i}.{p}.lora_{s}.weight" for i in range(2) for p in parts for s in "AB"}


def test_load_copy_and_reset():
    roles = Roles(small_model.build_base(), CONFIG)
    tensors = {key: torch.randn_like(p) for key, p in roles.parameters("compressor").items()}
    roles.load("compressor", tensors, "here")
    roles.copy("compressor", "query_reasoner")
    for role in ("compressor", "query_reasoner"):
        assert all(torch.equal(p, tensors[key]) for key, p in roles.parameters(role).items())
    roles.reset("query_reasoner")
    fresh = roles.parameters("query_reasoner")
    assert all(not p.any() for key, p in fresh.items() if "lora_B" in key)
    assert all(p.any() and not torch.equal(p, tensors[key]) for key, p in fresh.items() if "lora_A" in key)
    assert all(torch.equal(p, tensors[key]) for key, p in roles.parameters("compressor").items())


KEY = "model.layers.0.mlp.up_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(KEY), f"the query reasoner adapter in here lacks '{KEY}'; does the base model match"),
        (lambda t: t.update(x=torch.zeros(1)), "has 'x', which the base model has no place for"),
        (
            lambda t: t.update({KEY: torch.zeros(4, 33)}),
            rf"query reasoner weight {KEY} in here has shape \(4, 33\), the base model needs \(4, 32\)",
        ),
    ],
)
def test_weights_that_do_not_fit(change, message: str):
    roles = Roles(small_model.build_base(), CONFIG)
    tensors = {key: p.detach().clone() for key, p in roles.parameters("query_reasoner").items()}
    change(tensors)
    with pytest.raises(ClaraError, match=message):
        roles.load("query_reasoner", tensors, "here")


# -- gradient checkpointing -------------------------------------------------------------------------------------


def batch(model: ClaraModel, stage: str) -> dict[str, torch.Tensor]:
    """Two questions with two candidates each."""
    tokens, prompts = model.tokens, model.config.prompts
    documents, questions = (
        small_model.documents(tokens, small_model.TEXTS[:4]),
        small_model.documents(tokens, small_model.QUESTIONS[:2]),
    )
    examples = [tokens.example(prompts.answer, 2, "Ada Fenwick", 500, q) for q in small_model.QUESTIONS[:2]]
    ids, mask = tokens.pad([example.ids for example in examples])
    labels, _ = tokens.pad([example.labels for example in examples], -100)
    values = {
        "document_ids": documents.ids,
        "document_mask": documents.mask,
        "document_index": torch.tensor([[0, 1], [2, 3]]),
    }
    if stage != "pretrain_retrieval":
        values |= {"prompt_ids": ids, "prompt_mask": mask, "labels": labels}
    else:
        values["positives"] = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    if stage in ("end_to_end", "pretrain_retrieval"):
        values |= {"question_ids": questions.ids, "question_mask": questions.mask}
    return values


def gradients(model: ClaraModel, stage: str) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients of one training step by name, and how often the first layer ran."""
    runs = []
    handle = model.base.get_decoder().layers[0].self_attn.register_forward_hook(lambda *_: runs.append(1))
    training = TrainingModel(model, Objective(stage=stage, top_k=2)).train()
    torch.manual_seed(0)
    training(**batch(model, stage))["loss"].backward()
    handle.remove()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found, len(runs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("stage", ["pretrain", "instruct", "end_to_end", "pretrain_retrieval"])
def test_gradients_are_the_same_with_checkpointing(loaded: ClaraModel, stage: str, dropout: float, dtype: torch.dtype):
    model = copy.deepcopy(loaded).to(dtype)
    for layer in model.roles.layers().values():
        for module in layer.lora_dropout.values():
            if isinstance(module, nn.Dropout):
                module.p = dropout
    plain, runs = gradients(model, stage)
    model.gradient_checkpointing_enable({"use_reentrant": True})
    again, more = gradients(model, stage)
    assert more > runs, "nothing was recomputed"
    assert set(plain) == set(again) and len(plain) > 28
    for name, gradient in plain.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(again[name], gradient, rtol=0, atol=1e-6 * float(gradient.abs().max()), msg=name)
    assert model.roles.active == BASE


def test_the_in_place_pass_is_the_one_with_gradients(model: ClaraModel):
    """Same numbers, input untouched."""
    for layer in model.roles.layers().values():
        x = torch.randn(3, 5, layer.base_layer.in_features)
        before = x.clone()
        for role in (*model.config.roles, "base"):
            with model.roles.acting_as(role):
                expected = layer(x).detach()
                with torch.no_grad():
                    found = layer(x)
            torch.testing.assert_close(found, expected)
            assert torch.equal(x, before)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.999])
def test_dropout_on_the_cpu_keeps_expectation_and_independence(rate: float):
    """Each element alone is dropped at the rate, its gradient with it; the same seed drops the same."""
    x = torch.ones(3, 501, 333, requires_grad=True)
    torch.manual_seed(4)
    found, left = without_some(x, rate)
    torch.manual_seed(4)
    assert torch.equal(without_some(x, rate)[0], found)
    assert left == pytest.approx(1 - rate, abs=1e-5)
    kept = found.detach() != 0
    spread = (rate * (1 - rate)) ** 0.5
    for part in (kept, kept[..., ::4], kept[:, 1::2], kept[0]):
        assert abs(part.float().mean().item() - left) < 5 * spread / part.numel() ** 0.5
    for step in (1, 2, 3, 4, 333):  # neighbours of one word, of the next, of the next row
        one, other = kept.flatten()[:-step].float() - left, kept.flatten()[step:].float() - left
        assert abs((one * other).mean().item()) < 5 * spread**2 / one.numel() ** 0.5
    found.sum().backward()
    assert torch.equal(x.grad != 0, kept)


def test_an_adapters_dropout_drops_its_input_alone_and_is_off_in_evaluation(loaded: ClaraModel):
    model = copy.deepcopy(loaded)
    layer = next(iter(model.roles.layers().values()))
    for role in model.roles.names:
        layer.lora_dropout[role] = torch.nn.Dropout(0.25)
    x = torch.randn(2, 5, layer.base_layer.in_features)
    with model.roles.acting_as("generator"):
        plain = layer.eval()(x)
        total = sum(layer.train()(x).detach() for _ in range(4000)) / 4000
        assert torch.equal(layer.eval()(x), plain)
    torch.testing.assert_close(total, plain.detach(), atol=0.1, rtol=0.05)
