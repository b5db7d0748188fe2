"""What the systems share whose decoder reads vectors in place of text: files to models, one greedy loop, the reader.

A system says how a text becomes vectors and how a prompt is put together; one question is answered at a time, as their
own evaluations do. Shapes: ``L`` positions, ``k`` vectors of a passage, ``D`` hidden size of the decoder.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from clara_model.checkpoint import base_files
from clara_model.checkpoint.tensor_files import load_pickle
from clara_model.errors import ClaraError, blaming
from clara_model.inference.pipeline import Written
from trainers.evaluation.answerers import Budget, Read, chosen_texts, most_that_fit
from trainers.evaluation.measuring import Meter
from trainers.evaluation.systems import find

if TYPE_CHECKING:
    from clara_model.inference.clara import Clara
    from trainers.evaluation.questions import Question
    from trainers.evaluation.rankers import Ranked


class SoftPromptReader(ABC):
    """Answers from the vectors of the best passages; a passage's are made once.

    ``decoder`` and ``tokenizer`` are set by the system's constructor, ``ends`` are ids that end an answer and ``stops``
    texts before which it is cut.
    """

    system: str
    """Its name, for errors."""
    decoder: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    ends: Sequence[int] = ()
    stops: Sequence[str] = ()

    def __init__(self, clara: Clara, budget: Budget) -> None:
        self.clara, self.budget = clara, budget
        self.device, self.dtype = clara.model.device, clara.model.base.dtype
        self._vectors: dict[str, Tensor] = {}

    @abstractmethod
    def compress(self, text: str) -> Tensor:
        """The vectors of a passage, ``[k, D]``."""

    @abstractmethod
    def prompt(self, question: str, blocks: Sequence[Tensor]) -> Tensor:
        """The decoder's input ``[L, D]`` for the vectors of some passages, best first."""

    def positions(self, blocks: Sequence[Tensor], length: int) -> Tensor | None:
        """The position of each of ``length`` inputs, ``[L]``; None for 0, 1, 2 .."""
        return None

    def read(self, questions: Sequence[Question], ranked: Sequence[Ranked], meter: Meter) -> list[Read]:
        """An answer to each question from the best of its passages."""
        return [self._read(*pair, meter) for pair in zip(questions, ranked, strict=True)]

    @torch.no_grad()
    def _read(self, question: Question, ranked: Ranked, meter: Meter) -> Read:
        texts = chosen_texts(question, ranked, self.budget.top_k)
        with meter.phase("compress"):
            for text in set(texts) - self._vectors.keys():
                self._vectors[text] = self.compress(text)
        blocks = [self._vectors[text] for text in texts]
        reads = getattr(self.decoder.config, "max_position_embeddings", None) or 2**62
        room = min(reads - self.budget.max_new_tokens, self.budget.prompt_tokens or 2**62)
        count = most_that_fit(len(blocks), room, lambda k: len(self.prompt(question.text, blocks[:k])))
        with meter.phase("generate"):
            prompt = self.prompt(question.text, blocks[:count])
            written = self.write(prompt, self.positions(blocks[:count], len(prompt)))
        return Read(written, count, sum(map(self.clara.count_tokens, texts[:count])), len(texts) - count)

    def write(self, prompt_LD: Tensor, positions_L: Tensor | None = None) -> Written:
        """Go on greedily, until an id in ``ends``, a text in ``stops``, or the budget's last token."""
        inputs: dict[str, Any] = {"inputs_embeds": prompt_LD[None].to(self.dtype)}
        place = None if positions_L is None else positions_L.to(self.device)
        ids: list[int] = []
        cache, text, reason = None, "", "length"
        for _ in range(self.budget.max_new_tokens):
            if place is not None:
                inputs["position_ids"] = place[None]
                place = place[-1:] + 1
            made = self.decoder(**inputs, past_key_values=cache, use_cache=True)
            cache = made.past_key_values
            ids.append(int(made.logits[0, -1].argmax()))
            text = str(self.tokenizer.decode(ids, skip_special_tokens=True))
            if ids[-1] in self.ends or any(stop in text for stop in self.stops):
                reason = "stop"
                break
            inputs = {"input_ids": torch.tensor([ids[-1:]], device=self.device)}
        for stop in self.stops:
            text = text.partition(stop)[0]
        return Written(text.strip(), len(prompt_LD), len(ids), reason)

    def embed(self, ids: Sequence[int]) -> Tensor:
        """Rows of the decoder's vocabulary, ``[L, D]``."""
        places = torch.tensor(list(ids), dtype=torch.long, device=self.device)
        rows: Tensor = self.decoder.get_input_embeddings()(places)
        return rows

    @staticmethod
    def vocabulary(model: PreTrainedModel) -> int:
        """Rows of a model's vocabulary."""
        weight = model.get_input_embeddings().weight
        assert isinstance(weight, Tensor)
        return len(weight)

    def text_ids(self, text: str) -> list[int]:
        """The decoder's ids of a text, without specials."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def states(model: PreTrainedModel, embeddings_LD: Tensor, positions_L: Tensor | None = None) -> Tensor:
    """The last hidden states, after the final norm, ``[L, D]`` float32."""
    inputs = {} if positions_L is None else {"position_ids": positions_L[None].to(embeddings_LD.device)}
    made = model.base_model(inputs_embeds=embeddings_LD[None].to(model.dtype), **inputs)
    state_LD: Tensor = made.last_hidden_state[0].float()
    return state_LD


def load(name: str, owner: SoftPromptReader, *, states_only: bool = False) -> tuple[PreTrainedModel, Path]:
    """One of a system's models, of a kind that transformers has, in evaluation mode, and its folder.

    Further tensors in its files are left out; one that is damaged, or asks for code of its own, is a `ClaraError`.
    """
    folder = base_files.check(find(name, owner.system)).folder
    kind = AutoModel if states_only else AutoModelForCausalLM
    with blaming(folder), base_files.without_bars():
        model: PreTrainedModel = kind.from_pretrained(folder, dtype=owner.dtype, trust_remote_code=False)
    return model.to(owner.device).eval(), folder  # type: ignore[arg-type]


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub name."""
    with blaming(Path(name)):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    return tokenizer


def tensors(folder: Path, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    """The wanted tensors of a folder's weight files by name; a `ClaraError` if there are no files, or damaged ones."""
    found: dict[str, Tensor] = {}
    for file in base_files.weight_files(folder):
        if file.suffix == ".safetensors":
            with blaming(file), safe_open(file, "pt") as opened:
                found |= {name: opened.get_tensor(name) for name in opened.keys() if wanted(name)}
        else:
            found |= {name: tensor for name, tensor in load_pickle(file).items() if wanted(name)}
    return found


def need(found: dict[str, Tensor], name: str, folder: Path, owner: SoftPromptReader) -> Tensor:
    """One of the tensors. Raises `ClaraError`: it is not there, so that the folder is of another format."""
    if name not in found:
        raise ClaraError(f"{folder} holds no {name!r}, which the weights of {owner.system} have; is it another model?")
    return found[name]
