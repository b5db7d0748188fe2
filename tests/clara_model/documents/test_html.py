"""Pages as a browser shows them: what is text, what stands apart, in which encoding."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_model.documents import html as reader
from clara_model.documents.html import html
from clara_model.documents.passages import read_documents


def text(page: str | bytes) -> str:
    return html(page.encode() if isinstance(page, str) else page, "a.html")


PAGE = """<!doctype html><html><head><meta charset="latin-1"><title>The mill</title><style>p {}</style></head>
<body><script>var hidden = 1;</script><h1>Mill &amp; clock</h1>
<p>The <b>copper</b> mill
was rebuilt by caf\xe9 owners.<br>Twice.</p><ul><li>One</li><li>Two</li></ul>
<table><tr><td>year</td><td>1962</td></tr></table><pre>a
  b</pre><!-- not this --></body></html>"""


@pytest.mark.parametrize("name", ["page.html", "page.HTM"])
def test_the_visible_text_in_paragraphs(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(PAGE.encode("latin-1"))
    (found,) = read_documents([str(tmp_path / name)])
    assert found.text.split("\n") == [
        *("The mill", "", "Mill & clock", "", "The copper mill was rebuilt by caf\xe9 owners.", "Twice.", ""),
        *("One", "", "Two", "", "year 1962", "", "a", "  b"),
    ]


UNCLOSED = {
    "head": ("<html><head><title>Tolls</title><body><p>The toll is nine crowns.", "Tolls\n\nThe toll is nine crowns."),
    "no head": ("<!doctype html><title>Tolls</title><p>Nine crowns.", "Tolls\n\nNine crowns."),
    "svg": ("<body><p>One.<svg><g><p>Nine crowns.</p></body></html>", "One.\n\nNine crowns."),
    "noscript": ("<body><noscript><img src=a><p>Nine crowns.</p></body></html>", "Nine crowns."),
    "template": ("<body><template><p>Nine crowns.</p></body></html>\n", "Nine crowns."),
    "hidden": ("<p>One.</p><div hidden><p>Two.</p><p>Three.", "One.\n\nTwo.\n\nThree."),
    "comment": ("<p>One.</p><!-- ever", "One."),
    "script": ("<p>One.</p><script>if (a < b) '<p>no'", "One."),
    "bracket": ("<p>One.</p><![ endif]--><p>Two <![if 3</p><p>Four.", "One.\n\nTwo\n\nFour."),
    "angle": ("<p>1 < 2 and 3 <4 &copy; 2020 &hellip; &nosuch; AT&T</p", "1 < 2 and 3 <4 © 2020 … &nosuch; AT&T"),
}


@pytest.mark.parametrize(("page", "right"), UNCLOSED.values(), ids=UNCLOSED)
def test_what_is_never_closed_loses_nothing(page: str, right: str):
    assert text(page) == right


APART = {
    "cells": ("<table><tr><th>Year<th>Sum<tr><td>1931<td>48<td>ok</table>", "Year Sum\n1931 48 ok"),
    "caption": ("<table><caption>Sums<tr><td>1<tfoot><tr><td>2</table>end", "Sums\n1\n2\n\nend"),
    "summary": ("<details><summary>Who?</summary>Ada did.</details>", "Who?\nAda did."),
    "options": ("<select><option>Oak<option selected>Ash</select>", "Oak\nAsh"),
    "addresses": ("Here:<address>Mill 4</address><address>Oak 5</address>", "Here:\n\nMill 4\n\nOak 5"),
    "legend": ("<fieldset><legend>Paid</legend>cash</fieldset>", "Paid\ncash"),
    "labels": ("<label>Cash</label><label>Card</label><button>Go</button>now", "Cash Card Go now"),
    "links": ("<a href=a>Home</a><a href=b>Work</a><span><a>Tips</a></span>", "Home Work Tips"),
    "words": ("<p>one<b>two</b><a>three</a>four<span>five</span><wbr>six", "onetwothreefourfivesix"),
    "lists": ("<dl><dt>Oak<dd>a tree</dl><ul><li>x<li>y</ul>", "Oak\n\na tree\n\nx\n\ny"),
    "lines": ("a<br>b<br><br>c<hr>d", "a\nb\n\nc\n\nd"),
    "blanks": ("<p>  one \n\t two<b> </b>three </p>\n\n\n<p> four", "one two three\n\nfour"),
    "code": ("<p>Do:</p><pre>\n    if x:\n\treturn  1\n</pre><p>so", "Do:\n\n    if x:\n\treturn  1\n\nso"),
    "drawing": ("<svg><title>no</title><text>12 %</text><text>88 %</text></svg>", "12 %\n88 %"),
}


@pytest.mark.parametrize(("page", "right"), APART.values(), ids=APART)
def test_what_stands_apart_is_not_fused_and_what_is_one_word_is_not_cut(page: str, right: str):
    assert text(page) == right


@pytest.mark.parametrize(
    "tag",
    [
        *("p hidden", "p style='color:red; DISPLAY : none'", "p style=display:none!important", "template", "datalist"),
        *("script", "style", "title", "iframe", "noframes"),
    ],
)
def test_what_is_not_shown_is_left_out(tag: str):
    assert text(f"<title>Now</title><p>One<{tag}>old <b>price</b> 8</{tag.split()[0]}><p>two") == "Now\n\nOne\n\ntwo"


@pytest.mark.parametrize(
    "tag", ["p hidden=until-found", "p style='x-display: none'", "body style=display:none", "noscript"]
)
def test_what_can_be_seen_in_the_end_is_kept(tag: str):
    assert text(f"<{tag}>price 8") == "price 8"


ENCODINGS = {
    "one bad byte": (b"<meta charset=utf-8><p>Z\xc3\xbcrich \xff caf\xc3\xa9", "Zürich \ufffd café"),
    "one bad byte, nothing declared": ("äöüßéèêàçñ".encode() + b"\xfc", "äöüßéèêàçñ\ufffd"),
    "Windows bytes as latin-1": (b"<meta charset='ISO-8859-1'>\x93No\x94 \x96 5 \x80", "“No” – 5 €"),
    "UTF-8 as latin-1": ("<meta charset=iso-8859-1><p>Zürich".encode(), "Zürich"),
    "UTF-8 as UTF-16": ("<meta charset=utf-16><p>Zürich".encode(), "Zürich"),
    "UTF-16": ("<p>Zürich".encode("utf-16"), "Zürich"),
    "mark before declaration": ("\ufeff<meta charset=koi8-r><p>Zürich".encode(), "Zürich"),
    "http-equiv": (
        "<meta content='text/html; charset=Shift_JIS' http-equiv=content-type>ページ①".encode("cp932"),
        "ページ①",
    ),
    "after a long comment": (
        b"<!-- <meta charset=utf-8>" + b"x" * 4000 + b"--><meta charset=cp1251>\xcc\xe8\xf0",
        "Мир",
    ),
    "XML": ("<?xml version='1.0' encoding='gb2312'?><p>中文".encode("gbk"), "中文"),
    "unknown name": (
        b"<meta charset=nonsense><p>Die Stra\xdfe f\xfchrt nach Z\xfcrich.",
        "Die Straße führt nach Zürich.",
    ),
    "none, Japanese": ("<p>古い水車は町の川のそばにあります。".encode("euc-jp"), "古い水車は町の川のそばにあります。"),
    "none, Russian": ("<p>Старая мельница стоит у реки.".encode("koi8-r"), "Старая мельница стоит у реки."),
}


@pytest.mark.parametrize(("page", "right"), ENCODINGS.values(), ids=ENCODINGS)
def test_the_encoding_is_found_as_browsers_find_it(page: bytes, right: str):
    assert text(page) == right


def seconds(tag: str, count: int) -> float:
    """Of a page with as many tags without end, and as many ends of nothing inside many that are open."""
    page = "<div><q>" * count + "".join(f"<{tag.format(n)}>x" for n in range(count))
    start = time.process_time()
    text(page)
    return time.process_time() - start


@pytest.mark.parametrize("tag", ["tr><td", "p><b class={}", "div", "a href={}", "template", "![", 'q a="', "/i"])
def test_time_grows_with_the_page_not_its_square(tag: str):
    assert min(seconds(tag, 12_000) for _ in range(2)) < 8 * max(seconds(tag, 3_000), 0.02)


PIECES = st.sampled_from(
    [
        *("<", ">", "/", "&", "&amp", ";", "!", "-", "[", "]", "'", '"', "=", " ", "\r\n", "\0", "word", "\ud800", "é"),
        *("<p>", "</p>", "<td>", "<tr>", "<table>", "</table>", "<b", " a='", "<!--", "-->", "<script>", "</script>"),
        *("<svg>", "</svg>", "<title>", "</title>", "<pre>", "<template>", "</template>", "<div hidden>", "</div>"),
        *("<![CDATA[", "]]>", "<?xml", "<meta charset=", "utf-16le", "<body>", "</body>", "</html>", "<frameset>"),
    ]
)


@given(st.lists(PIECES, max_size=60).map("".join), st.integers(1, 9), st.integers(2, 9))
def test_a_page_in_pieces_is_the_page(page: str, size: int, deepest: int):
    whole = text(page.encode("utf-8", "surrogatepass"))
    with pytest.MonkeyPatch.context() as small:
        small.setattr(reader, "_PIECE", size)
        assert text(page.encode("utf-8", "surrogatepass")) == whole
        small.setattr(reader, "_DEEPEST", deepest)
        text(page.encode("utf-8", "surrogatepass"))
