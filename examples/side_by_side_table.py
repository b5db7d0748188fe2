"""The table that both side-by-side examples end with: each question, both answers, and what each prompt cost.

Only the bundled questions have known answers; a wrong answer is marked, whoever gave it.
"""

from clara_model.cli.demo import BUNDLED_SET, DemoSet, is_right

HEAD = """
| question | stock | CLaRa | prompt tokens, stock | CLaRa |
|---|---|---|---|---|"""


def table(rows):
    """Of ``{"question": .., "stock": (answer, tokens), "CLaRa": (answer, tokens)}``."""
    bundled = DemoSet.read(BUNDLED_SET)
    known = dict(zip(bundled.questions, bundled.answers, strict=True))
    lines = [HEAD]
    for row in rows:
        accepted = known.get(row["question"])
        said, cost = zip(*(row[engine] for engine in ("stock", "CLaRa")), strict=True)
        marked = [text if not accepted or is_right(text, accepted) else f"{text} (wrong)" for text in said]
        lines.append(f"| {' | '.join([row['question'], *marked, *map(str, cost)])} |")
    return "\n".join(lines)
