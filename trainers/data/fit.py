"""What a stage can learn from: the rules a row is held against before training starts, and when it is collated.

Leaves out lengths: texts that are too long are shortened, and counted (`trainers.data.collator`).
"""

from __future__ import annotations

from clara_model.modeling.objectives import Stage
from trainers.data.row import Row

RANKED: tuple[Stage, ...] = ("end_to_end", "pretrain_retrieval")
"""Stages whose rows are one question with its candidates."""


def unfit(row: Row, stage: Stage, documents: int) -> str:
    """Why a stage cannot learn from a row; empty where it can.

    Args:
        row: with its texts.
        stage: that is trained.
        documents: ``generation_top_k``, which in stage 1 every document of a row must fit.
    """
    if stage in RANKED and row.kind == "paraphrase":
        return "a paraphrase, but stage 3 wants a question in each row"
    if stage in RANKED and len(row.questions) != 1:
        return f"{len(row.questions)} questions, but stage 3 wants one in each row"
    if stage == "pretrain" and len(row.documents) > documents:
        return (
            f"{len(row.documents)} documents, but stage 1 reads them all and generation_top_k is {documents}; "
            "raise it, or leave the row out"
        )
    return ""
