"""Many clients at one server: every answer must be the one that its question gets alone, and nothing may be lost.

    python examples/serving/load.py                                  # 64 clients, 2,000 requests, a tenth cancelled
    python examples/serving/load.py --clients 8 --requests 40

Starts `clara serve` with clara-tiny in float32 on loopback; the questions are those of `clara demo` about its
documents, half of them streamed. A cancelled request closes its connection after a random time. Prints answers a
second, waiting times, and the server's memory halfway and at the end; ends with an error where an answer differs, a
request fails that was not cancelled, or a request is still under way.
"""

import argparse
import asyncio
import json
import random
import re
import time
from pathlib import Path
from statistics import median, quantiles

import httpx
from client import serving

from clara_model.checkpoint.bundled_models import BUNDLED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--cancelled", type=float, default=0.1, help="share of the requests")
    parser.add_argument("--seconds", type=float, default=900, help="after which all is ended as failed")
    parser.add_argument("--json", type=Path, help="write the result here too")
    args = parser.parse_args()
    with serving("--model", "clara-tiny", "--dtype", "float32", "--device", "cpu", "--quiet") as (url, process):
        result = asyncio.run(asyncio.wait_for(run(args, url, process), args.seconds))
    print(json.dumps(result, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if result["wrong"] or result["failed"] or result["still_under_way"]:
        raise SystemExit("the server did not hold")


async def run(args: argparse.Namespace, url: str, process: int) -> dict[str, float]:
    demo = json.loads((BUNDLED / "demo.json").read_text(encoding="utf-8"))
    texts = [one["text"] for one in demo["documents"]]
    questions = [one["question"] for one in demo["questions"]]
    draw = random.Random(0)
    counts = {"answered": 0, "cancelled": 0, "wrong": 0, "failed": 0}
    waits: list[float] = []
    memory: list[int] = []
    async with httpx.AsyncClient(base_url=url, timeout=None, limits=httpx.Limits(max_connections=args.clients)) as http:
        start = time.perf_counter()
        alone = [await answer(http, question, texts, streamed=False) for question in questions]
        one_at_a_time = len(questions) / (time.perf_counter() - start)
        jobs = [(draw.randrange(len(questions)), draw.random() < 0.5) for _ in range(args.requests)]
        leaves = [draw.uniform(0, 1) if draw.random() < args.cancelled else None for _ in jobs]
        queue = iter(list(zip(jobs, leaves, strict=True)))

        async def client() -> None:
            for (number, streamed), leave in queue:
                begin = time.perf_counter()
                try:
                    text = await asyncio.wait_for(answer(http, questions[number], texts, streamed=streamed), leave)
                except TimeoutError:
                    counts["cancelled"] += 1
                except (httpx.HTTPError, ValueError) as error:
                    counts["failed"] += 1
                    print(f"failed: {type(error).__name__} {error}")
                else:
                    waits.append(time.perf_counter() - begin)
                    counts["answered"] += 1
                    counts["wrong"] += text != alone[number]
                if len(memory) == 0 and sum(counts[name] for name in ("answered", "cancelled")) >= args.requests // 2:
                    memory.append(resident(process))

        start = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(args.clients)))
        seconds = time.perf_counter() - start
        memory.append(resident(process))
        for _ in range(100):  # the last that were cancelled end at their next token
            metrics = (await http.get("/metrics")).text
            under_way = float(re.findall(r"^clara_requests_under_way (\S+)", metrics, re.M)[0])
            if not under_way:
                break
            await asyncio.sleep(0.1)
    return {
        **{"clients": args.clients, "requests": args.requests, **counts},
        "seconds": round(seconds, 1),
        "answers_per_second": round(counts["answered"] / seconds, 1),
        "one_at_a_time_per_second": round(one_at_a_time, 1),
        "median_seconds": round(median(waits), 2),
        "p95_seconds": round(quantiles(waits, n=20)[-1], 2),
        "memory_mb_halfway": memory[0],
        "memory_mb_at_the_end": memory[-1],
        "still_under_way": under_way,
    }


async def answer(http: httpx.AsyncClient, question: str, texts: list[str], *, streamed: bool) -> str:
    body = {"messages": [{"role": "user", "content": question}], "documents": texts, "stream": streamed}
    if not streamed:
        response = await http.post("/v1/chat/completions", json=body)
        if response.status_code != 200:
            raise ValueError(response.text)
        return response.json()["choices"][0]["message"]["content"]
    pieces, last = [], ""
    async with http.stream("POST", "/v1/chat/completions", json=body) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                pieces.append(json.loads(line[6:])["choices"][0]["delta"].get("content", ""))
            last = line or last
    if last != "data: [DONE]":
        raise ValueError(f"a stream ended with {last!r}")
    return "".join(pieces)


def resident(process: int) -> int:
    """Megabytes in memory of a process on Linux; 0 elsewhere."""
    status = Path(f"/proc/{process}/status")
    if not status.is_file():
        return 0
    return int(re.findall(r"VmRSS:\s+(\d+)", status.read_text())[0]) // 1024


if __name__ == "__main__":
    main()
