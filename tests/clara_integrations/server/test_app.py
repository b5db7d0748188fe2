"""The server's bounds, errors, store and operations, over real HTTP."""

import contextlib
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import small_model
from served import running

from clara_model import Clara
from clara_model.store.cache import durable

QUESTION = "Where was Ranvun Mepos born?"
TEXTS = ["Ponwis Kilos was born in Tenga.", "Ranvun Mepos was born in Jiwas.", "The tower Wanlus stands in Kinzos."]


def chat(question=QUESTION, documents=TEXTS, **more):
    return {"messages": [{"role": "user", "content": question}], "documents": documents, **more}


@pytest.fixture(scope="module")
def slow(base_folder):
    """A random model, which ends no answer before it must: a thousand tokens take seconds."""
    return Clara(small_model.build_model(base_folder))


def long_chat(**more):
    return chat("Who came?", small_model.TEXTS, max_tokens=1000, **more)


def generating():
    return [thread for thread in threading.enumerate() if thread.name == "clara-stream"]


def ends_soon(seconds=3.0):
    until = time.monotonic() + seconds
    while generating() and time.monotonic() < until:
        time.sleep(0.02)
    return not generating()


# -- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        ("/v1/chat/completions", chat(" "), "the question is blank"),
        ("/v1/chat/completions", chat(documents=[]), "there is nothing to answer from|the store"),
        ("/v1/chat/completions", chat(store=False, documents=None), "there is nothing to answer from"),
        ("/v1/chat/completions", {"messages": [{"role": "system", "content": "x"}]}, "there is none of the user's"),
        ("/v1/chat/completions", {"messages": []}, "messages: .* at least 1"),
        (
            "/v1/chat/completions",
            chat(documents=[{"id": 3, "title": "no text"}]),
            "a document must be a string or have",
        ),
        ("/v1/chat/completions", chat(documents=[{"id": "nowhere"}]), "holds no document 'nowhere'"),
        ("/v1/chat/completions", chat(top_k=1000), "top_k must be at most 64 on this server, got 1000"),
        ("/v1/chat/completions", chat(max_tokens=5000), "max_tokens must be at most 1024"),
        ("/v1/chat/completions", chat(n=2), "n: .*got 2"),
        ("/v1/chat/completions", chat(tools=[{"type": "function"}]), "tools: "),
        ("/v1/chat/completions", chat(frequency_penalty=0.5), "frequency_penalty: "),
        ("/v1/chat/completions", chat(temperature=-1), "temperature: "),
        ("/v1/chat/completions", chat(copy=True, top_p=0.5), "copy=True .* leave out top_p"),
        ("/v1/chat/completions", chat(copy="yes"), "copy: "),
        ("/v1/chat/completions", chat(documents=["x"] * 1001), "number of documents must be at most 1000 .* got 1001"),
        ("/v1/rerank", {"query": QUESTION}, "give either documents or texts"),
        ("/v1/rerank", {"query": QUESTION, "documents": TEXTS, "texts": TEXTS}, "give either documents or texts"),
        ("/v1/rerank", {"query": QUESTION, "documents": [{"id": "a"}]}, "a document to rank must have a text"),
        ("/v1/rerank", {"query": "", "documents": TEXTS}, "the question is blank"),
        ("/v1/embeddings", {"input": [[1, 2]]}, "input"),
        ("/v1/embeddings", {"input": "x", "dimensions": 0}, "dimensions: .*got 0"),
        ("/v1/documents", {"documents": [{"text": "a", "id": "x"}, {"text": "b", "id": "x"}]}, "have the same id"),
        ("/v1/documents", {"documents": [{"txt": "a"}]}, r"documents\.0\."),
        ("/v1/search", {"query": "x", "where": {"a": {"$nonsense": 1}}}, "nonsense"),
    ],
)
def test_bad_input_is_400_with_one_sentence_wherever_a_client_looks(http, path, body, sentence):
    answer = http.post(path, json=body)
    assert answer.status_code == 400, answer.text
    told = answer.json()
    assert re.search(sentence, told["error"]["message"]) and "\n" not in told["message"]
    assert told["message"] == told["detail"] == told["error"]["message"]
    assert told["error"]["type"] == "invalid_request_error" and told["error"]["code"] == 400


def test_an_error_of_a_tei_client_is_a_string(http):
    for body in ({"query": " ", "texts": TEXTS}, {"query": "x", "texts": []}, {"query": 3, "texts": TEXTS}):
        told = http.post("/rerank", json=body)
        assert told.status_code == 400 and isinstance(told.json()["error"], str), told.text


def test_what_is_no_json_is_refused_so_no_page_of_another_site_can_ask(http):
    for content, kind in ((b"{", "application/json"), (b'{"query": "x"}', "text/plain")):
        answer = http.post("/v1/search", content=content, headers={"content-type": kind})
        assert answer.status_code == 400 and answer.json()["error"]["message"]
    assert http.get("/v1/nothing").status_code == 404 and http.get("/v1/nothing").json()["message"] == "Not Found"


@pytest.mark.parametrize("stream", [False, True])
def test_a_copied_answer_is_one_that_the_documents_hold(http, stream: bool):
    body = chat(documents=small_model.TEXTS, copy=True, temperature=0, stream=stream)
    told = http.post("/v1/chat/completions", json=body)
    assert told.status_code == 200, told.text
    if stream:
        events = [json.loads(line[6:]) for line in told.text.splitlines() if line.startswith("data: {")]
        pieces = [one["choices"][0]["delta"].get("content") for one in events if one["choices"]]
        (text,) = [piece for piece in pieces if piece]
    else:
        text = told.json()["choices"][0]["message"]["content"]
        assert [(one["start"], one["end"]) for one in told.json()["clara"]["quotes"]] == [(0, len(text))]
    assert text and any(text in document for document in small_model.TEXTS)


# -- bounds --------------------------------------------------------------------------------------------------------


def test_a_key_is_wanted_everywhere_but_where_nothing_is_shown(tiny):
    with running(tiny, api_key="geheim ü") as url, httpx.Client(base_url=url) as http:
        for header in ({}, {"authorization": "Bearer other"}, {"authorization": "Bearer"}):
            answer = http.post("/v1/chat/completions", json=chat(), headers=header)
            assert answer.status_code == 401 and "wants its key" in answer.json()["error"]["message"]
        for path in ("/metrics", "/v1/models", "/v1/documents"):
            assert http.get(path).status_code == 401
        for path in ("/health", "/", "/docs", "/openapi.json"):
            assert http.get(path).status_code == 200
        right = {"authorization": "Bearer geheim ü".encode()}
        assert http.post("/v1/chat/completions", json=chat(), headers=right).status_code == 200


def test_a_large_body_is_refused_told_or_not(tiny):
    with running(tiny, max_body=2000) as url, httpx.Client(base_url=url) as http:
        large = b'{"query": "x", "documents": ["' + b"a" * 3000 + b'"]}'
        for content in (large, iter([large[:1500], large[1500:]])):
            answer = http.post("/v1/rerank", content=content, headers={"content-type": "application/json"})
            assert answer.status_code == 413 and "may have 2000 bytes" in answer.json()["error"]["message"]
        assert http.post("/v1/rerank", json={"query": QUESTION, "documents": TEXTS}).status_code == 200


def test_more_requests_than_the_queue_holds_are_sent_away(slow):
    with running(slow, queue=2) as url, httpx.Client(base_url=url, timeout=60) as http, ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(http.post, "/v1/chat/completions", json=long_chat()) for _ in range(2)]
        until = time.monotonic() + 10
        while "clara_requests_under_way 2.0" not in http.get("/metrics").text and time.monotonic() < until:
            time.sleep(0.02)
        away = http.post("/v1/chat/completions", json=chat())
        assert away.status_code == 429 and int(away.headers["retry-after"]) >= 1
        assert "2 requests are under way" in away.json()["error"]["message"]
        assert [one.result().status_code for one in asked] == [200, 200]
        assert http.post("/v1/rerank", json={"query": "x", "documents": ["y"]}).status_code == 200


@pytest.mark.parametrize("streamed", [False, True])
def test_time_that_is_up_ends_the_generation(slow, streamed):
    with running(slow, timeout=0.7) as url, httpx.Client(base_url=url, timeout=60) as http:
        start = time.monotonic()
        answer = http.post("/v1/chat/completions", json=long_chat(stream=streamed))
        assert time.monotonic() - start < 4
        assert answer.status_code == (200 if streamed else 504)
        assert "no answer within 0.7 s" in answer.text.splitlines()[-2 if streamed else 0]
        assert ends_soon()


@pytest.mark.parametrize("streamed", [False, True])
def test_a_closed_connection_ends_its_generation(slow, streamed):
    with running(slow) as url, httpx.Client(base_url=url) as http:
        with contextlib.suppress(httpx.ReadTimeout):
            with http.stream("POST", "/v1/chat/completions", json=long_chat(stream=streamed), timeout=0.5) as answer:
                for _, _ in zip(answer.iter_lines(), range(4), strict=False):
                    assert generating()
        assert ends_soon(), "it goes on for nobody"


# -- the store -----------------------------------------------------------------------------------------------------


def test_documents_are_compressed_once_and_asked_by_id_from_anywhere(http, stored):
    documents = [
        {"id": "ports/jiwas", "text": TEXTS[1], "metadata": {"lang": "en", "year": 1473}},
        {"id": "kilos", "text": TEXTS[0], "title": "A life"},
        {"text": TEXTS[2]},
    ]
    added = http.post("/v1/documents", json={"documents": documents}).json()
    assert added["ids"][:2] == ["ports/jiwas", "kilos"] and added["compressed"] == 3
    assert http.post("/v1/documents", json={"documents": documents}).json()["compressed"] == 0
    first = http.get("/v1/documents", params={"limit": 2}).json()
    rest = http.get("/v1/documents", params={"after": first["data"][-1]["id"]}).json()
    assert first["has_more"] and not rest["has_more"]
    assert {one["id"] for one in [*first["data"], *rest["data"]]} == set(added["ids"])
    (kept,) = [one for one in [*first["data"], *rest["data"]] if one["id"] == "ports/jiwas"]
    assert kept["metadata"].items() >= {"lang": "en", "year": 1473}.items()

    found = http.post("/v1/search", json={"query": QUESTION, "top_k": 2}).json()["data"]
    assert found[0]["document"] == "ports/jiwas" and found[0]["text"] == TEXTS[1] and len(found) == 2
    own = stored.search(QUESTION, 2)
    assert [one["score"] for one in found] == pytest.approx([one.score for one in own], abs=1e-6)
    only = http.post("/v1/search", json={"query": QUESTION, "where": {"lang": "en"}}).json()["data"]
    assert [one["document"] for one in only] == ["ports/jiwas"]

    by_id = chat(documents=[{"id": "kilos"}, "The tower Wanlus stands in Kinzos.", {"id": "ports/jiwas"}], top_k=2)
    answer = http.post("/v1/chat/completions", json=by_id).json()
    as_text = http.post(
        "/v1/chat/completions", json=chat(documents=[f"A life\n{TEXTS[0]}", TEXTS[2], TEXTS[1]], top_k=2)
    )
    assert answer["choices"] == as_text.json()["choices"]
    assert answer["clara"]["sources"][0]["id"] == "ports/jiwas" and answer["clara"]["sources"][0]["text"] == TEXTS[1]
    from_store = http.post("/v1/chat/completions", json=chat(documents=None, store=True, top_k=1)).json()
    assert from_store["choices"][0]["message"]["content"] == "Jiwas"
    assert [one["document"] for one in from_store["clara"]["sources"]] == ["ports/jiwas"]
    unsaid = http.post("/v1/chat/completions", json=chat(documents=None, top_k=1)).json()
    assert unsaid["choices"] == from_store["choices"], "a client that gives no documents asks the store"

    for name in added["ids"]:
        assert http.delete(f"/v1/documents/{name}").json()["deleted"] is True
    assert http.delete("/v1/documents/kilos").status_code == 404
    assert http.post("/v1/search", json={"query": QUESTION}).json()["data"] == []
    nothing = http.post("/v1/chat/completions", json=chat(documents=None))
    assert nothing.status_code == 400 and "nothing in the store fits" in nothing.json()["error"]["message"]


def test_what_comes_with_a_question_is_not_kept_in_the_store(http, stored):
    secret = "Quorvil Sanedus was born in Pexholm."
    assert http.post("/v1/chat/completions", json=chat("Where was Quorvil Sanedus born?", [secret])).status_code == 200
    assert http.post("/v1/rerank", json={"query": "x", "documents": [secret]}).status_code == 200
    assert secret not in [row.block.text for row in durable(stored.store).iterate()]


def test_a_server_without_a_store_says_so(slow):
    with running(slow) as url, httpx.Client(base_url=url) as http:
        for answer in (
            http.get("/v1/documents"),
            http.post("/v1/search", json={"query": "x"}),
            http.post("/v1/documents", json={"documents": [{"text": "x"}]}),
            http.post("/v1/chat/completions", json=chat(documents=[{"id": "x"}])),
        ):
            assert answer.status_code == 400 and "has no store; start it with" in answer.json()["error"]["message"]


# -- operations ----------------------------------------------------------------------------------------------------


def test_metrics_count_requests_tokens_and_seconds(tiny):
    with running(tiny) as url, httpx.Client(base_url=url, timeout=60) as http:
        answer = http.post("/v1/chat/completions", json=chat()).json()
        http.post("/v1/rerank", json={"query": " ", "documents": TEXTS})
        lines = dict(re.findall(r"^(\w+(?:\{.*\})?) ([\d.e+-]+)$", http.get("/metrics").text, re.M))
        assert lines['clara_requests_total{route="/v1/chat/completions",status="200"}'] == "1.0"
        assert lines['clara_requests_total{route="/v1/rerank",status="400"}'] == "1.0"
        assert float(lines['clara_tokens_total{kind="slots"}']) == answer["clara"]["slots"] > 0
        assert float(lines['clara_tokens_total{kind="answer"}']) == answer["usage"]["completion_tokens"]
        assert float(lines["clara_text_tokens_replaced_total"]) == answer["clara"]["text_tokens"]
        assert lines["clara_requests_under_way"] == "0.0"
        assert http.get("/health").json() == {"status": "ok", "model": "clara-tiny", "store": False}
        assert http.get("/v1/models").json()["data"][0]["id"] == "clara-tiny"
        assert set(http.get("/openapi.json").json()["paths"]) >= {"/rerank", "/v1/chat/completions", "/v1/documents"}


def test_many_callers_get_what_each_would_get_alone(tiny, http):
    asked = [
        (question, TEXTS) for question in (QUESTION, "Where was Ponwis Kilos born?", "Where does the tower stand?")
    ]
    alone = [tiny.answer(*one).text for one in asked]

    def ask(number):
        question, documents = asked[number % 3]
        streamed = number % 2 == 0
        answer = http.post("/v1/chat/completions", json=chat(question, documents, stream=streamed))
        if not streamed:
            return answer.json()["choices"][0]["message"]["content"]
        return "".join(re.findall(r'"content": "(.*?)"', answer.text))

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(48))) == [alone[number % 3] for number in range(48)]
