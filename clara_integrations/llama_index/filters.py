"""LlamaIndex's `MetadataFilters` as a filter of a store, with the meaning that `SimpleVectorStore` gives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from clara_model.components.filters import ordered

NOTHING: dict[str, Any] = {"$or": []}
_ORDERS = {FilterOperator.GT: "$gt", FilterOperator.GTE: "$gte", FilterOperator.LT: "$lt", FilterOperator.LTE: "$lte"}
_CONDITIONS: dict[FilterCondition, Callable[[list[Any]], dict[str, Any]]] = {
    FilterCondition.AND: lambda tests: {"$and": tests},
    FilterCondition.OR: lambda tests: {"$or": tests},
    FilterCondition.NOT: lambda tests: {"$not": {"$or": tests}},
}


def where_of(filters: MetadataFilters) -> dict[str, Any]:
    """The same filter for `Clara.search`. Raises `ValueError`: an operator or a value that makes no sense."""
    from clara_model.store.filters import condition  # with torch, which making components does without

    if not filters.filters:
        return {}
    tests = [where_of(one) if isinstance(one, MetadataFilters) else _test(one) for one in filters.filters]
    made = _CONDITIONS[filters.condition or FilterCondition.AND](tests)
    try:
        condition(made)
    except TypeError as error:
        raise ValueError(f"ClaraRetriever: {error}") from None
    return made


def _test(one: MetadataFilter) -> dict[str, Any]:
    """What is missing fits `NE` and `NIN` alone, whatever their value."""
    name, value = one.key, one.value
    if one.operator in _ORDERS:
        return ordered(name, _ORDERS[one.operator], value)
    match one.operator:
        case FilterOperator.EQ | FilterOperator.NE:
            test = NOTHING if value is None else {name: {"$eq": value}}
        case FilterOperator.IN | FilterOperator.NIN:
            test = {name: {"$in": [each for each in _listed(one) if each is not None]}}
        case FilterOperator.ANY:
            test = {"$or": [{name: {"$contains": each}} for each in _listed(one)]}
        case FilterOperator.ALL:
            test = {"$and": [{"$not": {name: None}}, *({name: {"$contains": each}} for each in _listed(one))]}
        case FilterOperator.CONTAINS | FilterOperator.TEXT_MATCH:
            test = {name: {"$contains": value}}
        case FilterOperator.TEXT_MATCH_INSENSITIVE:
            test = {name: {"$holds": value}}
        case FilterOperator.IS_EMPTY:
            test = {name: [None, "", []]}
        case _:
            raise ValueError(f"ClaraRetriever: the operator {one.operator.value!r} is not known")
    return {"$not": test} if one.operator in (FilterOperator.NE, FilterOperator.NIN) else test


def _listed(one: MetadataFilter) -> list[Any]:
    if not isinstance(one.value, list):
        raise ValueError(f"ClaraRetriever: the operator {one.operator.value!r} takes a list, got {one.value!r}")
    return one.value
