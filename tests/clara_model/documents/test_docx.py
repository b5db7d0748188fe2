"""Word documents as their readers see them: changes accepted, every word once, in the order of the page."""

import io
import zipfile

import pytest
from written_files import OPEN, W, package

from clara_model.documents import docx as reader
from clara_model.documents.document import Unreadable
from clara_model.documents.docx import docx


def run(text: str) -> str:
    return f'<w:r><w:t xml:space="preserve">{text}</w:t></w:r>'


def paragraph(*parts: str) -> str:
    return f"<w:p>{''.join(part if part.startswith('<') else run(part) for part in parts)}</w:p>"


CODE = "<w:r><w:instrText>{}</w:instrText></w:r>"
MARK = '<w:r><w:fldChar w:fldCharType="{}"/></w:r>'


def field(code: str, *parts: str, given: str = "") -> str:
    """A field; its code goes on with the parts where something else is given."""
    inside = "".join(part if part.startswith("<") else run(part) for part in parts)
    code = MARK.format("begin") + CODE.format(code)
    if given:
        return code + inside + MARK.format("separate") + run(given) + MARK.format("end")
    return code + MARK.format("separate") + inside + MARK.format("end")


def cell(*blocks: str, more: str = "") -> str:
    return f"<w:tc><w:tcPr>{more}</w:tcPr>{''.join(b if b.startswith('<') else paragraph(b) for b in blocks)}</w:tc>"


def control(content: str) -> str:
    return f'<w:sdt><w:sdtPr><w:alias w:val="no"/></w:sdtPr><w:sdtContent>{content}</w:sdtContent></w:sdt>'


def row(*cells: str, more: str = "") -> str:
    return f"<w:tr><w:trPr>{more}</w:trPr>{''.join(c if c.startswith('<') else cell(c) for c in cells)}</w:tr>"


def table(*rows: str) -> str:
    return f"<w:tbl>{''.join(rows)}</w:tbl>"


def box(text: str) -> str:
    """A text box as Word writes it: in a new and an old form."""
    content = f"<w:txbxContent>{paragraph(text)}</w:txbxContent>"
    return (
        f'<w:r><mc:AlternateContent><mc:Choice Requires="wps"><w:drawing><wps:txbx>{content}</wps:txbx></w:drawing>'
        f"</mc:Choice><mc:Fallback><w:pict><v:textbox>{content}</v:textbox></w:pict></mc:Fallback></mc:AlternateContent></w:r>"
    )


CHANGED = '<w:{0} w:id="1" w:author="x">{1}</w:{0}>'
DELETED = "<w:del w:id='1'><w:r><w:delText>ten</w:delText></w:r></w:del>"
BODIES = {
    "block control": (control(paragraph("Signed by Ada.")), "Signed by Ada."),
    "control in a control": (control(control(paragraph("In", control(run("ner")), "."))), "Inner."),
    "insertion and deletion": (
        paragraph("It costs ", DELETED, CHANGED.format("ins", run("eleven")), " crowns."),
        "It costs eleven crowns.",
    ),
    "move": (
        paragraph("A ", CHANGED.format("moveFrom", run("old ")), "B", CHANGED.format("moveTo", run(" new"))),
        "A B new",
    ),
    "deleted paragraph end": (
        f"<w:p><w:pPr><w:rPr><w:del w:id='1'/></w:rPr></w:pPr>{run('One ')}</w:p>"
        + paragraph("line.")
        + paragraph("Two."),
        "One line.\n\nTwo.",
    ),
    "smart tag": (paragraph("In ", f'<w:smartTag w:element="City">{run("Oslo")}</w:smartTag>', "."), "In Oslo."),
    "simple field": (
        paragraph(f'<w:fldSimple w:instr=" REF a ">{run("Table 9")}</w:fldSimple>', " says"),
        "Table 9 says",
    ),
    "field": (paragraph("Page ", field("PAGE", "7"), "."), "Page 7."),
    "field in a field's code": (
        paragraph("Dear ", field('IF "', field("MERGEFIELD sex", "f"), CODE.format('" = "f"'), given="Madam"), ","),
        "Dear Madam,",
    ),
    "field in what a field gives": (paragraph(field("TOC", "Mills ", field("PAGEREF a", "3"))), "Mills 3"),
    "field without end": (f"<w:p>{MARK.format('begin')}{run('Kept.')}</w:p>" + paragraph("Next."), "Kept.\n\nNext."),
    "custom XML": (f'<w:customXml w:element="a">{paragraph("Kept.")}</w:customXml>', "Kept."),
    "link": (paragraph("See ", f'<w:hyperlink r:id="x">{run("here")}</w:hyperlink>', "."), "See here."),
    "text box": (
        paragraph("Before ", box("In the box."), "after.") + paragraph("Next."),
        "Before after.\n\nIn the box.\n\nNext.",
    ),
    "signs": (
        paragraph("<w:r><w:t>a</w:t><w:tab/><w:t>b</w:t><w:br/><w:t>c</w:t><w:noBreakHyphen/><w:t>d</w:t></w:r>"),
        "a\tb\nc-d",
    ),
    "symbols": (
        paragraph('<w:r><w:sym w:font="Symbol" w:char="F06D"/><w:sym w:font="Arial" w:char="00B5"/></w:r>'),
        "μµ",
    ),
    "hidden": (paragraph("Seen", "<w:r><w:rPr><w:vanish/></w:rPr><w:t> unseen</w:t></w:r>", "."), "Seen."),
    "not hidden": (paragraph('<w:r><w:rPr><w:vanish w:val="0"/></w:rPr><w:t>Seen</w:t></w:r>'), "Seen"),
    "reading above": (
        paragraph(f"<w:r><w:ruby><w:rt>{run('kan')}</w:rt><w:rubyBase>{run('漢')}</w:rubyBase></w:ruby></w:r>"),
        "漢(kan)",
    ),
    "table": (
        paragraph("A") + table(row("x", cell("y", "z")), row("1", "2")) + paragraph("B"),
        "A\n\nx | y z\n1 | 2\n\nB",
    ),
    "controls in a table": (
        table(row("Name", control(cell("Ada"))), control(row("Age", cell(control(paragraph("36")))))),
        "Name | Ada\nAge | 36",
    ),
    "merged cells": (
        table(
            row(cell("Tolls", more='<w:gridSpan w:val="3"/>')),
            row(cell("North", more='<w:vMerge w:val="restart"/>'), "1", "2"),
            row(cell("", more="<w:vMerge/>"), "3", "4"),
        ),
        "Tolls\nNorth | 1 | 2\n3 | 4",
    ),
    "table in a table": (table(row(cell("Outer", table(row("in", "ner")), ""), "right")), "Outer in | ner | right"),
    "frame": (table(row(cell("One.", "Two.", table(row("a", "b"))))), "One.\n\nTwo.\n\na | b"),
    "deleted row": (table(row("1", "2"), row("3", "4", more='<w:del w:id="1"/>')), "1 | 2"),
    "deleted cell": (table(row("1", cell("2", more='<w:cellDel w:id="1"/>'), "3")), "1 | 3"),
}


@pytest.mark.parametrize(("body", "right"), BODIES.values(), ids=BODIES)
def test_the_body(body: str, right: str):
    assert docx(package(body), "a.docx") == right


E = "<m:e><m:r><m:t>{}</m:t></m:r></m:e>"
EQUATIONS = {
    "plain": ("<m:r><m:t>E=m</m:t></m:r><m:r><m:t>c</m:t></m:r>", "E=mc"),
    "fraction": (
        "<m:f><m:num><m:r><m:t>a+b</m:t></m:r></m:num><m:den><m:r><m:t>2</m:t></m:r></m:den></m:f>",
        "(a+b)/2",
    ),
    "power": (f"<m:sSup>{E.format('x')}<m:sup><m:r><m:t>10</m:t></m:r></m:sup></m:sSup>", "x^10"),
    "root": (f"<m:rad><m:radPr><m:degHide/></m:radPr><m:deg/>{E.format('y')}</m:rad>", "√(y)"),
    "brackets": (f'<m:d><m:dPr><m:begChr m:val="["/></m:dPr>{E.format("a")}</m:d><m:d>{E.format("b")}</m:d>', "[a)(b)"),
    "sum": (
        '<m:nary><m:naryPr><m:chr m:val="∑"/></m:naryPr><m:sub><m:r><m:t>i</m:t></m:r></m:sub><m:sup/>'
        f"{E.format('z')}</m:nary>",
        "∑_iz",
    ),
}


@pytest.mark.parametrize(("equation", "right"), EQUATIONS.values(), ids=EQUATIONS)
def test_equations_in_one_line(equation: str, right: str):
    inside = paragraph("Thus ", f"<m:oMath>{equation}</m:oMath>", ".")
    alone = f"<m:oMathPara><m:oMath>{equation}</m:oMath></m:oMathPara>"
    assert docx(package(inside + alone), "a.docx") == f"Thus {right}.\n\n{right}"


def note(kind: str, number: int, text: str) -> str:
    return f'<w:{kind} w:id="{number}">{paragraph(f"<w:r><w:{kind}Ref/></w:r>", text)}</w:{kind}>'


def test_notes_stand_after_their_paragraph_each_once():
    refer = '<w:r><w:{}Reference w:id="{}"/></w:r>'
    first, second = refer.format("footnote", 2), refer.format("endnote", 2)
    body = paragraph("It turned", first, " once", second, ".") + paragraph("Then", first, " no more.")
    more = {
        "footnotes": note("footnote", 1, "never named") + note("footnote", 2, "In May."),
        "endnotes": note("endnote", 2, "See the log."),
    }
    assert docx(package(body, **more), "a.docx") == "It turned once.\n\nIn May.\n\nSee the log.\n\nThen no more."


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("even", [True, False])
def test_headers_and_footers_that_are_shown_stand_around_the_text_each_once(first: bool, even: bool):
    def section(*names: tuple[str, str]) -> str:
        listed = "".join(f'<w:{name[:6]}Reference w:type="{kind}" r:id="{name}"/>' for name, kind in names)
        return f"<w:sectPr>{listed}{'<w:titlePg/>' if first else ''}</w:sectPr>"

    names = ("header1", "default"), ("header2", "first"), ("header3", "even"), ("footer1", "default")
    body = f"<w:p><w:pPr>{section(*names)}</w:pPr>{run('Text.')}</w:p>" + section(("header1", "default"))
    margins = {name: paragraph(f"{kind} {name[:6]}") for name, kind in names}
    settings = "<w:evenAndOddHeaders/>" if even else '<w:evenAndOddHeaders w:val="0"/>'
    shown = ["default header", *(["first header"] if first else []), *(["even header"] if even else [])]
    right = "\n\n".join([*shown, "Text.", "default footer"])
    assert docx(package(body, settings=settings, **margins), "a.docx") == right


def test_strict_documents_have_names_of_their_own():
    data = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(package(paragraph("Strict.")))) as old, zipfile.ZipFile(data, "w") as new:
        for name in old.namelist():
            text = old.read(name).decode().replace(W, "http://purl.oclc.org/ooxml/wordprocessingml/main")
            new.writestr(name, text.replace(f"{OPEN}/officeDocument/2006/relationships/", "http://purl.oclc.org/x/"))
    assert docx(data.getvalue(), "a.docx") == "Strict."


def test_what_another_program_wrote():
    import docx as python_docx

    document = python_docx.Document()
    document.sections[0].header.paragraphs[0].text = "Mill papers"
    document.sections[0].footer.paragraphs[0].text = "page one"
    document.add_heading("The mill", 1)
    document.add_paragraph("It was rebuilt.")
    table = document.add_table(rows=3, cols=2)
    table.cell(0, 0).merge(table.cell(0, 1)).text = "Years"
    table.cell(1, 0).merge(table.cell(2, 0)).text = "built"
    table.cell(1, 1).text, table.cell(2, 1).text = "1904", "1962"
    document.add_paragraph("The end.")
    data = io.BytesIO()
    document.save(data)
    text = docx(data.getvalue(), "a.docx")
    assert text == "Mill papers\n\nThe mill\n\nIt was rebuilt.\n\nYears\nbuilt | 1904\n1962\n\nThe end.\n\npage one"


MANY = "".join(f"<!ENTITY a{n} '{f'&a{n - 1};' * 10 if n else 'ha'}'>" for n in range(12))
BROKEN = {
    "no zip": (b"text", "cannot be read as DOCX: File is not a zip file"),
    "no document": (b"PK\5\6" + bytes(18), "cannot be read as DOCX: it holds no document"),
    "no XML": (package("<w:p>"), "cannot be read as DOCX: Opening and ending tag mismatch"),
    "old or encrypted": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is encrypted or of Word before 2007; save it as DOCX"),
    "deep": (package("<w:ins>" * 9999 + "</w:ins>" * 9999), "cannot be read as DOCX: Excessive depth"),
    "names for names": (package("&a11;", before=f"<!DOCTYPE a [{MANY}]>"), "cannot be read as DOCX"),
}


@pytest.mark.parametrize(("data", "reason"), BROKEN.values(), ids=BROKEN)
def test_what_is_no_document_is_said(data: bytes, reason: str):
    with pytest.raises(Unreadable, match=f"^a.docx {reason}"):
        docx(data, "a.docx")


def test_a_part_that_is_too_large_unpacked_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reader, "_MOST", 10_000)
    assert docx(package(paragraph("short")), "a.docx") == "short"
    with pytest.raises(Unreadable, match=r"word/document.xml has 1,\d\d\d,\d\d\d bytes when it is unpacked"):
        docx(package(paragraph("x" * 1_000_000)), "a.docx")
