import gc
import threading
import time

import pytest
import torch

from clara_model.inference.streaming import Feed, TextPieces, TextStream


def decode(ids: list[int]) -> str:
    """Ids are bytes."""
    return bytes(ids).decode("utf-8", "replace")


def pieces(text: str, stop=()) -> list[str]:
    made = TextPieces(decode, stop)
    return [made.push([byte]) for byte in text.encode()]


def test_one_piece_for_each_token():
    assert pieces("abc") == ["a", "b", "c"]


def test_a_character_comes_whole():
    assert pieces("aé€😀b") == ["a", "", "é", "", "", "€", "", "", "", "😀", "b"]


def test_what_may_become_a_stop_string_is_held_back():
    assert pieces("one END", ["END"]) == ["o", "n", "e", " ", "", "", ""]
    assert "".join(pieces("one ENTER", ["END"])) == "one ENTER"


def test_nothing_of_a_stop_string_or_after_it():
    made = TextPieces(decode, ["##", "END"])
    assert [made.push(list(part.encode())) for part in ("on", "e E", "ND tw", "o ##")] == ["on", "e ", "", ""]
    assert made.finish("one ") == ""


def test_the_end_brings_what_was_held():
    made = TextPieces(decode, ["END"])
    assert made.push(list(b"xEN"[:2])) == "x"
    assert made.finish("xE") == "E"


def test_bytes_that_are_taken_back_send_nothing_twice():
    shown = iter(["a", "ab", "a\ufffd\ufffd", "abcd"])
    made = TextPieces(lambda ids: next(shown))
    assert [made.push([0]) for _ in range(4)] == ["a", "b", "", "cd"]


def feeding(text: str, done: threading.Event | None = None):
    def work(feed: Feed) -> str:
        try:
            feed.pieces = TextPieces(decode)
            feed.put(torch.zeros(1, 5, dtype=torch.long))  # the prompt
            for byte in text.encode():
                feed.put(torch.tensor([byte]))
                time.sleep(0.001)
            feed.finish(text)
            return text
        finally:
            if done is not None:
                done.set()

    return work


def test_pieces_then_the_result():
    stream = TextStream(feeding("naïve"))
    with pytest.raises(RuntimeError, match="read to its end"):
        stream.answer  # noqa: B018
    assert list(stream) == ["n", "a", "ï", "v", "e"]
    assert stream.answer == "naïve"
    assert list(stream) == []


def test_closing_early_ends_the_thread():
    done = threading.Event()
    stream = TextStream(feeding("x" * 100_000, done))
    assert next(stream) == "x"
    stream.close()
    assert done.is_set()
    assert list(stream) == []
    with pytest.raises(RuntimeError, match="read to its end"):
        stream.answer  # noqa: B018
    stream.close()


def test_leaving_the_block_closes():
    done = threading.Event()
    with TextStream(feeding("x" * 100_000, done)) as stream:
        next(stream)
    assert done.is_set()


def test_a_stream_that_is_dropped_ends_its_thread():
    done = threading.Event()
    stream = TextStream(feeding("x" * 100_000, done))
    next(stream)
    del stream
    gc.collect()
    assert done.wait(5)


def test_an_error_in_the_thread_reaches_the_reader_after_what_came_before():
    def work(feed: Feed) -> str:
        feed.pieces = TextPieces(decode)
        feed.put(torch.tensor([120]))
        raise ValueError("broken")

    stream = TextStream(work)
    assert next(stream) == "x"
    with pytest.raises(ValueError, match="broken"):
        next(stream)
    assert list(stream) == []
