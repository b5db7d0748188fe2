"""ClaraConfig: checked values, exact serialisation, and the published fields."""

import json
from pathlib import Path

import pytest

from clara_model.checkpoint.config import ClaraConfig, from_published, read_json
from clara_model.checkpoint.prompts import Prompt, PromptSet
from clara_model.errors import ClaraError

PUBLISHED = {
    "decoder_model_name": "mistralai/Mistral-7B-Instruct-v0.2",
    "compr_rate": 16,
    "doc_max_length": 256,
    "generation_top_k": 5,
    "lora": True,
    "lora_r": 16,
    "sep": True,
    "different_mem_tokens": True,
    "training_stage": "stage2",
    "compr_model_name": None,
}


def test_default_values_are_the_papers():
    config = ClaraConfig(base_model="some/base")
    assert (config.doc_max_length, config.compression_rate, config.memory_tokens) == (256, 16, 16)
    assert (config.lora_rank, config.lora_alpha, config.lora_dropout, config.top_k) == (16, 32, 0.1, 5)


def test_memory_tokens():
    for length, rate, tokens in ((256, 16, 16), (256, 128, 2), (100, 32, 3), (7, 7, 1)):
        assert ClaraConfig(base_model="b", doc_max_length=length, compression_rate=rate).memory_tokens == tokens


def test_to_dict_is_exact():
    prompts = PromptSet(answer=Prompt(system="S", user=("{memory} {question}",)))
    config = ClaraConfig(base_model="b", roles=("compressor", "generator"), stage="instruct", prompts=prompts)
    assert config.to_dict() == {
        "format": "clara-1",
        "base_model": "b",
        "base_revision": None,
        "doc_max_length": 256,
        "compression_rate": 16,
        "roles": ["compressor", "generator"],
        "lora_rank": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.1,
        "top_k": 5,
        "max_prompt_length": 1024,
        "stage": "instruct",
        "prompts": {
            "answer": {"system": "S", "user": ["{memory} {question}"]},
            "question_answering": {"system": prompts.question_answering.system, "user": ["Background:\n{memory}"]},
            "paraphrase": {"system": prompts.paraphrase.system, "user": list(prompts.paraphrase.user)},
        },
        "licence": None,
    }


def test_from_dict_reads_to_dict_through_json():
    config = ClaraConfig(base_model="b", base_revision="abc", doc_max_length=64, compression_rate=8, lora_dropout=0.0)
    assert ClaraConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("value", [0, -1, 1.5, "16", True, None])
def test_counts_must_be_whole_and_positive(value: object):
    for name in ("doc_max_length", "compression_rate", "lora_rank", "lora_alpha", "top_k"):
        with pytest.raises(ClaraError, match=f"^{name} must be a whole number between 1 and 1048576, got "):
            ClaraConfig(base_model="b", **{name: value})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"doc_max_length": 8, "compression_rate": 16},
            r"compression_rate must be at most doc_max_length \(8\), got 16",
        ),
        ({"lora_dropout": 1.0}, r"lora_dropout must be in \[0, 1\), got 1.0"),
        ({"lora_dropout": -0.1}, r"lora_dropout must be in \[0, 1\), got -0.1"),
        ({"roles": ("compressor", "poet")}, "roles must be some of compressor, query_reasoner, generator"),
        ({"roles": ()}, "roles must be some of"),
        ({"roles": ("compressor", "compressor")}, "each once"),
        ({"stage": "stage2"}, "stage must be one of pretrain, instruct, end_to_end, got 'stage2'"),
    ],
)
def test_values_out_of_range(fields: dict, message: str):
    with pytest.raises(ClaraError, match=message):
        ClaraConfig(base_model="b", **fields)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"base_model": "b"}, "config.json has format None; this version reads 'clara-1'"),
        ({"format": "clara-9", "base_model": "b"}, "format 'clara-9'"),
        ({"format": "clara-1"}, "does not name its base_model"),
        ({"format": "clara-1", "base_model": "b", "depth": 3}, "unknown fields depth; was it saved by a newer version"),
        ({"format": "clara-1", "base_model": "b", "prompts": {"poem": {}}}, "unknown prompts poem"),
    ],
)
def test_from_dict_refuses(values: dict, message: str):
    with pytest.raises(ClaraError, match=message):
        ClaraConfig.from_dict(values)


def test_published_fields():
    config = from_published(PUBLISHED, ("compressor", "query_reasoner", "generator"), PromptSet())
    assert config == ClaraConfig(base_model="mistralai/Mistral-7B-Instruct-v0.2", stage="end_to_end", top_k=5)


def test_published_lora_scale_is_two():
    config = from_published(PUBLISHED | {"lora_r": 64}, ("compressor",), PromptSet())
    assert (config.lora_rank, config.lora_alpha) == (64, 128)


def test_published_stage_names():
    for published, ours in (("stage1", "pretrain"), ("stage1_2", "instruct"), ("stage2", "end_to_end")):
        assert from_published(PUBLISHED | {"training_stage": published}, ("compressor",), PromptSet()).stage == ours


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"decoder_model_name": None}, "lacks 'decoder_model_name'"),
        ({"compr_rate": None}, "lacks 'compr_rate'"),
        ({"compr_model_name": "bert"}, r"a separate compressor model \('bert'\) is not supported"),
        ({"lora": False}, "without LoRA adapters"),
        ({"sep": False}, "'sep' off is not supported"),
        ({"different_mem_tokens": False}, "'different_mem_tokens' or 'sep' off"),
    ],
)
def test_published_shapes_that_are_not_read(fields: dict, message: str):
    with pytest.raises(ClaraError, match=message):
        from_published(PUBLISHED | fields, ("compressor",), PromptSet())


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "is not valid JSON"), (b"\xff\xfe{}", "is not valid JSON"), (b"[]", "must hold a JSON object, got list")],
)
def test_damaged_json(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ClaraError, match=message):
        read_json(path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"roles": 5}, "roles must be some of"),
        ({"roles": [["compressor"]]}, "roles must be some of"),
        ({"roles": "compressor"}, "roles must be some of"),
        ({"prompts": 5}, "prompts must be an object"),
        ({"lora_dropout": "0"}, "lora_dropout must be in"),
        ({"lora_dropout": float("nan")}, "lora_dropout must be in"),
        ({"stage": ["end_to_end"]}, "stage must be one of"),
        ({"base_model": 5}, "base_model must be a hub name or a folder"),
        ({"base_model": "a\nb"}, "base_model must be a hub name or a folder"),
        ({"base_revision": 5}, "base_revision must be a name or null"),
        ({"doc_max_length": 10**5000}, "doc_max_length must be a whole number between 1 and 1048576, got int"),
        ({"doc_max_length": [[]] * 1000}, r"got \[\[\], .*\.\.$"),
    ],
)
def test_junk_in_a_configuration(fields: dict, message: str):
    with pytest.raises(ClaraError, match=message) as caught:
        ClaraConfig.from_dict({"format": "clara-1", "base_model": "b", **fields})
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("value", ["16", [16], True, 0, -1, 1.5, float("inf"), float("nan"), 10**9])
def test_junk_in_a_published_configuration(value: object):
    for name in ("doc_max_length", "compr_rate", "lora_r", "generation_top_k"):
        with pytest.raises(ClaraError, match=f"^{name} must be a whole number between 1 and 1048576, got "):
            from_published(PUBLISHED | {name: value}, ("compressor",), PromptSet())


def test_a_published_size_may_be_written_with_a_point():
    assert from_published(PUBLISHED | {"compr_rate": 16.0}, ("compressor",), PromptSet()).compression_rate == 16


def test_nesting_too_deep_to_read(tmp_path: Path):
    (tmp_path / "config.json").write_bytes(b'{"a":' * 100_000)
    with pytest.raises(ClaraError, match=r"config.json is nested too deeply to be read"):
        read_json(tmp_path / "config.json")
