"""The table that both side-by-side examples end with: each question, both answers, and what each prompt cost.

Only the bundled questions have known answers. An answer in which none of these stands, word for word, is marked as
wrong, whoever gave it; a whole sentence with the right words in it is not.
"""

import re

HEAD = """
| question | stock | CLaRa | prompt tokens, stock | CLaRa |
|---|---|---|---|---|"""


def table(rows, bundled):
    """Of ``{"question": .., "stock": (answer, tokens), "CLaRa": (answer, tokens)}``; the set knows what is right."""
    known = dict(zip(bundled.questions, bundled.answers, strict=True))
    lines = [HEAD]
    for row in rows:
        accepted = known.get(row["question"])
        said, cost = zip(*(row[engine] for engine in ("stock", "CLaRa")), strict=True)
        marked = [text if not accepted or holds(text, accepted) else f"{text} (wrong)" for text in said]
        cells = [" ".join(text.split()) for text in (row["question"], *marked)]
        lines.append(f"| {' | '.join([*cells, *map(str, cost)])} |")
    return "\n".join(lines)


def holds(answer, accepted):
    """Whether an accepted answer stands in it; letter case and punctuation aside."""
    return any(f" {words(text)} " in f" {words(answer)} " for text in accepted)


def words(text):
    return " ".join(re.findall(r"\w+", text.lower()))
