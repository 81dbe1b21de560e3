"Reading notebooks: links that lead somewhere, a complete coverage table, small files, pages in HTML."
import base64
import json
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parent.parent
BOOKS = {path.stem: json.loads(path.read_text(encoding="utf-8"))["cells"] for path in sorted((ROOT / "nbs").glob("*.ipynb"))}
READING = [name for name in BOOKS if name[:2].isdigit() or name in ("tour", "coverage")]


def markdown(name):
    return "\n".join("".join(cell["source"]) for cell in BOOKS[name] if cell["cell_type"] == "markdown")


def anchors(text, github):
    "Names of the headings, as Jupyter makes them in notebooks and GitHub in README.md."
    titles = re.findall(r"^#+ +(.+?) *$", text, flags=re.M)
    if github:
        return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    return {title.replace(" ", "-") for title in titles}


def rows():
    "Rows of the coverage table: item, source, where, cells."
    table = [line.strip("| ").split(" | ") for line in markdown("coverage").splitlines() if re.match(r"\| [^:]", line)]
    return [row for row in table if row[0] != "item"]


@pytest.mark.parametrize("page", ["README.md", *BOOKS])
def test_links_and_their_anchors_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8") if page == "README.md" else markdown(page)
    home = ROOT if page == "README.md" else ROOT / "nbs"
    text = re.sub(r"```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$", "", text, flags=re.S)
    for target in re.findall(r"\]\(([^()\s]+)\)", text):
        if re.match(r"https?:|mailto:", target):
            continue
        file, _, anchor = unquote(target).partition("#")
        goal = (home / file).resolve() if file else home / (page if page == "README.md" else f"{page}.ipynb")
        assert goal.exists(), target
        if anchor and goal.suffix == ".ipynb":
            assert anchor in anchors(markdown(goal.stem), github=False), target
        elif anchor:
            assert anchor in anchors(goal.read_text(encoding="utf-8"), github=True), target


def test_every_item_is_covered_by_a_heading_and_by_cells_that_check():
    code = {cell["id"]: "".join(cell["source"]) for cells in BOOKS.values() for cell in cells if cell["cell_type"] == "code"}
    assert len(rows()) >= 50
    for item, source, where, cells in rows():
        assert set(source.split()) <= {"S", "Z", "paper"}, item
        assert re.search(r"\]\([\w./]+(\.ipynb|\.md)#[^)]+\)", where), item
        ids = re.findall(r"`([^`]+)`", cells)
        assert ids and set(ids) <= set(code), (item, cells)
        assert any("assert" in code[k] for k in ids) or item.startswith("picture"), (item, cells)


def test_chapters_say_what_they_are_in_the_official_code():
    missing = [name for name in READING if re.match(r"[01]", name) and "**In the official code**" not in markdown(name)]
    assert not missing


@pytest.mark.parametrize("name", READING)
def test_reading_notebooks_are_small_and_run(name):
    assert (ROOT / "nbs" / f"{name}.ipynb").stat().st_size <= 300_000
    run = [cell for cell in BOOKS[name] if cell["cell_type"] == "code"]
    drawn = [output["data"]["image/png"] for cell in run for output in cell["outputs"] if "image/png" in output.get("data", {})]
    assert all(len(base64.b64decode(png)) <= 150_000 for png in drawn)
    assert any(cell["outputs"] for cell in run) or name == "40_checkpoint"
    for cell in run:  # a cell that draws or prints has its output
        source = "".join(cell["source"])
        if re.search(r"^(fig, |print\()", source, flags=re.M) and not source.startswith("#| export"):
            assert cell["outputs"], cell["id"]


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_a_chapter_becomes_a_page(tmp_path):
    command = ["make", "-s", "html", f"HTML={tmp_path}", "CHAPTERS=nbs/coverage.ipynb"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    page = (tmp_path / "coverage.html").read_text(encoding="utf-8")
    assert "10_field.html#One-charge" in page and ".ipynb#" not in page and 'id="Equations,-pictures-and-claims"' in page
