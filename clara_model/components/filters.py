"""What the filters of both frameworks mean that a store's own (`clara_model.store.filters`) do not."""

from __future__ import annotations

import operator
from typing import Any

_TESTS = {"$gt": operator.gt, "$gte": operator.ge, "$lt": operator.lt, "$lte": operator.le}


def ordered(name: str, order: str, value: Any) -> dict[str, Any]:
    """``$gt``, ``$gte``, ``$lt`` or ``$lte`` where true and false count as 1 and 0, as in Python."""
    if not isinstance(value, (int, float)):
        return {name: {order: value}}
    value = int(value) if isinstance(value, bool) else value
    fitting = [one for one in (True, False) if _TESTS[order](one, value)]
    return {"$or": [{name: {order: value}}, {name: {"$in": fitting}}]}
