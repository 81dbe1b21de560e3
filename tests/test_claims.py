"Every experiment at scale test, in this process: what it says, takes, refuses, leaves. test_papermill has the kernels."
import json
import math
import re
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest

from pfgm.checks import InputError

FOLDER = Path(__file__).parent.parent / "nbs" / "experiments"
EXPERIMENTS = sorted(path.stem for path in FOLDER.glob("[0-9]*.ipynb"))


def cells(name: str) -> list:
    return nbformat.read(FOLDER / f"{name}.ipynb", 4).cells


def run(name: str, **parameters) -> dict:
    "The notebook's variables after papermill's way of passing parameters: a cell behind that of the defaults."
    variables = {"In": [], "__name__": "__main__"}
    for cell in cells(name):
        sources = [cell.source] if cell.cell_type == "code" else []
        if cell.metadata.get("tags") == ["parameters"]:
            sources.append("# Parameters\n" + "\n".join(f"{key} = {value!r}" for key, value in parameters.items()))
        for source in sources:
            variables["In"].append(source)
            exec(compile(source, f"{name} {cell.id}", "exec"), variables)
    plt.close("all")
    return variables


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_says_what_it_claims_and_takes(name):
    title, (parameters,) = cells(name)[0].source, [cell for cell in cells(name) if cell.metadata.get("tags") == ["parameters"]]
    assert re.match(r"# .+\n\n> .+\n\n- skip_exec: true\n", title) and "**Claim" in title
    assert f"papermill nbs/experiments/{name}.ipynb out.ipynb" in title
    lines = [re.fullmatch(r"(\w+): (\w+) = .+?  # .+", line) for line in parameters.source.splitlines()]
    assert all(lines), "every parameter has a type, a value and a comment"
    assert {"scale", "seeds", "steps", "runs", "results", "restart"} <= {line[1] for line in lines}
    values = {}
    exec(parameters.source, values)
    assert (values["scale"], values["runs"], values["results"]) == ("cpu", "runs/experiments", "results")
    assert values["restart"] is False
    assert not any(cell.get("outputs") for cell in cells(name)), "runs take minutes; what they find is in results/"


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("wrong, sentence", [
    (dict(sedes=3), "parameter"), (dict(scale="gpu"), "scale"), (dict(seeds=0), "seeds"), (dict(steps=-1), "steps")])
def test_an_experiment_refuses_in_one_sentence(name, wrong, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=sentence) as refused:
        run(name, **{"scale": "test", "runs": "runs"} | wrong)
    assert len(str(refused.value)) < 400 and not [*tmp_path.rglob("*.safetensors")]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    "One folder for all of them: they share networks, as in real runs."
    return tmp_path_factory.mktemp("bench")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_runs_and_leaves_its_record(bench, name, monkeypatch):
    monkeypatch.chdir(bench)
    run(name, scale="test", seeds=2, runs="runs")
    path, = bench.glob(f"runs/{name}-test-*/{name}.json")
    record = json.loads(path.read_text())
    assert {"claim", "held", "figures", "data", "machine", "versions", "commit", "minutes", "seeds", "nfe"} <= record.keys()
    assert record["claim"] and record["held"] and set(map(type, record["held"].values())) == {bool} and record["figures"]
    assert record["data"]["hash"] and record["seeds"] and record["scale"] == "test"
    assert path.with_suffix(".png").exists()
    assert not (bench / "results").exists(), "a trial leaves the results alone"


def test_bits_have_the_right_size(bench, monkeypatch):
    "Seventeen equally likely levels are known without a network."
    monkeypatch.chdir(bench)
    run("02_bits_per_dim", scale="test", seeds=2, runs="runs")
    path, = bench.glob("runs/02_bits_per_dim-test-*/02_bits_per_dim.json")
    record = json.loads(path.read_text())
    assert record["n"] == 4 and record["figures"]["uniform"]["mean"] == pytest.approx(math.log2(17))
    assert 1 < record["figures"]["model, held out"]["mean"] < 10
