"""ClaraModel: one base model in three roles. Compresses documents, encodes questions, scores, and answers from latents.

Shapes: ``B`` questions, ``K`` candidates of one question, ``k`` documents in the prompt, ``N`` documents, ``M`` memory
tokens, ``T`` ids, ``D`` hidden size. Source: arXiv 2511.18659 sections 3.1 to 3.3. Leaves out batching by length,
caching and locks (`inference.clara`), the losses (`modeling.objectives`) and training loops (``trainers``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, Unpack, cast

import torch
from torch import Tensor, nn
from transformers import LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerFast
from transformers.generation.streamers import BaseStreamer

from clara_model.checkpoint import files, hub
from clara_model.checkpoint.base_model import load_base, only_tokens, resize_embeddings, resolve_base
from clara_model.checkpoint.config import MAX_NEW_TOKENS, ClaraConfig
from clara_model.checkpoint.options import LoadKeywords, LoadOptions
from clara_model.errors import ClaraError
from clara_model.latents import Latents
from clara_model.modeling.adapters import BASE, Roles
from clara_model.modeling.compiled import Compiled
from clara_model.modeling.generation import Generated, Likelihood, contiguous_inputs, read_generated
from clara_model.modeling.identity import Identity, Place
from clara_model.modeling.merged import Merged
from clara_model.modeling.ranking import scores_in_parts
from clara_model.modeling.residual import Residuals
from clara_model.modeling.tokens import Tokens
from clara_model.validation import check_count, check_stop, check_texts

logger = logging.getLogger(__name__)


ENCODERS = ("compressor", "query_reasoner")
OWN_WAYS = {"cache_implementation", "past_key_values", "use_cache", "output_attentions", "output_hidden_states"}
"""Generation arguments that only transformers' own forward pass goes by."""


class MemoryRows(nn.Module):
    """The input embeddings of the memory tokens, one set of rows ``[M, D]`` for each encoder role."""

    def __init__(self, roles: Sequence[str], rows_MD: Tensor) -> None:
        super().__init__()
        self.rows = nn.ParameterDict({role: nn.Parameter(rows_MD.detach().clone()) for role in roles})

    def of(self, role: str) -> nn.Parameter:
        """One role's rows."""
        return cast(nn.Parameter, self.rows[role])

    def forward(self, role: str, embeds_NTD: Tensor) -> Tensor:
        """``[N, T, D]`` text embeddings with the role's rows behind: ``[N, T + M, D]``."""
        rows = self.of(role).to(embeds_NTD.dtype)
        return torch.cat([embeds_NTD, rows.expand(len(embeds_NTD), -1, -1)], dim=1)


class RoleModel(nn.Module):
    """A base model with CLaRa's roles. Loading gives an inference model (no dropout); call ``train()`` to train."""

    def __init__(
        self,
        base: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        config: ClaraConfig,
        *,
        to_be_loaded: bool = False,
    ) -> None:
        """Fresh roles on a base model: adapters whose output is zero, memory rows as the resized embedding gives them.

        Args:
            base: a causal language model of the Llama family (projections named as in `config.LORA_TARGETS`);
                changed in place: special tokens are added to its embeddings, which shrinks a padded vocabulary, and
                of its generation defaults only the special tokens stay.
            tokenizer: the base model's fast tokenizer with its chat template; changed in place.
            config: sizes, roles and prompts.
            to_be_loaded: weights follow at once, so nothing is spent on starting values of the added rows.
        """
        super().__init__()
        self.tokens = Tokens(tokenizer, config)
        resize_embeddings(base, len(self.tokens), mean_of_old=not to_be_loaded)
        base.generation_config = only_tokens(base.generation_config)
        self.base = base
        self.roles = Roles(base, config, to_be_loaded=to_be_loaded)
        self.merged = Merged(self.roles, "generator")
        self.compiled: Compiled | None = None
        added = self._embedding_weight()[self.tokens.memory_ids]
        self.memory = MemoryRows([role for role in config.roles if role in ENCODERS], added.float())
        self.residuals = Residuals()
        if config.residual != "none":
            for role in self.memory.rows:
                weight = self._embedding_weight().detach()
                center = weight[0].float() if to_be_loaded else weight.float().mean(dim=0)
                self.residuals.add(role, config, center, self.tokens.added_ids[0])
        self.embeddings_changed = False
        self.identity = Identity(base, self.tokens)
        self.set_trainable(())
        self.eval()

    @property
    def config(self) -> ClaraConfig:
        """Sizes, roles and prompts; the tokens go by the same object."""
        return self.tokens.config

    @config.setter
    def config(self, config: ClaraConfig) -> None:
        self.tokens.config = config

    @property
    def device(self) -> torch.device:
        """Where the base's embedding lies, and inputs go."""
        return self._embedding_weight().device

    @property
    def fingerprint(self) -> str:
        """Of everything that shapes a document's latents; see `modeling.identity`. Computed again only after a change.

        Raises:
            ClaraError: there is no compressor.
        """
        if "compressor" not in self.config.roles:
            raise ClaraError(f"this checkpoint has no compressor; it has {', '.join(self.config.roles)}")
        return self.identity.fingerprint(self._compressor, self._compressor_places)

    def _compressor(self) -> dict[str, nn.Parameter]:
        """The weights that shape latents: an adapter whose output is zero, as a fresh one's, does not."""
        named = self.trainable_parameters(["compressor"])
        adds = not self.roles.adds_nothing("compressor")
        return {name: p for name, p in named.items() if adds or ".lora_" not in name}

    def _compressor_places(self) -> list[Place]:
        """Where the weights that are not the decoder's are held."""
        layers = self.roles.layers().values()
        lora = [side["compressor"] for layer in layers for side in (layer.lora_A, layer.lora_B)]
        modules = [*lora, self.base.get_input_embeddings()]
        own = self.residuals.of["compressor"]._parameters if "compressor" in self.residuals.of else {}
        rows = (self.memory.rows._parameters, "compressor")
        return [*((module._parameters, "weight") for module in modules), rows, *((own, name) for name in own)]

    # -- weights -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def load_weights(self, checkpoint: files.Checkpoint) -> None:
        """Copy a checkpoint's weights in.

        Raises:
            ClaraError: a weight is missing or has a shape that this base model does not have.
        """
        source = str(checkpoint.folder)
        for role, weights in checkpoint.adapters.items():
            self.roles.load(role, weights, source)
        for name, weight in self._embeddings().items():
            if name in checkpoint.embeddings:
                self._load_embedding(name, weight, checkpoint.embeddings[name], source)
            elif name == "embed_tokens":
                raise ClaraError(f"{source} holds no embedding rows of the added tokens; is the download complete?")
            else:  # an output row that is never meant to win
                weight[self.tokens.added_ids] = weight[: self.tokens.added_ids[0]].mean(dim=0)
        added = self._embedding_weight()[self.tokens.memory_ids]
        for role in self.memory.rows:
            rows, values = self.memory.of(role), checkpoint.memory.get(role, added)
            if rows.shape != values.shape:
                raise ClaraError(f"memory rows of the {role} in {source} have shape {tuple(values.shape)}, "
                                 f"this model needs {tuple(rows.shape)}")  # fmt: skip
            rows.copy_(values)
        self.residuals.load(checkpoint.residual, source)
        self.identity.forget_compressor()

    def _embedding_weight(self) -> Tensor:
        return cast(Tensor, self.base.get_input_embeddings().weight)

    def _embeddings(self) -> dict[str, Tensor]:
        """The matrices with rows of added tokens: the input embedding and, where it is not tied, the output one."""
        weight, head = self._embedding_weight(), cast(Tensor, self.base.get_output_embeddings().weight)
        return {"embed_tokens": weight} if head is weight else {"embed_tokens": weight, "lm_head": head}

    def _load_embedding(self, name: str, weight: Tensor, rows: Tensor, source: str) -> None:
        """Whole matrix or added rows only; a whole one that differs from the base's is remembered for saving."""
        added = self.tokens.added_ids
        if rows.shape == weight.shape:
            kept = sorted(set(range(len(weight))) - set(added))
            self.embeddings_changed |= not torch.equal(weight[kept], rows[kept].to(weight))
            weight.copy_(rows)
        elif rows.shape == (len(added), weight.shape[1]):
            weight[torch.tensor(added, device=weight.device)] = rows.to(weight)
        else:
            raise ClaraError(
                f"{name} in {source} has shape {tuple(rows.shape)}, the base model needs {tuple(weight.shape)}; "
                "does the base model match?"
            )

    def to_float(self, dtype: torch.dtype) -> Self:
        """Adapters and memory rows in a float type (a quantized base keeps its own)."""
        for parameter in self.trainable_parameters(self.config.roles).values():
            parameter.data = parameter.data.to(dtype)
        return self

    def state(self) -> files.Checkpoint:
        """The weights that make this checkpoint: adapters, memory rows, rows of added tokens; never the base."""
        added = self.tokens.added_ids
        return files.Checkpoint(
            self.config,
            {role: {key: p.detach() for key, p in self.roles.parameters(role).items()} for role in self.config.roles},
            {role: self.memory.of(role).detach() for role in self.memory.rows},
            {
                name: weight.detach() if self.embeddings_changed else weight.detach()[added]
                for name, weight in self._embeddings().items()
            },
            {name: parameter.detach() for name, parameter in self.residuals.named(self.config.roles).items()},
        )

    # -- training switches -------------------------------------------------------------------------------------

    def trainable_parameters(self, roles: Sequence[str]) -> dict[str, nn.Parameter]:
        """LoRA weights, memory rows and residuals of some roles, by name."""
        named = {f"{role}.{key}": p for role in roles for key, p in self.roles.parameters(role).items()}
        named |= {f"memory.{role}": self.memory.of(role) for role in roles if role in self.memory.rows}
        return named | self.residuals.named(roles)

    def set_trainable(self, roles: Sequence[str], *, residual_gate: bool = True) -> None:
        """Let exactly these roles train (LoRA weights, memory rows, residuals); the base and all else is frozen.

        Without ``residual_gate``, roles that have a residual train it alone, and its gate stays as it is.
        """
        unknown = [role for role in roles if role not in self.config.roles]
        if unknown:
            raise ClaraError(f"this checkpoint has no {', '.join(unknown)}; it has {', '.join(self.config.roles)}")
        self.requires_grad_(False)
        for parameter in self.trainable_parameters(roles).values():
            parameter.requires_grad_(True)
        for role in () if residual_gate else set(roles) & set(self.residuals.of):
            for name, parameter in self.trainable_parameters([role]).items():
                parameter.requires_grad_(name.startswith("residual.") and not name.endswith(".gate"))
        self.trainable_roles = tuple(roles)
        self.train(self.training)

    def add_role(self, role: str, copy_of: str | None = None) -> None:
        """Add a role, fresh or as a copy of another (stage 3: the query reasoner starts as the compressor)."""
        if copy_of is not None and copy_of not in self.config.roles:
            raise ClaraError(f"this checkpoint has no {copy_of} to copy; it has {', '.join(self.config.roles)}")
        config = replace(self.config, roles=(*self.config.roles, role))
        example = next(iter(self.roles.parameters(self.config.roles[0]).values()))
        self.roles.add(role)
        for parameter in self.roles.parameters(role).values():
            parameter.data = parameter.data.to(example.device, example.dtype)
        if copy_of is not None:
            self.roles.copy(copy_of, role)
        if role in ENCODERS:
            has_rows = copy_of is not None and copy_of in self.memory.rows
            rows = self.memory.of(cast(str, copy_of)) if has_rows else self._embedding_weight()[self.tokens.memory_ids]
            self.memory.rows[role] = nn.Parameter(rows.detach().clone().to(example.dtype), requires_grad=False)
            if copy_of is not None:
                self.residuals.start_from(copy_of, role, self.config, self.tokens.added_ids[0])
        self.config = config
        self.train(self.training)  # the new role's dropout follows the others

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """A move to another device or float type."""
        self.identity.forget()
        return super()._apply(fn, recurse)

    def train(self, mode: bool = True) -> Self:
        """Training mode; the dropout of frozen roles stays off, so a frozen compressor's latents do not move."""
        super().train(mode)
        if mode:
            self.identity.forget_compressor()  # some optimizers move weights unseen
            for layer in self.roles.layers().values():
                for role in self.roles.names:
                    layer.lora_dropout[role].train(role in self.trainable_roles)
        return self

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """Recompute layers in the backward pass, each in the role of its first run; gradients stay the same."""
        options = {**(gradient_checkpointing_kwargs or {}), "use_reentrant": False}
        options["context_fn"] = self.roles.checkpoint_contexts
        enable: Callable[..., None] = getattr(
            self.base, "activation_checkpointing_enable", self.base.gradient_checkpointing_enable
        )
        enable(options)

    activation_checkpointing_enable = gradient_checkpointing_enable

    # -- load and save -----------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Unpack[LoadKeywords]) -> Self:
        """Load a checkpoint of this project's layout or a published CLaRa or PISCO one.

        Args:
            name: a folder (which wins), a bundled name such as ``clara-tiny``, or a hub name.
            **options: see `LoadOptions`, e.g. ``dtype``, ``device``, ``base_model``.

        Raises:
            ClaraError: in one sentence, what is missing, damaged or does not match.
            TypeError: an unknown option.
        """
        return cls.from_options(name, LoadOptions.of(options))

    @classmethod
    def from_options(cls, name: str | Path, options: LoadOptions) -> Self:
        """`from_pretrained` with its options in one object."""
        options = options.resolved()
        folder = files.locate(str(name), options.subfolder, options.revision, options.token)
        checkpoint = files.read(folder, options.prompts)
        own = checkpoint.config
        base_name = str(options.base_model) if options.base_model else resolve_base(own.base_model, folder)
        base, tokenizer = load_base(
            base_name,
            replace(options, revision=None if options.base_model else own.base_revision),
            own.base_sha256,
        )
        checkpoint.config = replace(own, base_model=base_name, licence=own.licence or hub.licence(folder))
        model = cls(base, tokenizer, checkpoint.config, to_be_loaded=True)
        model.load_weights(checkpoint)
        model.to_float(base.dtype).identity.as_loaded()
        model.merged.quick = options.decoding == "quick"
        if options.decoding == "compiled":
            model.compile_decoding()
        return model

    def compile_decoding(self) -> None:
        """Decode and encode single questions from recorded graphs, on a GPU.

        Raises:
            ClaraError: the model is not on a GPU.
        """
        if self.device.type != "cuda":
            raise ClaraError(f"decoding 'compiled' needs a GPU, the model is on {self.device}; use 'quick' there")
        self.compiled = Compiled()

    def record_usual_lengths(self) -> None:
        """Have the graphs of usual lengths recorded now, for the thread that calls this: each has its own."""
        ids = self.tokens.document_ids("A first prompt.")
        self.generate_ids([ids[: -self.config.memory_tokens]], [])
        if "query_reasoner" in self.config.roles:
            self.encode_rows("query_reasoner", [ids])

    def save_pretrained(self, folder: str | Path) -> None:
        """Write this project's layout: ``config.json`` and ``adapters.safetensors``; the base model is only named."""
        files.write(self.state(), Path(folder))

    def push_to_hub(self, repository: str, *, private: bool = True, token: str | None = None) -> str:
        """Save to a hub repository, which is made when it is not there; returns the commit's address."""
        return hub.push(self.state(), repository, private=private, token=token)

    # -- encode ------------------------------------------------------------------------------------------------

    def hidden_states(self, embeds_NTD: Tensor, mask_NT: Tensor) -> Tensor:
        """Last hidden states after the final norm, ``[N, T, D]``, of input embeddings and their mask; no logits."""
        mask = None if bool(mask_NT.all()) else mask_NT
        out = self.base.get_decoder()(inputs_embeds=embeds_NTD, attention_mask=mask, use_cache=False)
        return cast(Tensor, out.last_hidden_state)

    def encode(self, role: str, ids_NT: Tensor, mask_NT: Tensor) -> tuple[Tensor, Tensor]:
        """One encoder pass.

        Args:
            role: ``compressor`` or ``query_reasoner``.
            ids_NT: left-padded ids, each row ending in the ``M`` memory ids.
            mask_NT: 1 at real ids.

        Returns:
            latents ``[N, M, D]`` (the states at the memory tokens, or what the residual makes of them), and all states
            ``[N, T, D]``.
        """
        memory = self.config.memory_tokens
        ids, mask = ids_NT.to(self.device), mask_NT.to(self.device)
        with self.roles.acting_as(role):
            embeds = self.memory(role, self.base.get_input_embeddings()(ids[:, :-memory]))
            states = None
            if self.compiled is not None and role == "query_reasoner":  # what is kept comes from the base's own layers
                states = self.compiled.states(self.base.get_decoder(), embeds, mask)
            if states is None:
                states = self.hidden_states(embeds, mask)
        latents = states[:, -memory:]
        return (self._on_residual(role, ids, mask, latents) if role in self.residuals.of else latents), states

    def _on_residual(self, role: str, ids_NT: Tensor, mask_NT: Tensor, states_NMD: Tensor) -> Tensor:
        """What the role's residual makes of the states at the memory tokens, ``[N, M, D]``."""
        ids, mask = ids_NT[:, : -states_NMD.shape[1]], mask_NT[:, : -states_NMD.shape[1]]
        own = mask.bool() & ~torch.isin(ids, self.tokens.frame_ids.to(ids.device))
        return cast(Tensor, self.residuals.of[role](ids, self.base.get_input_embeddings()(ids), own, states_NMD))

    def latents(self, role: str, ids_NT: Tensor, mask_NT: Tensor) -> Tensor:
        """Latents without all states; the base model is not run where no state would enter them."""
        at_rest = self.residuals.skips_base_model(role)
        return self.residual_latents(role, ids_NT, mask_NT) if at_rest else self.encode(role, ids_NT, mask_NT)[0]

    def residual_latents(self, role: str, ids_NT: Tensor, mask_NT: Tensor) -> Tensor:
        """`encode`'s latents where the role's gate is shut, without a pass of the base model: the residual alone."""
        ids, hidden = ids_NT.to(self.device), self.base.config.get_text_config().hidden_size
        states = torch.zeros(
            len(ids), self.config.memory_tokens, hidden, dtype=self._embedding_weight().dtype, device=self.device
        )
        return self._on_residual(role, ids, mask_NT.to(self.device), states)

    @torch.no_grad()
    def encode_rows(self, role: str, rows: Sequence[list[int]], *, one_text_per_pass: bool = False) -> Tensor:
        """Latents of tokenised texts, without gradients: ``[N, M, D]``.

        On a CPU every text is a pass of its own at its own length, which costs no more than a padded batch, so its
        latent is the same to the bit whatever it is encoded with (on one machine with one number of threads), in any
        float type. On a GPU texts share a batch, whose rounding depends on its shape, unless ``one_text_per_pass``.

        Args:
            role: ``compressor`` or ``query_reasoner``.
            rows: ids from `Tokens.document_ids`.
            one_text_per_pass: a pass for each text on a GPU too, as latents need that are kept.
        """
        if one_text_per_pass or self.device.type == "cpu":
            passes = [self.latents(role, *self.tokens.pad([row])) for row in rows]
            return passes[0] if len(passes) == 1 else torch.cat(passes)
        return self.latents(role, *self.tokens.pad(rows))

    def compress(self, documents: Sequence[str]) -> Latents:
        """Compress documents, each read up to ``doc_max_length`` tokens: ``.vectors`` is ``[N, M, D]``."""
        return self._encoded("compressor", check_texts(documents))

    def encode_queries(self, questions: Sequence[str]) -> Latents:
        """Encode questions into the documents' space with the query reasoner: ``.vectors`` is ``[B, M, D]``."""
        return self._encoded("query_reasoner", check_texts(questions, "question"))

    def _encoded(self, role: str, texts: Sequence[str]) -> Latents:
        rows = [self.tokens.document_ids(text) for text in texts]
        return Latents(self.encode_rows(role, rows), self.tokens.lengths(rows), self.fingerprint)

    def score(self, queries: Latents, latents: Latents) -> Tensor:
        """The checkpoint's score (``config.ranking``) of every document for every question, ``[B, N]`` float32.

        Raises:
            ClaraError: the two come from different checkpoints, or not from this one.
        """
        self.check_latents(queries)
        self.check_latents(latents)
        if not len(latents):
            return queries.vectors.new_empty(len(queries), 0, dtype=torch.float32)
        return scores_in_parts(queries.vectors, latents.vectors, ranking=self.config.ranking)

    def check_latents(self, latents: Latents) -> None:
        """Refuse latents that another checkpoint made, of another form, or with what is no number.

        Raises:
            ClaraError: saying which of these.
        """
        if latents.fingerprint != self.fingerprint:
            raise ClaraError(
                f"these latents were made by another checkpoint ({latents.fingerprint}, this one is "
                f"{self.fingerprint}); compress the documents again with this one"
            )
        form = self.config.memory_tokens, self._embedding_weight().shape[1]
        if tuple(latents.vectors.shape[1:]) != form:
            raise ClaraError(
                f"these latents have {tuple(latents.vectors.shape[1:])} numbers each, this checkpoint makes {form}; "
                "compress the documents again"
            )
        if not bool(latents.vectors.isfinite().all()):
            bad = next(number for number, block in enumerate(latents.vectors) if not bool(block.isfinite().all()))
            raise ClaraError(f"the latents of document {bad} hold NaN or infinity; compress it again, in float32")

    # -- generate ----------------------------------------------------------------------------------------------

    def fill_slots(self, ids_BT: Tensor, blocks_kMD: Sequence[Tensor] | Tensor) -> Tensor:
        """Prompt embeddings ``[B, T, D]`` with the latents written into the memory tokens' places, in order."""
        ids = ids_BT.to(self.device)
        embeds = self.base.get_input_embeddings()(ids)
        if not isinstance(blocks_kMD, Tensor):
            blocks_kMD = torch.cat(list(blocks_kMD)) if len(blocks_kMD) else embeds.new_empty(0)
        values = blocks_kMD.reshape(-1, embeds.shape[-1]).to(embeds)
        slots = torch.isin(ids, torch.tensor(self.tokens.memory_ids, device=ids.device))
        if int(slots.sum()) != len(values):
            raise ValueError(f"the prompts have {int(slots.sum())} slots for {len(values)} latents; give one to each")
        return embeds.masked_scatter(slots.unsqueeze(-1), values)

    def generate_ids(
        self,
        prompts: Sequence[Sequence[int]],
        blocks: Sequence[Tensor],
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        stop: Sequence[str] = (),
        streamer: BaseStreamer | None = None,
        role: str = "generator",
        priors: Sequence[float] | None = None,
        **sampling: Any,
    ) -> Generated:
        """Generate from tokenised prompts whose slots are filled with latents.

        Args:
            prompts: ``B`` rows of ids with slots.
            blocks: for each prompt its latents ``[k, M, D]``, in slot order.
            max_new_tokens: most tokens to write.
            stop: strings that end an answer; they are cut from its text.
            streamer: receives new ids as they come (``B`` must be 1).
            role: ``generator``, or ``base`` for the base model without adapters.
            priors: for each prompt what `Certainty.prior` gives; by default that of usual values.
            **sampling: any of transformers' generation arguments, e.g. ``do_sample``, ``temperature``, ``top_p``.
        """
        check_count(max_new_tokens, "max_new_tokens")
        stop = check_stop(stop)
        tokenizer = self.tokens.tokenizer
        positions = self.check_positions(prompts)
        own = role == "generator" and not OWN_WAYS & set(sampling)
        rows = self.compiled.rows(len(prompts), sampling) if own and self.compiled is not None else None
        more = (rows or len(prompts)) - len(prompts)
        ids, mask = self.tokens.pad([*prompts, *[prompts[-1]] * more])
        options: dict[str, Any] = {
            "do_sample": False,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": self.base.generation_config.eos_token_id,
            **sampling,
        }
        if stop:
            options |= {"stop_strings": list(stop), "tokenizer": tokenizer}
        no_answer, certainty = self.tokens.no_answer_id if role == "generator" else None, self.config.prompts.certainty
        priors = [certainty.prior(None, None)] * len(prompts) if priors is None else list(priors)
        shifts = [certainty.shift(prior) for prior in [*priors, *priors[-1:] * more]]
        likelihood = Likelihood(no_answer, shifts) if options.get("num_beams", 1) == 1 else None
        if likelihood is not None:
            options["logits_processor"] = LogitsProcessorList([*options.get("logits_processor", ()), likelihood])
        generate, output = cast(Callable[..., Tensor], self.base.generate), self.base.get_output_embeddings()
        joined = nullcontext() if rows else contiguous_inputs(output)  # a hook would have a graph recorded anew
        with torch.no_grad(), self.roles.acting_as(role), self._merged(own) as merged, joined:
            if rows and self.compiled is not None:
                merged = {**merged, **self.compiled.arguments(self.base, rows, ids.shape[1] + max_new_tokens)}
            new_ids = generate(
                inputs_embeds=self.fill_slots(ids, [*blocks, *list(blocks[-1:]) * more]),
                attention_mask=mask.to(self.device),
                max_new_tokens=max_new_tokens,
                streamer=streamer,
                **merged,
                **options,
            )
        logs = None if likelihood is None else likelihood.logs(new_ids)
        if more:  # the rows that filled the batch up
            new_ids, logs = new_ids[:-more], logs if logs is None else logs[:-more]
        odds = likelihood.answer_odds if likelihood else None
        certain = odds and list(map(certainty.of, priors, odds))
        lengths = [len(p) for p in prompts]
        made = read_generated(tokenizer, new_ids, lengths, options["eos_token_id"], stop, logs, certain)
        longest = max(map(sum, zip(made.prompt_tokens, made.completion_tokens, strict=True)))
        if longest > positions:
            logger.warning(
                "an answer ran to position %d, the base model was made for %d; do not trust its end", longest, positions
            )
        return made

    def _merged(self, own: bool) -> AbstractContextManager[dict[str, Any]]:
        return self.merged.in_use() if own else nullcontext({})

    def check_positions(self, prompts: Sequence[Sequence[int]]) -> int:
        """How many positions the base model was made for; a prompt beyond them is refused."""
        positions = int(getattr(self.base.config, "max_position_embeddings", None) or 2**62)
        longest = max(map(len, prompts))
        if longest > positions:
            raise ClaraError(
                f"a prompt has {longest} tokens, the base model was made for {positions}; use a smaller top_k or a "
                "shorter question"
            )
        return positions

    def generate(
        self,
        questions: Sequence[str],
        latents: Sequence[Latents],
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        **options: Any,
    ) -> Generated:
        """Answer questions from latents.

        Args:
            questions: ``B`` questions.
            latents: for each question the documents it is answered from, best first; counts may differ.
            max_new_tokens: most tokens to write.
            **options: ``stop``, ``streamer`` and sampling arguments of `generate_ids`.

        Raises:
            ClaraError: latents of another checkpoint, or slots that do not fit the prompt.
        """
        if len(questions) != len(latents) or not questions:
            raise ValueError(f"need latents for each of at least one question, got {len(questions)} and {len(latents)}")
        for part in latents:
            self.check_latents(part)
        prompt = self.config.prompts.answer
        prompts = [
            self.tokens.prompt_ids(prompt, len(part), question)
            for question, part in zip(check_texts(questions, "question"), latents, strict=True)
        ]
        return self.generate_ids(prompts, [p.vectors for p in latents], max_new_tokens=max_new_tokens, **options)

    def generate_plain(self, prompts: Sequence[Sequence[int]], **options: Any) -> Generated:
        """The base model alone, from prompts of plain ids without slots; options as for `generate_ids`."""
        return self.generate_ids(prompts, [], role=BASE, **options)
