"""LlamaIndex's `MetadataFilters` as a filter of a store (`clara_model.store.filters`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

_PLAIN = {
    FilterOperator.EQ: "$eq",
    FilterOperator.NE: "$ne",
    FilterOperator.GT: "$gt",
    FilterOperator.GTE: "$gte",
    FilterOperator.LT: "$lt",
    FilterOperator.LTE: "$lte",
    FilterOperator.IN: "$in",
    FilterOperator.NIN: "$nin",
    FilterOperator.CONTAINS: "$contains",
}
_OF_LISTS = {FilterOperator.ANY: "$or", FilterOperator.ALL: "$and"}
_CONDITIONS: dict[FilterCondition, Callable[[list[Any]], dict[str, Any]]] = {
    FilterCondition.AND: lambda tests: {"$and": tests},
    FilterCondition.OR: lambda tests: {"$or": tests},
    FilterCondition.NOT: lambda tests: {"$not": {"$or": tests}},
}


def where_of(filters: MetadataFilters) -> dict[str, Any]:
    """The same filter for `Clara.search`.

    Raises:
        ValueError: an operator that stores do not have.
    """
    tests = [where_of(one) if isinstance(one, MetadataFilters) else _test(one) for one in filters.filters]
    return _CONDITIONS[filters.condition or FilterCondition.AND](tests)


def _test(one: MetadataFilter) -> dict[str, Any]:
    if one.operator in _OF_LISTS:
        values = one.value if isinstance(one.value, list) else [one.value]
        return {_OF_LISTS[one.operator]: [{one.key: {"$contains": value}} for value in values]}
    if one.operator not in _PLAIN:
        known = ", ".join(operator.value for operator in (*_PLAIN, *_OF_LISTS))
        raise ValueError(f"ClaraRetriever: the operator {one.operator.value!r} is none of {known}")
    return {one.key: {_PLAIN[one.operator]: one.value}}
