"""Latents of documents that stage 3 has met before: its compressor is frozen, so each document is compressed once.

A document is known by its encoder ids. What is kept is bounded (`LatentCache`) or on disk; a run that resumes makes the
others anew, equal but for float rounding. Shapes: ``U`` documents, ``T`` ids, ``M`` memory tokens, ``D`` hidden size.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from clara_model.inference.published import ClaraModel
from clara_model.store.cache import Block, LatentStore


class FrozenLatents:
    """Fills a batch's documents in as latents."""

    def __init__(self, model: ClaraModel, store: LatentStore) -> None:
        """The compressor must not change; kept under a name of their own: training may compute in another precision."""
        self.model, self.store = model, store
        self.fingerprint = f"{model.fingerprint}-training"
        self.asked = self.made = 0

    def close(self) -> None:
        """Close a store that lasts."""
        durable = getattr(self.store, "durable", None)
        if durable is not None:
            durable.close()

    def fill(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The batch with ``document_latents`` ``[U, M, D]`` in place of ``document_ids`` and ``document_mask``."""
        rest = {name: tensor for name, tensor in batch.items() if name not in ("document_ids", "document_mask")}
        ids_UT, mask_UT = batch["document_ids"], batch["document_mask"]
        texts = zip(ids_UT.cpu(), mask_UT.cpu().bool(), strict=True)
        keys = [hashlib.sha256(ids[keep].numpy().tobytes()).hexdigest() for ids, keep in texts]
        found = dict(zip(keys, self.store.get(self.fingerprint, keys), strict=True))
        missing = [place for place, key in enumerate(keys) if found[key] is None]
        self.asked, self.made = self.asked + len(keys), self.made + len(missing)
        if missing:
            made = self._encode(ids_UT[missing], mask_UT[missing])
            new = {keys[place]: block for place, block in zip(missing, made, strict=True)}
            self.store.put(self.fingerprint, new)
            found |= new
        vectors = [block.vector for block in (found[key] for key in keys) if block is not None]
        return {**rest, "document_latents": torch.stack(vectors).to(ids_UT.device)}

    @torch.no_grad()
    def _encode(self, ids_NT: Tensor, mask_NT: Tensor) -> list[Block]:
        """One pass, padded to its own longest document."""
        lengths = mask_NT.sum(dim=1).tolist()
        width = int(max(lengths))
        latents_NMD = self.model.latents("compressor", ids_NT[:, -width:], mask_NT[:, -width:])
        memory = self.model.config.memory_tokens
        return [Block(block.clone(), int(n) - memory) for block, n in zip(latents_NMD.cpu(), lengths, strict=True)]
