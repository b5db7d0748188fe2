"""LLMLingua-2 (arXiv 2403.12968): a text without the words that a token classifier would leave out.

``microsoft/llmlingua-2-{xlm-roberta-large,bert-base-multilingual-cased}-meetingbank`` (MIT): two labels a token, the
second for keeping it. A word's chance is its tokens' mean; of each piece of at most 511 tokens those words are kept
whose chance is above the percentile of the rate, where a word counts as often as the reader has tokens for it (the
published package counts those of GPT-3.5, whose vocabulary it fetches from elsewhere).
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence

import numpy as np
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer

from clara_model.checkpoint import base_files
from clara_model.errors import ClaraError, blaming
from trainers.evaluation.systems import find

TOKENS = 510
"""Of a piece, beside the two around it."""
ENDS = (".", "\n")
"""Where a piece ends where it can."""
Word = tuple[int, int, float]
"""Start and end in the text, and the chance that it is kept."""


class LLMLingua2:
    """A classifier in memory. ``LLMLingua2(name, device).shorten(text, 0.25, count_tokens)``"""

    def __init__(self, name: str, device: torch.device | str = "cpu") -> None:
        self.folder = folder = find(name, "LLMLingua-2")
        with blaming(folder), base_files.without_bars():
            self._words = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            model = AutoModelForTokenClassification.from_pretrained(folder, trust_remote_code=False)
        if model.config.num_labels != 2 or not self._words.is_fast:
            raise ClaraError(f"{folder} is no classifier with two labels and a fast tokenizer, as LLMLingua-2's are")
        self._model, self._device = model.to(device).eval(), device
        # the package writes these two words around every piece, also where a vocabulary knows neither
        self._around = [self._words.convert_tokens_to_ids(word) for word in ("[CLS]", "[SEP]")]
        self._pieced = any(token.startswith("##") for token in self._words.get_vocab())

    def shorten(self, text: str, rate: float, count: Callable[[str], int]) -> str:
        """The text without its least needed words: a share (``rate``, above 0) of them stays, in order.

        ``count`` gives a word's tokens for who reads the result. A blank text comes back as it is.
        """
        kept: list[Word] = []
        for piece in self._pieces(text):
            kept += best(piece, [max(1, count(text[start:end])) for start, end, _ in piece], rate)
        parts = [
            ("" if not index or kept[index - 1][1] == start else " ") + text[start:end].strip()
            for index, (start, end, _) in enumerate(kept)
        ]
        return "".join(parts) if text.strip() else text

    @torch.no_grad()
    def _pieces(self, text: str) -> list[list[Word]]:
        """The words of each piece."""
        made = self._words(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, places = made["input_ids"], made["offset_mapping"]
        tokens = self._words.convert_ids_to_tokens(ids)
        pieces: list[list[Word]] = []
        start = 0
        while start < len(ids):
            end = min(len(ids), start + TOKENS)
            if end < len(ids):  # at a sentence's end, if there is one
                end = next((at + 1 for at in range(end - 1, start, -1) if tokens[at] in ENDS), end)
            first, last = self._around
            row = torch.tensor([[first, *ids[start:end], last]], device=self._device)
            chances = self._model(input_ids=row).logits.float().softmax(-1)[0, 1:-1, 1].tolist()
            pieces.append(self._merged(tokens[start:end], places[start:end], chances))
            start = end
        return pieces

    def _merged(self, tokens: Sequence[str], places: Sequence[tuple[int, int]], chances: Sequence[float]) -> list[Word]:
        """Tokens as words: a word goes on with ``##``, or begins with ``▁`` or a sign."""
        words: list[list[int]] = []
        for number, token in enumerate(tokens):
            begins = not token.startswith("##") if self._pieced else token[0] == "▁" or token in string.punctuation
            if begins or not words:
                words.append([])
            words[-1].append(number)
        return [
            (places[word[0]][0], places[word[-1]][1], float(np.mean([chances[number] for number in word])))
            for word in words
        ]


def best(words: Sequence[Word], counts: Sequence[int], rate: float) -> list[Word]:
    """The words above the percentile of the rate, each of which counts ``counts`` times."""
    if not words or rate >= 1:
        return list(words)
    weighed = [chance for (_, _, chance), count in zip(words, counts, strict=True) for _ in range(count)]
    threshold = np.percentile(weighed, int(100 * (1 - rate) + 1))
    return [word for word in words if word[2] > threshold]
