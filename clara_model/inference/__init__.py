"""The one pipeline from text to answer, and `Clara` on top of it."""
