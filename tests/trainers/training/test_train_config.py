"""Settings: published names and defaults, contradictions with their fix, YAML, the command line."""

from pathlib import Path

import pytest

from clara_model.errors import ClaraError
from trainers.training.cli import build_parser, main
from trainers.training.train_config import SETTINGS, STAGE_DEFAULTS, STAGES, TrainConfig, read_yaml

PRETRAIN = {"pretrain": "base", "dataset": "a.jsonl"}
LATER = {"pretrain_checkpoint": "before", "dataset": "a.jsonl"}


def test_defaults_by_stage():
    first = TrainConfig.for_stage("pretrain", **PRETRAIN)
    assert (first.compress_rate, first.doc_max_length, first.zero_stage, first.lr_warmup_ratio) == (32, 256, 2, 0.03)
    assert (first.learning_rate, first.max_len, first.train_batch_size, first.mse_loss) == (1e-4, 2048, 128, True)
    last = TrainConfig.for_stage("end_to_end", **LATER)
    assert (last.learning_rate, last.max_len, last.train_batch_size, last.mse_loss) == (5e-6, 1024, 32, False)
    assert (last.generation_top_k, last.lr_scheduler, last.l2, last.max_norm) == (5, "constant", 0.0, 1.0)
    assert last.adam_betas == (0.9, 0.95) and last.seed == 42


@pytest.mark.parametrize(("name", "own"), [("stage1", "pretrain"), ("stage1_2", "instruct"), ("stage2", "end_to_end")])
def test_published_stage_names(name: str, own: str):
    assert TrainConfig.for_stage(name, **PRETRAIN, pretrain_checkpoint="c").stage == own


def test_contrastive_warm_up_by_its_published_name():
    config = TrainConfig.for_stage("stage2_pretrain_retrieval", **LATER)
    assert config.stage == "end_to_end" and config.objective_stage == "pretrain_retrieval"


def test_any_rate_from_1_to_256():
    for rate in (1, 2, 4, 16, 32, 64, 128, 256):
        assert TrainConfig.for_stage("pretrain", **PRETRAIN, compress_rate=rate).compress_rate == rate


WRONG = [
    ("pretrain", {"dataset": "a"}, "needs a base model; pass --pretrain"),
    ("pretrain", {"pretrain": "b"}, "no training data was given; pass --dataset"),
    ("instruct", {"dataset": "a"}, "starts from a pretrain checkpoint; pass --pretrain_checkpoint"),
    ("stage9", PRETRAIN, "stage must be one of pretrain, instruct"),
    ("stage2_reasoning", LATER, "got 'stage2_reasoning': the multi-hop stage .* is not built"),
    ("pretrain", {**PRETRAIN, "max_epochs": 2, "num_train_epochs": 3}, "max_epochs is given twice, as 2 and as 3"),
    ("end_to_end", {**LATER, "mse_loss": True}, "mse_loss would train the compressor"),
    ("pretrain", {**PRETRAIN, "learning_rat": 1}, "unknown setting 'learning_rat'"),
    ("pretrain", {**PRETRAIN, "learning_rate": 0}, "learning_rate must be more than 0, got 0"),
    ("pretrain", {**PRETRAIN, "learning_rate": "fast"}, "must be of type float, got 'fast'"),
    ("pretrain", {**PRETRAIN, "max_epochs": 0}, "max_epochs must be more than 0"),
    ("pretrain", {**PRETRAIN, "l2": -1}, "l2 must be at least 0"),
    ("pretrain", {**PRETRAIN, "zero_stage": 4}, "zero_stage must be 0, 1, 2 or 3, got 4"),
    ("pretrain", {**PRETRAIN, "zero_offload": "disk"}, "zero_offload must be optimizer or weights, .* got 'disk'"),
    ("pretrain", {**PRETRAIN, "zero_offload": "weights"}, "pass --zero_stage 3, not 2"),
    ("pretrain", {**PRETRAIN, "zero_offload": "optimizer", "zero_stage": 0}, "pass 1, 2 or 3"),
    ("pretrain", {**PRETRAIN, "quantization": "int3"}, "quantization must be int8 or int4, or left out, got 'int3'"),
    ("pretrain", {**PRETRAIN, "quantization": "int4"}, "computes in 16 bits; pass --bf16 too"),
    (
        "pretrain",
        {**PRETRAIN, "quantization": "int4", "bf16": True, "zero_stage": 3},
        "zero_stage 3 cannot split a base in int4; pass --zero_stage 2",
    ),
    ("pretrain", {**PRETRAIN, "base_dtype": "int4"}, "base_dtype must be float32, bfloat16 or float16"),
    ("pretrain", {**PRETRAIN, "base_dtype": "bfloat16"}, "base_dtype bfloat16 computes in 16 bits; pass --bf16 too"),
    ("pretrain", {**PRETRAIN, "save_steps": 0}, "save_steps must be at least 1, or -2"),
    ("pretrain", {**PRETRAIN, "eval_steps": -2}, "eval_steps must be at least 1, or -1 as --help"),
    ("pretrain", {**PRETRAIN, "shuffle_documents": 1.5}, "shuffle_documents must be a share, 0 to 1, got 1.5"),
    ("pretrain", {**PRETRAIN, "lr_warmup_ratio": 1.0}, r"lr_warmup_ratio must be in \[0, 1\), got 1.0"),
    ("pretrain", {**PRETRAIN, "bad_rows": "keep"}, "bad_rows must be error or skip, got 'keep'"),
    ("end_to_end", {**LATER, "ranking_loss": "hints"}, "must be labels or likelihood, or left out, got 'hints'"),
    ("pretrain", {**PRETRAIN, "ranking": "early"}, "ranking must be cosine or late, got 'early'"),
    ("pretrain", {**PRETRAIN, "read_text": True}, "pass --qa_loss false too"),
    ("pretrain", {**PRETRAIN, "residual_gate": False, "mse_loss": False}, "pass --residual anchors"),
    ("pretrain", {**PRETRAIN, "dataset_probs": [-1.0]}, "dataset_probs must be at least 0 and not all 0"),
    ("pretrain", {**PRETRAIN, "compress_rate": 257, "doc_max_length": 512}, "at most 256"),
    ("pretrain", {**PRETRAIN, "compress_rate": 64, "doc_max_length": 32}, r"at most doc_max_length \(32\), got 64"),
    (
        "pretrain",
        {**PRETRAIN, "lr_scheduler": "square"},
        "must be cosine, cosine_with_min_lr, linear or constant",
    ),
    ("pretrain", {**PRETRAIN, "adam_betas": [0.9]}, "adam_betas must be two numbers"),
    ("pretrain", {**PRETRAIN, "dataset_probs": [0.5, 0.5]}, "one weight for each of the 1 data sets, got 2"),
    (
        "pretrain",
        {**PRETRAIN, "train_batch_size": 4, "micro_train_batch_size": 8},
        r"\(8\) must be at most train_batch",
    ),
    ("pretrain", {**PRETRAIN, "flash_attn": True}, "pass --bf16 too"),
    ("pretrain", {**PRETRAIN, "torch_compile": True, "zero_stage": 3}, "torch_compile cannot follow .* --zero_stage 2"),
    ("pretrain", {**PRETRAIN, "compress_rate": 1, "max_len": 256}, "cannot hold 1 documents of 256 memory tokens each"),
]


@pytest.mark.parametrize(("stage", "values", "message"), WRONG)
def test_what_cannot_be_meant_is_refused_with_the_fix(stage: str, values: dict, message: str):
    with pytest.raises(ClaraError, match=message):
        TrainConfig.for_stage(stage, **values)


READER = {"read_text": True, "qa_loss": False}
IDLE = [
    ("pretrain", {"keep_generator": True}, "keep_generator does nothing in stage pretrain, only in instruct"),
    ("pretrain", {"temperature": 0.1}, "temperature does nothing in stage pretrain, only in end_to_end"),
    ("pretrain", {"mse_loss": False, "mse_weight": 0.2}, "mse_weight does nothing without mse_loss"),
    ("pretrain", {"do_eval_gen": True}, "do_eval_gen does nothing without an evaluation set (--eval_dataset FILE)"),
    ("pretrain", {"eval_steps": 10}, "eval_steps does nothing without an evaluation set (--eval_dataset FILE)"),
    ("pretrain", {"shuffle_group": 4, "shuffle": False}, "shuffle_group does nothing with --shuffle False"),
    ("pretrain", {"group_by_length": True, "shuffle": False}, "group_by_length does nothing with --shuffle False"),
    ("pretrain", {"new_learning_rate": 1e-5}, "new_learning_rate does nothing without load_checkpoint"),
    ("pretrain", {"early_stopping": 2}, "early_stopping does nothing without best_metric"),
    ("pretrain", {"best_metric": "em"}, "best_metric does nothing without an evaluation set (--eval_dataset FILE)"),
    ("pretrain", {"save_steps": 5, "save_minutes": 1.0}, "save_minutes does nothing with save_steps"),
    (
        "pretrain",
        {"save_steps": 5, "disable_ds_ckpt": True},
        "save_steps does nothing with disable_ds_ckpt and",
    ),
    ("pretrain", {**READER, "residual_gate": False, "residual": "anchors"}, "residual_gate does nothing with"),
    ("end_to_end", {**LATER, "ranking_weight": 0.5}, "ranking_weight does nothing without ranking_loss"),
    (
        "end_to_end",
        {**LATER, "ranking_loss": "labels"},
        "ranking_loss does nothing without ranking_warmup or",
    ),
    ("pretrain", {"wandb_group": "g"}, "wandb_group does nothing without use_wandb"),
    ("pretrain", {"flash_attn": True, "bf16": True, "use_cpu": True}, "flash_attn does nothing without a GPU"),
    ("pretrain", {"use_ms": True}, "--use_ms means nothing here (models come from"),
    ("pretrain", {"ds_tensor_parallel_size": "2"}, "--ds_tensor_parallel_size means nothing here (weights are split"),
]


@pytest.mark.parametrize(("stage", "values", "sentence"), IDLE)
def test_what_has_no_effect_is_named_and_goes_on(stage: str, values: dict, sentence: str):
    found = TrainConfig.for_stage(stage, **{**PRETRAIN, **values}).idle()
    assert len(found) == 1 and found[0].startswith(sentence)


def test_every_setting_of_some_stages_is_named_in_the_others():
    asked = {"bool": True, "int": 3, "float": 0.5, "str": "labels"}
    for name, setting in SETTINGS.items():
        for stage in set(STAGES) - set(setting.metadata.get("only", STAGES)) - {"end_to_end" * (name == "mse_loss")}:
            values = {**PRETRAIN, **LATER, "qa_loss": name != "read_text", name: asked[setting.type]}
            named = [one for one in TrainConfig.for_stage(stage, **values).idle() if " in stage " in one]
            assert [one.split()[0] for one in named] == ([] if name == "qa_loss" else [name])


def test_a_plain_run_has_nothing_idle():
    for stage, values in (("pretrain", PRETRAIN), ("instruct", LATER), ("end_to_end", LATER)):
        assert TrainConfig.for_stage(stage, **values).idle() == []


def test_settings_of_training_arguments_work_under_their_own_names():
    words = "--optim adafactor --torch_compile --report_to tensorboard,wandb --save_total_limit 5 --num_train_epochs 2"
    values = vars(build_parser().parse_args([*words.split(), "--weight_decay", "0.1", "--dataloader_num_workers", "2"]))
    config = TrainConfig.for_stage("pretrain", **PRETRAIN, **values)
    assert config.trainer == {"optim": "adafactor", "torch_compile": True, "report_to": ["tensorboard", "wandb"]}
    assert (config.max_ckpt_num, config.max_epochs, config.l2, config.dataloader_workers) == (5, 2, 0.1, 2)
    assert config.to_dict()["optim"] == "adafactor"


def test_what_is_switched_off_contradicts_nothing():
    config = TrainConfig.for_stage("pretrain", **PRETRAIN, torch_compile=False, zero_stage=3)
    assert config.trainer == {"torch_compile": False}


def test_flags_take_words_and_lists():
    parse = build_parser().parse_args
    assert vars(parse(["--shuffle", "False", "--base_model", "b"])) == {"shuffle": False, "pretrain": "b"}
    config = TrainConfig.for_stage("pretrain", pretrain="b", dataset="a.jsonl,b.jsonl", dataset_probs="0.3,0.7")
    assert parse(["--dataset_probs", "0.3,0.7"]).dataset_probs == ["0.3,0.7"]
    assert config.dataset == ("a.jsonl", "b.jsonl") and config.dataset_probs == (0.3, 0.7)


def test_help_shows_every_setting_with_its_default(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    for name in TrainConfig.for_stage("pretrain", **PRETRAIN).to_dict():
        assert f"--{name}" in shown
    for words in ("optimization:", "checkpointing:", "--torch_compile", "0.0001 / 0.0001 / 5e-06 by stage"):
        assert words in " ".join(shown.split())


def test_yaml_holds_the_same_names_and_the_command_line_wins(tmp_path: Path, capsys):
    (tmp_path / "run.yaml").write_text("stage: stage1\npretrain: base\ndataset: [a.jsonl]\nlearning_rate: 1e-3\n")
    values = read_yaml(tmp_path / "run.yaml")
    assert TrainConfig.for_stage(values.pop("stage"), **values).learning_rate == 1e-3
    assert main(["--config", str(tmp_path / "run.yaml"), "--learning_rate", "-1"]) == 2
    assert "learning_rate must be more than 0, got -1" in capsys.readouterr().err


def test_an_argument_that_is_none_is_said_in_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--stage", "pretrain", "--learning_rate", "fast"])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.startswith(
        "clara-train: argument --learning_rate: invalid float value: 'fast'"
    )
    assert said.count("\n") == 1


def test_settings_survive_yaml():
    config = TrainConfig.for_stage("instruct", **LATER, seed=3)
    values = config.to_dict()
    again = TrainConfig.for_stage(values.pop("stage"), **{k: v for k, v in values.items() if k in ("seed", *LATER)})
    assert again.to_dict() == config.to_dict()


@pytest.mark.parametrize(("text", "message"), [("- a\n", "must hold a mapping"), ("a: [\n", "no valid YAML")])
def test_unreadable_yaml_is_one_sentence(tmp_path: Path, text: str, message: str):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ClaraError, match=message):
        read_yaml(tmp_path / "run.yaml")


def test_every_stage_has_the_same_defaults_to_fill_in():
    assert len({frozenset(values) for values in STAGE_DEFAULTS.values()}) == 1
