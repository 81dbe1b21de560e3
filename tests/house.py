"The house at a glance: chapters by part, modules above 350 lines, functions above 45; `make house` prints it."
import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
PARTS = ("tools", "I: the field", "II: the lines", "III: what learns, and from what", "IV: practice", "V: play", "V: proof")
MODULE, FUNCTION = 350, 45  # lines


def chapters() -> dict:
    "Chapters in the reader's order: module -> number."
    stems = [path.stem for path in sorted((ROOT / "nbs").glob("[0-9]*.ipynb"))]
    return {stem.split("_", 1)[1]: int(stem.split("_", 1)[0]) for stem in stems}


def too_large() -> list:
    "(what, lines) for each module and function beyond the limit."
    found = []
    for path in sorted((ROOT / "pfgm").glob("[a-z]*.py")):
        text = path.read_text(encoding="utf-8")
        lines = len(text.splitlines())
        found += [(f"pfgm/{path.name}", lines)] if lines > MODULE else []
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and (lines := node.end_lineno - node.lineno + 1) > FUNCTION:
                found.append((f"pfgm/{path.name}:{node.lineno} {node.name}", lines))
    return found


if __name__ == "__main__":
    for k, part in enumerate(PARTS):
        names = [f"{number:02} {name}" for name, number in chapters().items() if number // 10 == k]
        print(f"{part:32}{', '.join(names)}")
    large = too_large()
    print(f"\nmodules above {MODULE} lines, functions above {FUNCTION}: {len(large) or 'none'}")
    for what, lines in large:
        print(f"  {lines:4}  {what}")
