"""On a CUDA device: float32, bfloat16, flash attention, checkpointed gradients, 8 and 4 bits against the CPU."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import small_model
import torch
from transformers.utils import is_flash_attn_2_available

from clara_model import ClaraModel
from clara_model.modeling import merged
from clara_model.modeling.objectives import Objective, TrainingModel

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over the norm of what is expected."""
    found, expected = found.double().cpu(), expected.double().cpu()
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    ("dtype", "attention", "tolerance"),
    [
        (torch.float32, "sdpa", 1e-3),
        (torch.bfloat16, "sdpa", 3e-2),
        pytest.param(
            torch.bfloat16,
            "flash_attention_2",
            3e-2,
            marks=pytest.mark.skipif(not is_flash_attn_2_available(), reason="needs flash-attn"),
        ),
    ],
)
def test_latents_agree_with_the_cpu(tiny_clara_folder, model, dtype, attention, tolerance):
    on_gpu = ClaraModel.from_pretrained(tiny_clara_folder, dtype=dtype, device="cuda", attn_implementation=attention)
    expected = model.compress(small_model.TEXTS).vectors
    assert relative(on_gpu.compress(small_model.TEXTS).vectors, expected) < tolerance


def test_answers_in_float32_are_the_cpus(tiny_clara_folder, model):
    on_gpu = ClaraModel.from_pretrained(tiny_clara_folder, dtype=torch.float32, device="cuda")
    candidates = [small_model.TEXTS] * len(small_model.QUESTIONS)
    expected = model.generate_from_questions(small_model.QUESTIONS, candidates, 8)
    found = on_gpu.generate_from_questions(small_model.QUESTIONS, candidates, 8)
    assert found[0] == expected[0]
    assert found[1].tolist() == expected[1].tolist()


def test_recorded_graphs_write_and_encode_what_the_layers_do(tiny_clara_folder, model):
    how = {"dtype": torch.float32, "device": "cuda"}
    graphs = ClaraModel.from_pretrained(tiny_clara_folder, decoding="compiled", **how)
    candidates = [small_model.TEXTS] * len(small_model.QUESTIONS)
    expected = model.generate_from_questions(small_model.QUESTIONS, candidates, 8)
    with ThreadPoolExecutor(1) as other:  # as `Clara` does, a thread that has not recorded
        for found in (
            graphs.generate_from_questions(small_model.QUESTIONS, candidates, 8),
            other.submit(graphs.generate_from_questions, small_model.QUESTIONS, candidates, 8).result(),
        ):
            assert found[0] == expected[0] and found[1].tolist() == expected[1].tolist()
    assert graphs.compiled is not None and graphs.compiled._works
    for question in small_model.QUESTIONS:
        wanted = model.encode_queries([question]).vectors
        assert relative(graphs.encode_queries([question]).vectors, wanted) < 1e-3


def test_the_generator_is_merged_as_far_as_the_gpus_memory_goes(tiny_clara_folder, monkeypatch):
    monkeypatch.setattr(merged, "MERGED_BYTES", 0)
    model = ClaraModel.from_pretrained(tiny_clara_folder, dtype=torch.bfloat16, device="cuda")
    with model.merged.in_use():
        assert all(layer.merged_weight is not None for layer in model.roles.layers().values())
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 1))
    model = ClaraModel.from_pretrained(tiny_clara_folder, dtype=torch.bfloat16, device="cuda")
    with model.merged.in_use():
        assert all(layer.merged_weight is None for layer in model.roles.layers().values())


def stage3_gradients(model: ClaraModel, checkpointing: bool) -> dict[str, torch.Tensor]:
    """Gradients of one end-to-end step."""
    training = TrainingModel(model, Objective(stage="end_to_end", top_k=2)).train()
    if checkpointing:
        training.gradient_checkpointing_enable()
    documents = small_model.documents(model.tokens, small_model.TEXTS)
    questions = small_model.documents(model.tokens, small_model.QUESTIONS)
    prompt = model.config.prompts.answer
    examples = [model.tokens.example(prompt, 2, "Larkhaven", 512, question) for question in small_model.QUESTIONS]
    ids, mask = model.tokens.pad([example.ids for example in examples])
    labels, _ = model.tokens.pad([example.labels for example in examples], -100)
    index = torch.arange(len(small_model.TEXTS)).expand(len(examples), -1)
    batch = {
        **{"document_ids": documents.ids, "document_mask": documents.mask, "document_index": index},
        **{"question_ids": questions.ids, "question_mask": questions.mask},
        **{"prompt_ids": ids, "prompt_mask": mask, "labels": labels},
    }
    training(**{name: tensor.to(model.device) for name, tensor in batch.items()})["loss"].backward()
    return {name: p.grad.cpu() for name, p in training.named_parameters() if p.grad is not None}


def test_gradients_are_the_same_with_checkpointing_and_on_the_cpu(base_folder):
    def fresh() -> ClaraModel:
        return small_model.build_model(base_folder, lora_dropout=0.0)

    expected = stage3_gradients(fresh(), checkpointing=False)
    plain = stage3_gradients(fresh().to("cuda"), checkpointing=False)
    recomputed = stage3_gradients(fresh().to("cuda"), checkpointing=True)
    assert expected.keys() == plain.keys() == recomputed.keys()
    for name in expected:
        assert relative(recomputed[name], plain[name]) < 1e-5, name
        assert relative(plain[name], expected[name]) < 5e-3, name


@pytest.fixture(scope="module")
def whole_blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose layers are whole blocks of 64, what bitsandbytes rounds together."""
    place = tmp_path_factory.mktemp("blocks")
    base = small_model.save_base(place / "base", hidden=64)
    small_model.build_model(base, lora_dropout=0.0).save_pretrained(place / "clara")
    return place / "clara"


def in_bits(folder: Path, kind: str | None, device: str) -> ClaraModel:
    pytest.importorskip("bitsandbytes")
    return ClaraModel.from_pretrained(folder, dtype=torch.float32, device=device, quantization=kind)


def test_a_base_in_4_bits_has_the_cpus_latents_and_gradients(whole_blocks):
    here, there = (in_bits(whole_blocks, "int4", device) for device in ("cpu", "cuda"))
    expected = here.compress(small_model.TEXTS).vectors
    assert relative(there.compress(small_model.TEXTS).vectors, expected) < 1e-3
    assert relative(in_bits(whole_blocks, None, "cuda").compress(small_model.TEXTS).vectors, expected) > 1e-2
    expected, found = (stage3_gradients(model, checkpointing=False) for model in (here, there))
    assert expected.keys() == found.keys()
    for name in expected:
        assert relative(found[name], expected[name]) < 5e-3, name


def test_a_base_in_8_bits_has_latents_near_its_own(whole_blocks):
    models = [in_bits(whole_blocks, kind, "cuda") for kind in ("int8", None)]
    found, expected = (model.compress(small_model.TEXTS).vectors.flatten(1) for model in models)
    assert torch.nn.functional.cosine_similarity(found, expected).min() > 0.999
