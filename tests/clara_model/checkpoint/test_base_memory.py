"""A base whose file has the precision asked for is mapped: the processes of a machine share it, none holds a copy."""

import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from clara_model.checkpoint.base_model import load_base
from clara_model.checkpoint.options import LoadOptions

MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def large(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of 72 MiB in bfloat16, in several files."""
    folder = tmp_path_factory.mktemp("large") / "base"
    shutil.copytree(base_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = LlamaConfig.from_pretrained(base_folder)
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = 1024, 4096, 2
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = 8, 8, 128
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder, max_shard_size="20MB")
    return folder


def own_memory() -> int:
    """Bytes of this process that no file stands behind."""
    text = Path("/proc/self/smaps_rollup").read_text()
    found = re.search(r"^Anonymous:\s+(\d+) kB", text, re.MULTILINE)
    assert found
    return int(found[1]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("dtype", "own"), [(torch.bfloat16, False), (torch.float32, True)])
def test_only_another_precision_takes_memory_of_its_own(large: Path, dtype: torch.dtype, own: bool):
    before = own_memory()
    model, _ = load_base(str(large), LoadOptions(dtype=dtype, device="cpu"))
    with torch.no_grad():
        model(torch.tensor([[1, 2, 3]]))
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    assert size > 60 * MEBIBYTE
    assert (own_memory() - before > size / 4) is own
