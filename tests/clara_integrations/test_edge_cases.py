"""The page of edge cases says what the table says."""

from edge_cases import EDGE_CASES, PAGE, markdown


def test_the_page_is_in_step_with_the_table():
    assert PAGE.read_text() == markdown(), "python tests/clara_integrations/edge_cases.py > docs/edge-cases.md"


def test_the_rows_are_told_apart_by_their_names():
    assert len({case.name for case in EDGE_CASES}) == len(EDGE_CASES)
