"""Text to ids: special tokens, documents and questions for the encoder roles, prompts with slots for the generator.

Added special tokens, in this order: ``<MEM0>..<MEM(M-1)>``, ``<AE>``, ``<ENC>``, ``<SEP>``. A document or question is
``<ENC> bos text eos`` cut to ``doc_max_length + 3`` ids, then the ``M`` memory ids (published format).
Text is data, whoever wrote it (documents, questions, instructions, messages, a checkpoint's prompts): a text that holds
any special token's string is tokenised as plain text, all other text as one string with its frame, which keeps it equal
to the published tokenisation token for token. Only the slots and the chat template's own words are control tokens.
Nothing here changes once it is made, so any number of threads may tokenise at once.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from jinja2 import TemplateError
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from clara_model.checkpoint.chat_template import NO_SYSTEM, ChatTemplate, Places
from clara_model.checkpoint.config import ClaraConfig
from clara_model.checkpoint.prompts import Prompt
from clara_model.errors import ClaraError
from clara_model.modeling.plain_text import clean_text
from clara_model.validation import check_role
from clara_model.windows import split_places

logger = logging.getLogger(__name__)

READ_CHARS = 64
"""Characters read per token that can be kept; what lies beyond cannot reach the first ``doc_max_length`` tokens."""


ANSWER_ROOM = 64
"""Tokens of a training sequence that a long question leaves to the answer."""


@dataclass(frozen=True)
class Example:
    """One training sequence of the generator: ids and labels, -100 where nothing is learned."""

    ids: list[int]
    labels: list[int]
    shortened: bool = False
    """Its question, or the text in the slots' place, was too long and lost its end."""


class Tokens:
    """The base model's tokenizer with CLaRa's special tokens added."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, config: ClaraConfig) -> None:
        """Add the special tokens to ``tokenizer`` (changed in place).

        Raises:
            ClaraError: the tokenizer has no chat template or one that does not work, or no bos or eos token.
        """
        self.config = config
        self.tokenizer = tokenizer
        self._set_ends()
        self._plain = _without_added_tokens(tokenizer)
        self.memory_tokens = [f"<MEM{i}>" for i in range(config.memory_tokens)]
        tokenizer.add_tokens([*self.memory_tokens, "<AE>", "<ENC>", "<SEP>"], special_tokens=True)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.bos_token
        tokenizer.padding_side, tokenizer.truncation_side = "left", "right"
        self._chat = ChatTemplate(tokenizer)
        self._chat.check(system=any(prompt.system for prompt in config.prompts))
        self.memory_ids: list[int] = [self._id(token) for token in self.memory_tokens]
        self.added_ids = [*self.memory_ids, self._id("<AE>"), self._id("<ENC>"), self._id("<SEP>")]
        self._control = frozenset(self.added_ids)
        self.frame_ids = torch.tensor([self._id("<ENC>"), self._id(tokenizer.bos_token), self._id(tokenizer.eos_token)])
        """What stands around the text in an encoder's ids; a text itself never holds them."""
        self._markers = tuple(tokenizer.get_added_vocab())
        self._live = tokenizer.backend_tokenizer
        self._live.no_truncation()
        self._live.no_padding()
        self._encode_frame = f"<ENC>{tokenizer.bos_token}"

    def _set_ends(self) -> None:
        """Qwen-like tokenizers may name no bos or eos; theirs are the first two additional special tokens."""
        tokenizer = self.tokenizer
        if tokenizer.chat_template is None:
            raise ClaraError(
                f"the tokenizer of base model {self.config.base_model!r} has no chat template; use an instruct model"
            )
        if tokenizer.bos_token is not None and tokenizer.eos_token is not None:
            return
        extra = [str(token) for token in tokenizer.extra_special_tokens or []]
        known_as = f"{self.config.base_model} {type(tokenizer).__name__}".lower()
        if "qwen" not in known_as or len(extra) < 2:
            raise ClaraError(f"the tokenizer of base model {self.config.base_model!r} names no bos or no eos token")
        tokenizer.bos_token, tokenizer.eos_token = extra[0], extra[1]

    def _id(self, token: str) -> int:
        return cast(int, self.tokenizer.convert_tokens_to_ids(token))

    def __len__(self) -> int:
        """Vocabulary size with the added tokens; embeddings are resized to it."""
        return len(self.tokenizer)

    @property
    def no_answer_id(self) -> int | None:
        """The first token of what the generator writes where nothing answers; None where it was not trained to."""
        text = self.config.prompts.no_answer
        return self.answer_ids(text)[0] if text else None

    @cached_property
    def _shows_answers(self) -> bool:
        """Whether the chat template shows an assistant's turn exactly once."""
        return self.render("", "first probing words", "second probing words").count("second probing words") == 1

    # -- documents and questions -------------------------------------------------------------------------------

    def holds_marker(self, text: str) -> bool:
        """Whether the text contains any special token's string."""
        return any(marker in text for marker in self._markers)

    def plain_ids(self, text: str) -> list[int]:
        """The text tokenised with no special token recognised in it."""
        return list(self._plain.encode(text, add_special_tokens=False).ids)

    def placed_ids(self, text: str) -> list[tuple[int, int, int]]:
        """`plain_ids` with where each begins and ends in the text, in characters."""
        found = self._plain.encode(text, add_special_tokens=False)
        return [(token, start, end) for token, (start, end) in zip(found.ids, found.offsets, strict=True)]

    def _frame_ids(self, text: str) -> list[int]:
        return list(self._live.encode(text, add_special_tokens=False).ids)

    def count(self, text: str) -> int:
        """Text tokens of a document, special tokens not counted, before any cut."""
        return len(self.plain_ids(clean_text(text)))

    def windows(self, text: str) -> list[tuple[int, int]]:
        """Start and end of the stretches of a document that have at most ``doc_max_length`` tokens each.

        One stretch, the whole text as it is, where the text is no longer than that; at least one.
        """
        limit = self.config.doc_max_length
        read = _clipped(text, limit)
        if len(read) == len(text) and self.count(text) <= limit:
            return [(0, len(text))]
        return list(split_places(text, self.count, limit)) or [(0, len(text))]

    def reach(self, text: str) -> int:
        """Characters of a document that `document_ids` keeps; all of them where nothing is cut."""
        limit = self.config.doc_max_length + 1
        read = _clipped(text, limit)
        offsets = self._plain.encode(clean_text(read), add_special_tokens=False).offsets
        if len(offsets) <= limit:
            return len(read)
        if clean_text(read) == read:
            return offsets[limit - 1][1]
        return bisect_right(range(len(read) + 1), limit, key=lambda end: self.count(read[:end])) - 1

    def document_ids(self, text: str, max_length: int | None = None) -> list[int]:
        """``<ENC> bos text eos`` cut to ``doc_max_length + 3``, then the memory ids.

        Args:
            text: a document or a question; the empty string is allowed.
            max_length: text tokens to keep (default: ``doc_max_length``).
        """
        limit = (max_length or self.config.doc_max_length) + 3
        text = clean_text(_clipped(text, limit))
        if self.holds_marker(text):
            bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
            ids = [self._id("<ENC>"), bos, *self.plain_ids(text), eos]
        else:
            ids = self._frame_ids(f"{self._encode_frame}{text}{self.tokenizer.eos_token}")
        return ids[:limit] + self.memory_ids

    def lengths(self, rows: Sequence[list[int]]) -> tuple[int, ...]:
        """How many text tokens rows of `document_ids` hold."""
        eos, frame = self.tokenizer.eos_token_id, len(self.memory_ids)
        return tuple(len(row) - frame - 2 - (row[-frame - 1] == eos) for row in rows)

    def pad(self, rows: Sequence[Sequence[int]], value: int | None = None) -> tuple[Tensor, Tensor]:
        """Left-pad to the longest row: ids and mask, ``[N, T]`` int64."""
        width = max(len(row) for row in rows)
        fill = self.tokenizer.pad_token_id if value is None else value
        ids = torch.tensor([[fill] * (width - len(row)) + list(row) for row in rows], dtype=torch.long)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], dtype=torch.long)
        return ids, mask

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated ids, special tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    # -- prompts -----------------------------------------------------------------------------------------------

    def slots(self, documents: int) -> str:
        """The slots' text for some documents: the memory tokens and ``<SEP>``, once per document."""
        return ("".join(self.memory_tokens) + "<SEP>") * documents

    def prompt_ids(
        self, prompt: Prompt, documents: int, question: str | None = None, wording: int = 0, text: str = ""
    ) -> list[int]:
        """Ids of a generation prompt with slots for ``documents`` documents, best first.

        A question too long for ``max_prompt_length`` is shortened and a warning says so.

        Args:
            prompt: which prompt; ``wording`` picks the user's turn.
            documents: how many documents have slots.
            question: for the answer prompt.
            wording: index into ``prompt.user``.
            text: of documents that are read letter for letter; it stands before the first slot, a line break behind.

        Raises:
            ClaraError: the slots, the text and the template alone do not fit.
        """
        limit = self.config.max_prompt_length
        read = _clipped(question, limit)
        asked = None if question is None else clean_text(read, "question")

        def ids_with(asked: str | None) -> list[int]:
            return self._prompt(prompt, documents, asked, wording, text=text)

        ids = ids_with(asked)
        if len(ids) <= limit and (question is None or len(read) == len(question)):
            return ids
        least = len(ids_with(None if asked is None else ""))
        if asked is None or least > limit:
            raise ClaraError(
                f"the slots of {documents} documents need a prompt of {least} tokens, {least - limit} more than "
                f"max_prompt_length ({limit}); use a smaller top_k"
            )
        kept = self._fitting(asked, limit, ids_with, limit - least)
        logger.warning(
            "the question was shortened from %d to %d characters to fit a prompt of %d tokens with the slots of %d "
            "documents", len(question or ""), len(kept), limit, documents
        )  # fmt: skip
        return ids_with(kept)

    def fits(self, prompt: Prompt, documents: int, question: str, text: str) -> bool:
        """Whether a prompt holds the slots, the text and the whole question."""
        limit = self.config.max_prompt_length
        if len(question) + len(text) > READ_CHARS * limit:
            return False
        return len(self._prompt(prompt, documents, clean_text(question, "question"), 0, text=text)) <= limit

    def text_prompt_ids(self, prompt: Prompt, memory: str, question: str | None = None) -> list[int]:
        """Ids of the same prompt with plain text in the slots' place, for the base model reading text."""
        return self._prompt(prompt, 0, question, 0, text=memory)

    def _fitting(self, text: str, limit: int, prompt: Callable[[str], list[int]], room: int) -> str:
        """The longest start of a text with which its prompt has at most ``limit`` ids; the empty one fits.

        ``room`` is the number of the text's tokens where the search begins.
        """
        offsets = self._plain.encode(text, add_special_tokens=False).offsets
        keep = min(room, len(offsets))
        while True:
            kept = text[: offsets[keep - 1][1]] if keep else ""
            over = len(prompt(kept)) - limit
            if over <= 0 or not keep:
                return kept
            keep = max(0, keep - over)

    def _prompt(
        self,
        prompt: Prompt,
        documents: int,
        question: str | None,
        wording: int,
        answer: str | None = None,
        text: str | None = None,
        apart: bool = False,
    ) -> list[int]:
        """Ids of one exchange with slots, and text before them; the wording's two sides are texts like any other."""
        before, _, after = prompt.user[wording].partition("{memory}")
        letters = clean_text(text or "") + "\n" * bool(text and documents)
        sides = [_filled(before, question) + letters, _filled(after, question)]
        if not documents:
            sides = ["".join(sides)]
        return self._exchange_ids(prompt.system, sides, documents, answer, apart)

    def _exchange_ids(
        self, system: str, sides: Sequence[str], documents: int, answer: str | None = None, apart: bool = False
    ) -> list[int]:
        """Ids of a system message, a user's turn (texts with the slots between them), and the answer if there is one.

        With ``apart`` the answer is tokenised by itself, as what it holds of markers always is.

        Raises:
            ClaraError: the chat template does not show all of it exactly once.
        """
        system, *sides = [clean_text(text) for text in (system, *sides)]
        texts = [system, *sides, *([] if answer is None else [answer])]
        places = Places(texts)
        system, *sides = [self._shown(text, places) for text in (system, *sides)]
        held = answer is not None and (apart or self.holds_marker(answer))
        shown = places.hold(answer) if answer is not None and held else answer
        rendered = self.render(system, self.slots(documents).join(sides), shown)
        ids = self._piece_ids(places.pieces(rendered))
        slots = [*self.memory_ids, self.added_ids[-1]] * documents
        if not places.all_once(rendered) or [i for i in ids if i in self._control] != slots:
            raise self._unfit("does not show this prompt once and whole")
        return ids

    def _shown(self, text: str, places: Places) -> str:
        return places.hold(text) if self.holds_marker(text) else text

    def _piece_ids(self, pieces: Sequence[tuple[str, bool]]) -> list[int]:
        """Ids of a rendering, what was held back in it as plain text."""
        return [i for text, held in pieces for i in (self.plain_ids(text) if held else self._frame_ids(text))]

    def render(self, system: str, user: str, answer: str | None = None) -> str:
        """The base model's chat template around one exchange, ready for the answer or with it.

        A template that refuses a system message gets it at the top of the user's turn.
        """
        user = user.replace(":\\ ", ": ")  # published prompts are rendered so
        turns = [{"role": "system", "content": system}] if system else []
        turns.append({"role": "user", "content": user})
        if answer is not None:
            turns.append({"role": "assistant", "content": answer})
        return self._template(turns, answer is None)

    def chat_ids(self, messages: Sequence[Mapping[str, str]], room: int | None = None) -> list[int]:
        """Ids of a conversation as the base model's template renders it, ready for the answer; contents are plain text.

        Args:
            messages: turns with ``role`` (``system``, ``user``, ``assistant``) and ``content``.
            room: tokens that the base model reads, where it says so; one has to be left for the answer.

        Raises:
            ValueError: a role that is no word.
            ClaraError: the template refuses the conversation, or it is longer than the base model reads.
        """
        characters = sum(len(message["content"]) for message in messages)
        if room is not None and characters > READ_CHARS * room + 4096:
            raise ClaraError(
                f"the prompt has {characters} characters and the base model reads {room} tokens; shorten it"
            )
        contents = [clean_text(message["content"], "message content") for message in messages]
        places = Places(contents)
        turns = [
            {"role": check_role(message["role"]), "content": self._shown(content, places)}
            for message, content in zip(messages, contents, strict=True)
        ]
        ids = self._piece_ids(places.pieces(self._template(turns, True)))
        if room is not None and len(ids) >= room:
            raise ClaraError(f"the prompt has {len(ids)} tokens and the base model reads {room}; shorten it")
        return ids

    def _template(self, messages: list[dict[str, str]], generation: bool) -> str:
        try:
            return self._chat.render(messages, generation)
        except TemplateError as error:
            if NO_SYSTEM not in str(error) or len(messages) < 2:
                raise ClaraError(
                    f"the chat template of base model {self.config.base_model!r} refuses these messages: {error}"
                ) from error
        system, first, *rest = messages
        merged = {"role": first["role"], "content": f"{system['content']}\n{first['content']}"}
        return self._template([merged, *rest], generation)

    def _unfit(self, what: str) -> ClaraError:
        return ClaraError(
            f"the chat template of base model {self.config.base_model!r} {what}; use an instruct model with another one"
        )

    @cached_property
    def _before_answer(self) -> tuple[str, str]:
        """A prompt's end, from its last special token on, and what the template writes between it and an answer."""
        prompt, probe = self.render("", ""), "first probing words"
        whole = self.render("", "", probe).partition(probe)[0]
        start = max(prompt.rfind(marker) for marker in self._markers)
        return prompt[max(start, 0) :], whole[len(prompt) :] if whole.startswith(prompt) else ""

    def answer_ids(self, text: str) -> list[int]:
        """Ids of an answer as the generator writes it behind a prompt, and learns it (`example`), without its end."""
        text, (prompt, between) = clean_text(text, "answer"), self._before_answer
        before = self._frame_ids(prompt)
        ids = self._frame_ids(prompt + between + text)
        if self.holds_marker(text) or ids[: len(before)] != before:
            ids = [*self._frame_ids(prompt + between), *self.plain_ids(text)]
        return ids[len(before) :]

    # -- training ----------------------------------------------------------------------------------------------

    def example(
        self,
        prompt: Prompt,
        documents: int,
        answer: str,
        max_length: int,
        question: str | None = None,
        wording: int = 0,
        text: str | None = None,
    ) -> Example:
        """Prompt and answer as the template renders them; only what follows the prompt has labels.

        A question too long for ``max_length`` is shortened, as in inference, so that the answer or `ANSWER_ROOM` tokens
        of it fit; so is a text in the slots' place.

        Args:
            prompt: which prompt; ``wording`` picks the user's turn.
            documents: how many documents have slots.
            answer: the text to be learned, closed by the template's own end marker.
            max_length: ids kept; the answer's end is cut first.
            question: for the answer prompt.
            wording: index into ``prompt.user``.
            text: plain text in the slots' place, or before them.

        Raises:
            ClaraError: ``max_length`` cuts into the slots.
        """
        answer = clean_text(answer, "answer")
        asked = None if question is None else clean_text(_clipped(question, max_length), "question")
        shown = None if text is None else clean_text(_clipped(text, max_length))
        given = (asked, shown)
        if not self._shows_answers:
            raise self._unfit("does not show an assistant's turn once, so there is no answer to learn from")

        def head(asked: str | None, shown: str | None) -> list[int]:
            return self._prompt(prompt, documents, asked, wording, text=shown)

        def whole(asked: str | None, shown: str | None) -> tuple[list[int], int]:
            """All ids and how many are the prompt's own: those that an answer is generated after."""
            start = head(asked, shown)
            ids = self._prompt(prompt, documents, asked, wording, answer, shown)
            if ids[: len(start)] != start:  # a token would hold the prompt's end and the answer's beginning
                ids = self._prompt(prompt, documents, asked, wording, answer, shown, apart=True)
            return ids, len(start)

        ids, before = whole(asked, shown)
        room = max_length - min(len(ids) - before, ANSWER_ROOM)
        least = len(head(asked and "", shown and ""))
        if before > room >= least:
            if asked:
                asked = self._fitting(asked, room, lambda part: head(part, shown and ""), room - least)
            if shown:
                rest = room - len(head(asked, ""))
                shown = self._fitting(shown, room, lambda part: head(asked, part), rest)
            ids, before = whole(asked, shown)
        if documents and self._id("<SEP>") in ids[max_length:]:
            raise ClaraError(
                f"a training prompt with the slots of {documents} documents has {before} tokens and loses slots "
                f"when cut to {max_length}; use fewer documents or a longer maximum"
            )
        labels = [-100] * min(before, len(ids)) + ids[before:]
        clipped = any(_clipped(one, max_length) != one for one in (question, text))
        return Example(ids[:max_length], labels[:max_length], clipped or (asked, shown) != given)


def _filled(wording: str, question: str | None) -> str:
    """One side of a prompt's wording with the question in its place."""
    return wording if question is None else wording.replace("{question}", clean_text(question, "question"))


def _clipped(text: Any, tokens: int) -> Any:
    """As much of a text as can reach its first ``tokens`` tokens; anything but a text as it is."""
    return text[: READ_CHARS * tokens + 4096] if isinstance(text, str) else text


def _without_added_tokens(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """A copy of the tokenizer that recognises no added token, so that every text is plain text to it."""
    whole = tokenizer.backend_tokenizer
    plain = Tokenizer(whole.model)  # the two share the vocabulary
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        if getattr(whole, part) is not None:
            setattr(plain, part, getattr(whole, part))
    return plain
