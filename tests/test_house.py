"The house: chapters in parts by their tens, each a module of the same name, each using only smaller numbers."
import ast
import json
import re
from pathlib import Path

import pytest
from house import PARTS, ROOT, chapters

NUMBERS = chapters()


def code(path: Path) -> list:
    "Sources of the code cells."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def used(source: str) -> set:
    "Modules of the package that a cell imports or reaches as pfgm.module."
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "pfgm":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pfgm."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("pfgm.")}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "pfgm":
            found.add(node.attr)
    return found & NUMBERS.keys()


@pytest.mark.parametrize("name", NUMBERS)
def test_a_chapter_uses_only_smaller_numbers(name):
    path = ROOT / "nbs" / f"{NUMBERS[name]:02}_{name}.ipynb"
    needed = set().union(*map(used, code(path))) - {name}
    first = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
    needed |= set(re.findall(r"`(\w+)`", first.partition("**Needs:**")[2].split("\n\n")[0])) & NUMBERS.keys()
    later = {other for other in needed if NUMBERS[other] >= NUMBERS[name]}
    assert not later, f"{path.name} uses {later}"


def test_every_module_is_a_chapter_in_a_part():
    modules = {path.stem for path in (ROOT / "pfgm").glob("[a-z]*.py")}
    assert modules <= NUMBERS.keys() and len({*NUMBERS.values()}) == len(NUMBERS)
    assert all(number // 10 < len(PARTS) for number in NUMBERS.values())
    for name in NUMBERS:
        cells = json.loads((ROOT / "nbs" / f"{NUMBERS[name]:02}_{name}.ipynb").read_text(encoding="utf-8"))["cells"]
        assert all(cell["id"].startswith(f"{NUMBERS[name]:02}-") for cell in cells), name
