"""Small files in the official forms of HotpotQA, 2WikiMultiHopQA, MuSiQue and NQ-open, written for the tests."""

import gzip
import json


def hotpotqa(number, others=3):
    """One item: two gold paragraphs among others, sentences with their spaces as in the official file."""
    context = [
        [f"Town {number}", [f"Town {number} lies by a lake.", f" Its mayor is Mayor {number}."]],
        [f"Mayor {number}", [f"Mayor {number} was born in year {1900 + number}.", " Little else is known."]],
        *([f"Hill {number}-{i}", [f"Hill {number}-{i} is a low hill.", " It has a path."]] for i in range(others)),
    ]
    return {
        "_id": f"id{number}",
        "question": f"When was the mayor of Town {number} born?",
        "answer": f"{1900 + number}",
        "type": "bridge",
        "level": "hard",
        "supporting_facts": [[f"Town {number}", 1], [f"Mayor {number}", 0], [f"Mayor {number}", 1]],
        "context": [*context[2:], *context[:2]],
    }


def musique(number, answerable=True, others=2):
    """One line: two supporting paragraphs, with two accepted answers."""
    paragraphs = [
        (f"Film {number}", f"Film {number} was shot by Eve {number}.", True),
        (f"Eve {number}", f"Eve {number} lives in Port {number}.", True),
        *((f"Film {number}{i}", f"Film {number}{i} was never shown.", False) for i in range(others)),
    ]
    return {
        "id": f"2hop__{number}",
        "paragraphs": [
            {"idx": i, "title": title, "paragraph_text": text, "is_supporting": gold and answerable}
            for i, (title, text, gold) in enumerate(paragraphs)
        ],
        "question": f"Where does the maker of Film {number} live?",
        "question_decomposition": [],
        "answer": f"Port {number}",
        "answer_aliases": [f"Port {number}", f"the harbour {number}"],
        "answerable": answerable,
    }


NQ = [
    {"question": "who built the salt mill at osmere", "answer": ["Mei Lin", "Lin Mei"]},
    {"question": "where is the paper museum", "answer": ["Cold Harbour"]},
    {"question": "who walked on the sun", "answer": ["Nobody Atall"]},
]
PASSAGES = [
    ("The salt mill at Osmere was built by Mei Lin in 1790.", "Osmere"),
    ("The salt mill at Osmere burned down once.", "Salt mill"),
    ('A ""mill"" song by Mei Lin is sung at Osmere.', "Song"),
    ("The paper museum stands in Cold Harbour.", "Paper museum"),
    ("A museum of clocks stands in Tolvik.", "Clock museum"),
    ("Nothing is known of the sun tower.", "Sun tower"),
]


def write(path, text):
    """Write plain or gzipped, by the name."""
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_json(path, values):
    """One JSON list."""
    return write(path, json.dumps(values))


def write_jsonl(path, values):
    """One value a line."""
    return write(path, "".join(json.dumps(value) + "\n" for value in values))


def write_tsv(path, passages=PASSAGES, header=True):
    """Passages in DPR's form."""
    lines = ["id\ttext\ttitle"] if header else []
    lines += [f'{number}\t"{text}"\t{title}' for number, (text, title) in enumerate(passages, start=1)]
    return write(path, "\n".join(lines) + "\n")
