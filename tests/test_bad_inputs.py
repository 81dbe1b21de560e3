"More than a hundred bad inputs, each refused with one sentence before any work; `make faults` does it with the real program."
import json
from pathlib import Path

import matplotlib
import pytest
from bad_inputs import COMMANDS, NOTEBOOKS, bad_things, calls

from pfgm.checks import InputError
from pfgm.jobs import main

NBS = Path(__file__).parent.parent / "nbs"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    bad_things(folder)
    return folder


@pytest.fixture(autouse=True)
def nothing_is_left(folder, monkeypatch):
    """No run begins in the folder where the inputs are tried."""
    matplotlib.use("Agg")
    monkeypatch.chdir(folder)
    yield
    assert [path.parent.name for path in folder.rglob("state.pt")] == ["run"]


def refused(call, words: str):
    with pytest.raises(InputError) as error:
        call()
    assert words in str(error.value) and "\n" not in str(error.value)


def run_cells(notebook: str, parameters: dict):
    "The notebook's cells without a kernel, with parameters put in as papermill does."
    injected = "# Parameters\n" + "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    space = {"In": [injected]}
    for cell in json.loads((NBS / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), space)
            if "parameters" in cell["metadata"].get("tags", []):
                exec(injected, space)


@pytest.mark.parametrize("notebook, parameters, words", NOTEBOOKS)
def test_notebooks(notebook, parameters, words):
    refused(lambda: run_cells(notebook, parameters), words)


@pytest.mark.parametrize("options, words", COMMANDS)
def test_command_line(options, words, capsys):
    assert main(options.split()) == 1
    line, = capsys.readouterr().err.splitlines()
    assert line.startswith("InputError: ") and words in line


def test_calls(folder):
    for name, call, words in calls(folder):
        try:
            refused(call, words)
        except BaseException as error:
            raise AssertionError(f"{name}: {error}") from error
