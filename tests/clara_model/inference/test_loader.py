import gc
import os
import shutil
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from small_model import TEXTS

from clara_model import ClaraModel
from clara_model.checkpoint.devices import default_device, default_dtype
from clara_model.checkpoint.prompts import PromptSet
from clara_model.errors import ClaraError
from clara_model.inference.clara import Clara, loader
from clara_model.store.cache import LatentCache

HERE = {"dtype": "float32", "device": "cpu"}


@pytest.fixture
def folder(tiny_clara_folder, tmp_path):
    """A copy that a test may change, and that no other test has loaded."""
    return shutil.copytree(tiny_clara_folder, tmp_path / "clara")


@pytest.fixture
def loads(monkeypatch):
    """Every load that really happens."""
    made = []
    real = ClaraModel.from_options.__func__

    def counted(cls, *args, **kwargs):
        made.append(args)
        return real(cls, *args, **kwargs)

    monkeypatch.setattr(ClaraModel, "from_options", classmethod(counted))
    return made


def test_the_same_arguments_share_one_model_thread_and_cache(folder, loads):
    with Clara.load(folder, **HERE) as one, Clara.load(str(folder), dtype=torch.float32, device="cpu") as two:
        assert one.model is two.model
        assert one.shared.scheduler is two.shared.scheduler
        one.compress(TEXTS)
        assert one.store is two.store and len(two.store) == len(TEXTS)
        assert len(loads) == 1


def test_defaults_and_their_values_are_the_same(folder, loads):
    device = default_device()
    explicit = {"device": str(device), "dtype": default_dtype(device), "attn_implementation": "sdpa"}
    explicit["decoding"] = "quick"
    with Clara.load(folder) as one, Clara.load(folder, **explicit) as two:
        assert one.model is two.model


@pytest.mark.parametrize(
    "other",
    [
        {"dtype": "bfloat16"},
        {"decoding": "quick"},
        {"attn_implementation": "eager"},
        {"revision": "x"},
        {"prompts": PromptSet()},
    ],
    ids=lambda other: next(iter(other)),
)
def test_other_arguments_are_another_model(folder, other):
    with Clara.load(folder, **HERE) as one, Clara.load(folder, **{**HERE, **other}) as two:
        assert one.model is not two.model


def test_a_checkpoint_written_again_is_another_model(folder):
    with Clara.load(folder, **HERE) as one:
        later = (folder / "adapters.safetensors").stat().st_mtime_ns + 10**9
        os.utime(folder / "adapters.safetensors", ns=(later, later))
        with Clara.load(folder, **HERE) as two:
            assert one.model is not two.model


def test_the_last_close_frees_the_model(folder, loads):
    one, two = Clara.load(folder, **HERE), Clara.load(folder, **HERE)
    weight = weakref.ref(one.model.base.get_input_embeddings().weight)
    one.compress(TEXTS)
    one.close()
    assert weight() is not None
    assert two.compress(TEXTS).vectors.shape[0] == len(TEXTS)
    two.close()
    assert weight() is None, "close itself must free, without another garbage collection"
    assert str(folder) not in loader.loaded_models()
    Clara.load(folder, **HERE).close()
    assert len(loads) == 2


def test_a_clara_that_is_dropped_lets_go_too(folder):
    weight = weakref.ref(Clara.load(folder, **HERE).model.base.get_input_embeddings().weight)
    gc.collect()
    assert weight() is None


def test_threads_that_ask_at_once_load_once(folder, loads):
    gate = threading.Barrier(8)

    def work(_: int) -> Clara:
        gate.wait()
        return Clara.load(folder, **HERE)

    with ThreadPoolExecutor(8) as pool:
        claras = list(pool.map(work, range(8)))
    assert len({id(clara.model) for clara in claras}) == 1
    assert len(loads) == 1


def test_a_load_that_fails_leaves_nothing_behind(folder):
    good = (folder / "adapters.safetensors").read_bytes()
    (folder / "adapters.safetensors").write_bytes(good[:100])
    with pytest.raises(ClaraError, match="damaged"):
        Clara.load(folder, **HERE)
    assert str(folder) not in loader.loaded_models()
    (folder / "adapters.safetensors").write_bytes(good)
    with Clara.load(folder, **HERE) as clara:
        assert len(clara.compress(TEXTS)) == len(TEXTS)


def test_a_token_tells_no_models_apart(folder, loads):
    with Clara.load(folder, **HERE) as one, Clara.load(folder, token="secret", **HERE) as two:
        assert one.model is two.model and len(loads) == 1


def test_two_stores_on_one_model(folder):
    store = LatentCache()
    with Clara.load(folder, store=store, **HERE) as one, Clara.load(folder, **HERE) as two:
        assert one.model is two.model and one.store is store is not two.store
        one.compress(TEXTS)
        assert (len(store), len(two.store)) == (len(TEXTS), 0)


def test_the_cache_is_as_large_as_the_largest_asked_for(folder):
    with Clara.load(folder, cache_bytes=1000, **HERE) as one, Clara.load(folder, cache_bytes=5000, **HERE):
        assert one.store.max_bytes == 5000
        with Clara.load(folder, cache_bytes=10, **HERE):
            assert one.store.max_bytes == 5000


def test_closed_says_so_and_closing_twice_is_fine(folder):
    clara = Clara.load(folder, **HERE)
    clara.close()
    clara.close()
    uses = [
        lambda: clara.compress(TEXTS),
        lambda: clara.rank("q", TEXTS),
        lambda: clara.answer("q", TEXTS),
        lambda: clara.stream("q", TEXTS),
        lambda: clara.info(),
        lambda: clara.fingerprint,
    ]
    for use in uses:
        with pytest.raises(ClaraError, match=r"closed; load it again with Clara\.load"):
            use()


def test_wrappers_of_one_model_share_its_thread(model):
    one, two = Clara(model), Clara(model)
    assert one.shared.scheduler is two.shared.scheduler
    assert one.store is not two.store


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float8"}, "dtype must be one of float32, bfloat16, float16, got 'float8'"),
        ({"device": "abacus"}, "device 'abacus' is unknown"),
        ({"attn_implementation": "flash_attention_9"}, "attn_implementation must be one of"),
        ({"quantization": "int3"}, "quantization must be"),
        ({"cache_bytes": -1}, "cache_bytes must be at least 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_tokens": 0}, "batch_tokens must be at least 1, got 0"),
    ],
)
def test_bad_options(folder, options, message):
    with pytest.raises(ValueError, match=message):
        Clara.load(folder, **{**HERE, **options})


def test_an_option_that_there_is_not(folder):
    with pytest.raises(TypeError, match="unknown load option dtyp; known are subfolder, revision"):
        Clara.load(folder, dtyp="float32")
    with pytest.raises(TypeError, match="unknown load option dtyp; known are subfolder, revision"):
        ClaraModel.from_pretrained(folder, dtyp="float32")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there(folder):
    with pytest.raises(ClaraError, match="torch sees no GPU"):
        Clara.load(folder, device="cuda")
