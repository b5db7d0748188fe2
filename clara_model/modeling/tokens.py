"""Text to ids: special tokens, documents and questions for the encoder roles, prompts with slots for the generator.

Added special tokens, in this order: ``<MEM0>..<MEM(M-1)>``, ``<AE>``, ``<ENC>``, ``<SEP>``. A document or question is
``<ENC> bos text eos`` cut to ``doc_max_length + 3`` ids, then the ``M`` memory ids (published format).
User text is data: a text that holds any special token's string is tokenised as plain text, all other text as one string
with its frame, which keeps it equal to the published tokenisation token for token.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jinja2 import TemplateError
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from clara_model.checkpoint.chat_template import NO_SYSTEM, ChatTemplate
from clara_model.checkpoint.config import ClaraConfig
from clara_model.checkpoint.prompts import Prompt
from clara_model.errors import ClaraError

logger = logging.getLogger(__name__)

READ_CHARS = 64
"""Characters read per token that can be kept; what lies beyond cannot reach the first ``doc_max_length`` tokens."""

_OPEN = "\ue000{}\ue001"
"""A place in a rendered prompt that is still open: its text must be tokenised on its own."""


@dataclass(frozen=True)
class Padded:
    """Left-padded ids and their mask, ``[N, T]`` int64, and how many text tokens each row holds."""

    ids: Tensor
    mask: Tensor
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class Example:
    """One training sequence of the generator: ids and labels, -100 where nothing is learned."""

    ids: list[int]
    labels: list[int]


def clean_text(text: object, what: str = "text") -> str:
    """The text with lone surrogates replaced by U+FFFD; anything but a string is refused."""
    if not isinstance(text, str):
        raise TypeError(f"{what} must be a string, got {type(text).__name__}")
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class Tokens:
    """The base model's tokenizer with CLaRa's special tokens added."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, config: ClaraConfig) -> None:
        """Add the special tokens to ``tokenizer`` (changed in place).

        Raises:
            ClaraError: the tokenizer has no chat template, or no bos or eos token.
        """
        self.config = config
        self.tokenizer = tokenizer
        self._set_ends()
        self._chat = ChatTemplate(tokenizer)
        self._chat.check(system=any(prompt.system for prompt in config.prompts))
        self._plain = _without_added_tokens(tokenizer)
        self.memory_tokens = [f"<MEM{i}>" for i in range(config.memory_tokens)]
        tokenizer.add_tokens([*self.memory_tokens, "<AE>", "<ENC>", "<SEP>"], special_tokens=True)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.bos_token
        tokenizer.padding_side, tokenizer.truncation_side = "left", "right"
        self.memory_ids: list[int] = [self._id(token) for token in self.memory_tokens]
        self.added_ids = [*self.memory_ids, self._id("<AE>"), self._id("<ENC>"), self._id("<SEP>")]
        self._markers = tuple(tokenizer.get_added_vocab())
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
        found = self.tokenizer.convert_tokens_to_ids(token)
        assert isinstance(found, int)
        return found

    def __len__(self) -> int:
        """Vocabulary size with the added tokens; embeddings are resized to it."""
        return len(self.tokenizer)

    # -- documents and questions -------------------------------------------------------------------------------

    def holds_marker(self, text: str) -> bool:
        """Whether the text contains any special token's string."""
        return any(marker in text for marker in self._markers)

    def plain_ids(self, text: str) -> list[int]:
        """The text tokenised with no special token recognised in it."""
        return list(self._plain.encode(text, add_special_tokens=False).ids)

    def _frame_ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def count(self, text: str) -> int:
        """Text tokens of a document, special tokens not counted, before any cut."""
        return len(self.plain_ids(clean_text(text)))

    def document_ids(self, text: str, max_length: int | None = None) -> list[int]:
        """``<ENC> bos text eos`` cut to ``doc_max_length + 3``, then the memory ids.

        Args:
            text: a document or a question; the empty string is allowed.
            max_length: text tokens to keep, ``doc_max_length`` where not given.
        """
        limit = (max_length or self.config.doc_max_length) + 3
        text = clean_text(text)[: READ_CHARS * limit + 4096]
        if self.holds_marker(text):
            bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
            ids = [self._id("<ENC>"), bos, *self.plain_ids(text), eos]
        else:
            ids = self._frame_ids(f"{self._encode_frame}{text}{self.tokenizer.eos_token}")
        return ids[:limit] + self.memory_ids

    def documents(self, texts: Sequence[str], max_length: int | None = None) -> Padded:
        """Encoder ids of many texts, left-padded to the longest of them."""
        return self.padded([self.document_ids(text, max_length) for text in texts])

    def padded(self, rows: Sequence[list[int]]) -> Padded:
        """Rows of `document_ids`, left-padded to the longest of them."""
        eos, frame = self.tokenizer.eos_token_id, len(self.memory_ids)
        lengths = tuple(len(row) - frame - 2 - (row[-frame - 1] == eos) for row in rows)
        ids, mask = self.pad(rows)
        return Padded(ids, mask, lengths)

    def pad(self, rows: Sequence[Sequence[int]], value: int | None = None) -> tuple[Tensor, Tensor]:
        """Left-pad to the longest row: ids and mask, ``[N, T]`` int64."""
        width = max(len(row) for row in rows)
        fill = self.tokenizer.pad_token_id if value is None else value
        ids = torch.tensor([[fill] * (width - len(row)) + list(row) for row in rows], dtype=torch.long)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], dtype=torch.long)
        return ids, mask

    # -- prompts -----------------------------------------------------------------------------------------------

    def slots(self, documents: int) -> str:
        """The slots' text for some documents: the memory tokens and ``<SEP>``, once per document."""
        return ("".join(self.memory_tokens) + "<SEP>") * documents

    def prompt_ids(self, prompt: Prompt, documents: int, question: str | None = None, wording: int = 0) -> list[int]:
        """Ids of a generation prompt with slots for ``documents`` documents, best first.

        A question too long for ``max_prompt_length`` is shortened and a warning says so.

        Raises:
            ClaraError: the slots and the template alone do not fit.
        """
        question = clean_text(question, "question") if question is not None else None
        ids = self._prompt(prompt, self.slots(documents), question, wording)
        limit = self.config.max_prompt_length
        if len(ids) <= limit:
            return ids
        least = len(self._prompt(prompt, self.slots(documents), "" if question is not None else None, wording))
        if question is None or least > limit:
            raise ClaraError(
                f"the slots of {documents} documents need a prompt of {least} tokens, {least - limit} more than "
                f"max_prompt_length ({limit}); use a smaller top_k"
            )
        return self._shortened(prompt, documents, question, wording, limit - least)

    def text_prompt_ids(self, prompt: Prompt, memory: str, question: str | None = None) -> list[int]:
        """Ids of the same prompt with plain text in the slots' place, for the base model reading text."""
        question = clean_text(question, "question") if question is not None else None
        return self._prompt(prompt, clean_text(memory), question, 0, memory_is_text=True)

    def _shortened(self, prompt: Prompt, documents: int, question: str, wording: int, room: int) -> list[int]:
        """The prompt with the longest start of the question that fits; ``room`` is where the search begins."""
        encoding = self._plain.encode(question, add_special_tokens=False)
        total = len(encoding.ids)
        keep = min(room, total)
        while True:
            cut = encoding.offsets[keep - 1][1] if keep else 0
            ids = self._prompt(prompt, self.slots(documents), question[:cut], wording)
            if len(ids) <= self.config.max_prompt_length:
                logger.warning("the question was shortened from %d to %d tokens to fit the prompt", total, keep)
                return ids
            keep = max(0, keep - max(1, len(ids) - self.config.max_prompt_length))

    def _prompt(
        self, prompt: Prompt, memory: str, question: str | None, wording: int, memory_is_text: bool = False
    ) -> list[int]:
        data = {} if question is None else {"question": question}
        frame = {} if memory_is_text else {"memory": memory}
        return self._rendered_ids(prompt, wording, data | ({"memory": memory} if memory_is_text else {}), frame)

    def _rendered_ids(
        self, prompt: Prompt, wording: int, data: dict[str, str], frame: dict[str, str], answer: str | None = None
    ) -> list[int]:
        """Ids of one exchange; ``data`` (and the answer) is user text, ``frame`` may hold special tokens."""
        every = data if answer is None else data | {"answer": answer}
        unsafe = {name: text for name, text in every.items() if self.holds_marker(text)}
        shown = every | {name: _OPEN.format(name) for name in unsafe}
        places = {name: shown[name] for name in data} | frame
        rendered = self.render(prompt.system, _fill(prompt.user[wording], places), shown.get("answer"))
        return self._ids_with(rendered, unsafe)

    def _ids_with(self, rendered: str, unsafe: dict[str, str]) -> list[int]:
        """Ids of a rendered prompt in which some places are still open, those filled as plain text."""
        for name, text in unsafe.items():
            before, place, after = rendered.partition(_OPEN.format(name))
            if not place:
                continue
            rest = {n: t for n, t in unsafe.items() if n != name}
            return [*self._ids_with(before, rest), *self.plain_ids(text), *self._ids_with(after, rest)]
        return self._frame_ids(rendered)

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

    def chat_ids(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Ids of a conversation as the base model's template renders it, ready for the answer; contents are plain text.

        Args:
            messages: turns with ``role`` (``system``, ``user``, ``assistant``) and ``content``.

        Raises:
            ClaraError: the template refuses the conversation.
        """
        turns, unsafe = [], {}
        for index, message in enumerate(messages):
            content = clean_text(message["content"], "message content")
            if self.holds_marker(content):
                unsafe[str(index)], content = content, _OPEN.format(index)
            turns.append({"role": message["role"], "content": content})
        try:
            return self._ids_with(self._template(turns, True), unsafe)
        except TemplateError as error:
            raise ClaraError(f"the base model's chat template refuses these messages: {error}") from error

    def _template(self, messages: list[dict[str, str]], generation: bool) -> str:
        try:
            return self._rendered(messages, generation)
        except TemplateError as error:
            if NO_SYSTEM not in str(error) or len(messages) < 2:
                raise
        system, first, *rest = messages
        merged = {"role": first["role"], "content": f"{system['content']}\n{first['content']}"}
        return self._rendered([merged, *rest], generation)

    def _rendered(self, messages: list[dict[str, str]], generation: bool) -> str:
        return self._chat.render(messages, generation)

    # -- training ----------------------------------------------------------------------------------------------

    def example(
        self,
        prompt: Prompt,
        documents: int,
        answer: str,
        max_length: int,
        question: str | None = None,
        wording: int = 0,
    ) -> Example:
        """Prompt and answer as the template renders them; only what follows the prompt has labels.

        Args:
            prompt: which prompt; ``wording`` picks the user's turn.
            documents: how many documents have slots.
            answer: the text to be learned, closed by the template's own end marker.
            max_length: ids kept; the answer's end is cut first.
            question: for the answer prompt.
            wording: index into ``prompt.user``.

        Raises:
            ClaraError: ``max_length`` cuts into the slots.
        """
        answer = clean_text(answer, "answer")
        question = clean_text(question, "question") if question is not None else None
        slots, data = {"memory": self.slots(documents)}, {} if question is None else {"question": question}
        head = self._rendered_ids(prompt, wording, data, slots)
        ids = self._rendered_ids(prompt, wording, data, slots, answer)
        if documents and self._id("<SEP>") in ids[max_length:]:
            raise ClaraError(
                f"a training prompt with the slots of {documents} documents has {len(head)} tokens and loses slots "
                f"when cut to {max_length}; use fewer documents or a longer maximum"
            )
        labels = [-100] * min(len(head), len(ids)) + ids[len(head) :]
        return Example(ids[:max_length], labels[:max_length])


def _fill(template: str, values: dict[str, str]) -> str:
    """Put values in their places in one pass, so that a value holding ``{memory}`` is not filled again."""
    out, rest = [], template
    while rest:
        found = [(rest.find("{" + name + "}"), name) for name in values]
        place = min((f for f in found if f[0] >= 0), default=None)
        if place is None:
            break
        at, name = place
        out += [rest[:at], values[name]]
        rest = rest[at + len(name) + 2 :]
    return "".join([*out, rest])


def _without_added_tokens(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """A copy of the tokenizer that recognises no added token, so that every text is plain text to it."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["added_tokens"] = []
    state["post_processor"] = None
    state["truncation"] = state["padding"] = None
    return Tokenizer.from_str(json.dumps(state))
