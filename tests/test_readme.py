"The README: two blocks to paste, links that lead somewhere, and numbers that a run produced."
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "results"))
import table  # noqa: E402

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_quick_start_has_two_blocks():
    section = README.split("## Quick start", 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"```bash\n(.*?)```", section, flags=re.S)
    assert blocks[:2] == ["make run\n", "make test\n"] and len(blocks) == 3
    dry = ["make", "-n", "-W", "settings.ini", "run", "test"]
    recipes = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for line in blocks[2].splitlines():  # the same without make
        assert line.split(" -c ")[0] in recipes or "activate" in line, line


@pytest.mark.parametrize("page", ["README.md", *(f"nbs/{path.name}" for path in sorted((ROOT / "nbs").glob("*.ipynb")))])
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+?)\)", text):
        if re.fullmatch(r"[\w./-]+\.(ipynb|md|png|cff|py)|results", target):
            assert ((ROOT / page).parent / target).exists(), target


def test_every_promise_has_its_tests():
    part = README.split("## What we promise")[1].split("\n## ")[0]
    promises = [line for line in part.splitlines() if line.startswith("| ") and "proved by" not in line]
    sources = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    assert len(promises) == 10
    for promise in promises:
        names = re.findall(r"`(test_\w+)`", promise)
        assert names and all(f"def {name}(" in sources for name in names), promise


def test_the_attacks_told_are_those_of_the_table():
    rows = (ROOT / "results" / "faults.txt").read_text(encoding="utf-8").splitlines()[1:]
    found = {word: sum(int(re.search(r"(\d+) of \1 ", row)[1]) for row in rows if word in row)
             for word in ("kill -9", "damaged", "inputs")}
    inside = sum(int(number) for number in re.findall(r"(\d+) inside a save", "\n".join(rows)))
    assert all(re.fullmatch(r"ok .*?(\d+) of \1 .*", row) for row in rows)
    assert (f"{found['kill -9']} runs killed, {inside} of them inside a save, {found['damaged']} damaged files, "
            f"{found['inputs']} bad inputs") in README


def test_the_tables_are_what_the_runs_produced():
    assert table.render(README) == README, "results/*.json changed: python results/table.py"


def test_the_main_job_is_as_good_as_promised():
    for name, minutes, pca, classifier in (("mnist5k", 2, 2.6, 2.3), ("mnist5k-D16", 2, 2.6, 2.3),
                                           ("mnist5k-10", 10, 2.2, 1.2)):
        run = json.loads((ROOT / "results" / f"{name}.json").read_text())
        assert run["generated"]["frechet"] <= pca and run["generated"]["classifier"] <= classifier
        assert run["minutes"] <= minutes + 0.1 and run["nfe"] <= 16


@pytest.mark.parametrize("path", sorted((ROOT / "nbs" / "experiments").glob("[0-9]*.ipynb")), ids=lambda path: path.stem)
def test_an_experiment_was_run_as_it_is_told(path):
    run = json.loads((ROOT / "results" / f"{path.stem}.json").read_text(encoding="utf-8"))
    assert run["scale"] == "cpu" and len(run["seeds"]) >= 3 and run["held"] and run["claim"] and run["nfe"]
    assert run["data"]["hash"] and run["machine"] and run["cores"] and run["versions"]["torch"] and len(run["commit"]) == 40
    limit = 250 if path.stem == "15_minutes" else 25  # its budgets are its subject
    assert run["minutes"] + run["training_minutes"] / 2 <= limit, "of measuring, and of training side by side on two cores"
    assert (ROOT / "results" / f"{path.stem}.png").stat().st_size <= 250_000


@pytest.mark.parametrize("path", sorted((ROOT / "nbs").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_are_small_and_carry_no_errors(path):
    assert path.stat().st_size <= 300_000
    cells = json.loads(path.read_text())["cells"]
    assert not any(output["output_type"] == "error" for cell in cells for output in cell.get("outputs", []))
    jobs = path.stem in ("train", "sample", "evaluate", "restore")
    assert jobs == any("parameters" in cell["metadata"].get("tags", []) for cell in cells)
    if not jobs:
        assert any(cell.get("outputs") for cell in cells) or path.stem == "40_checkpoint"
