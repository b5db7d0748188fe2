"""A question to a store: the pass that encodes it, the search, and where what was found stands."""

from __future__ import annotations

import time

import torch

from clara_model.inference.engine import Engine
from clara_model.inference.results import Found, SearchResults, Timings
from clara_model.latents import Latents
from clara_model.search.find import Scored, StoreSearch
from clara_model.store.protocol import Placed, Where


def search(engine: Engine, searched: StoreSearch, question: str, top_k: int, where: Where | None) -> SearchResults:
    """The best windows of the store; checked arguments only.

    Raises:
        ClaraError: the store or its index cannot be read.
        TypeError: a filter that makes no sense.
    """
    call = engine.call()
    question_MD = call.queries([question]).vectors[0]
    start = time.perf_counter()
    best = searched.best(question_MD, top_k, where)
    places = _first_places(searched, best, where)
    found = tuple(_found(one, places.get(one.row.key)) for one in best)
    latents = None
    if best:
        vectors_NMD = torch.stack([one.row.block.vector for one in best])
        latents = Latents(vectors_NMD, tuple(one.row.block.length for one in best), engine.model.fingerprint)
    return SearchResults(found, latents, Timings(query=call.timings().query, rank=time.perf_counter() - start))


def _first_places(searched: StoreSearch, best: list[Scored], where: Where | None) -> dict[str, Placed]:
    """The first place of each block; with a filter, the first in a document that fits."""
    allowed = None if where is None else {(one.document, one.number) for one in searched.store.find(where=where)}
    places: dict[str, Placed] = {}
    for place in searched.store.places([one.row.key for one in best]):
        if allowed is None or (place.document, place.number) in allowed:
            places.setdefault(place.key, place)
    return places


def _found(one: Scored, place: Placed | None) -> Found:
    block = one.row.block
    if place is None:
        return Found(one.score, block.text, None, 0, 0, len(block.text or ""), {}, block.length)
    return Found(
        one.score, block.text, place.document, place.number, place.start, place.end, place.metadata, block.length
    )
