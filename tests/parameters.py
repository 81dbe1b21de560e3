"The parameters cell of train.ipynb, rewritten with the types, defaults and words of TrainConfig: python tests/parameters.py"
import json
from dataclasses import fields
from pathlib import Path

from pfgm.config import TrainConfig

TRAIN = Path(__file__).parent.parent / "nbs" / "train.ipynb"


def parameters_cell(notebook: dict) -> dict:
    cell, = (cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", []))
    return cell


def declared(field) -> str:
    "The line of one parameter; papermill's help shows all of it."
    value = json.dumps(field.default) if isinstance(field.default, str) else repr(field.default)
    return f"{f'{field.name}: {field.type.__name__} = {value}':25}  # {field.metadata['help']}"


def rewritten(source: str) -> str:
    "The cell's source; lines that are not of TrainConfig stay as they are."
    lines = {field.name: declared(field) for field in fields(TrainConfig)}
    return "\n".join(lines.get(line.split(":")[0], line) for line in source.split("\n"))


if __name__ == "__main__":
    notebook = json.loads(TRAIN.read_text(encoding="utf-8"))
    cell = parameters_cell(notebook)
    cell["source"] = rewritten("".join(cell["source"])).splitlines(keepends=True)
    TRAIN.write_text(json.dumps(notebook, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
