"""Every third-party package that is imported is declared in ``pyproject.toml``, and an extra stays an extra.

What a module imports at its top must be there after a plain ``pip install``; what is imported inside a function may
come from an extra, and the framework packages may import their own.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("clara_model", "trainers", "clara_integrations", "haystack_integrations")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DISTRIBUTIONS = {
    "chardetng_py": "chardetng-py",
    "lance": "pylance",
    "faiss": "faiss-cpu",
    "haystack": "haystack-ai",
    "llama_index": "llama-index-core",
    "pytrec_eval": "pytrec-eval-terrier",
    "Stemmer": "pystemmer",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
FRAMEWORKS = {
    "haystack": "haystack",
    "components": "haystack",
    "common": "haystack",
    "langchain": "langchain",
    "llama_index": "llama-index",
    "server": "server",
}


def declared(requirements: list[str]) -> set[str]:
    """The names in a list of requirements; our own extras are followed."""
    names = set()
    for requirement in requirements:
        name, extras = re.match(r"([\w.-]+)(?:\[([^]]*)])?", requirement).groups()
        if name == PROJECT["name"]:
            for extra in extras.split(","):
                names |= declared(PROJECT["optional-dependencies"][extra.strip()])
        else:
            names.add(name.lower().replace("_", "-"))
    return names


ALWAYS = declared(PROJECT["dependencies"])
EXTRAS = {name: declared(listed) for name, listed in PROJECT["optional-dependencies"].items()}
FOR_USERS = ALWAYS.union(*(names for extra, names in EXTRAS.items() if extra not in ("dev", "docs")))


def modules() -> list[Path]:
    return sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Third-party distributions that a file imports, and whether at its top."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        else:
            continue
        for name in {name.split(".")[0] for name in names} - set(PACKAGES) - sys.stdlib_module_names:
            yield DISTRIBUTIONS.get(name, name.replace("_", "-")), node in tree.body


def test_what_a_module_imports_is_declared():
    for path in modules():
        framework = FRAMEWORKS.get(path.parts[1])
        always = ALWAYS | (EXTRAS[framework] if framework else set())
        for distribution, at_top in imports(path):
            assert distribution in (always if at_top else FOR_USERS), f"{path} imports {distribution}"


def test_what_is_declared_for_everyone_is_imported():
    imported = {distribution for path in modules() for distribution, _ in imports(path)}
    assert ALWAYS - imported == set()


def test_all_is_every_extra_but_flash_attn_and_bitsandbytes():
    assert set(EXTRAS) >= {"all", "plots", "dev", "docs"}
    assert EXTRAS["all"] == FOR_USERS - ALWAYS - EXTRAS["flash-attn"] - EXTRAS["quantization"]


def test_every_module_can_be_imported_without_any_extra():
    """In a process of its own, in which nothing can be imported that only an extra installs."""
    names = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in modules()]
    names = [name for name in names if name.split(".")[1:2] not in [[part] for part in FRAMEWORKS]]
    absent = {"bitsandbytes", "datasets", "deepspeed", "flash_attn", "haystack", "langchain_core", "llama_index"}
    absent |= {
        "matplotlib",
        "openai",
        "pytrec_eval",
        "ray",
        "rouge_score",
        "scipy",
        "sentence_transformers",
        "sklearn",
        "tensorboard",
    }
    code = f"""
import importlib, sys
sys.modules.update(dict.fromkeys({sorted(absent)}))
for name in {names}:
    importlib.import_module(name)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_extra_pins_versions_for_the_tests():
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    assert (ALWAYS | EXTRAS["dev"] | EXTRAS["docs"]) - pinned == set()
