"The command line, and one declaration of every parameter: in --help, in papermill's help, in the cell that papermill fills."
import json
import os
import re
import subprocess
import sys
from dataclasses import fields

import papermill
import pytest
from parameters import TRAIN, parameters_cell, rewritten

from pfgm.checks import InputError
from pfgm.jobs import launch, main
from pfgm.config import CHOICES, PRESETS, TrainConfig
from pfgm.ode import SOLVERS

SOURCE = "".join(parameters_cell(json.loads(TRAIN.read_text(encoding="utf-8")))["source"])
OWN = {"preset", "processes", "restart", "n_samples", "watch", "solver", "sample_steps"}  # of train.ipynb alone


def test_what_cannot_be_started(tmp_path, monkeypatch, capsys):
    with pytest.raises(InputError, match="need a run_dir"):
        launch(TrainConfig(steps=20, width=32, device="cpu"), 2)
    assert main(["--dataset", "digits"]) == 1 and "run_dir is missing" in capsys.readouterr().err
    assert main(["--stesp", "3", "--run_dir", "x"]) == 1 and "did you mean 'steps'" in capsys.readouterr().err
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")  # as `accelerate launch --cpu --num_processes 2` starts one process
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert main(["--run_dir", str(tmp_path)]) == 1 and "--multi_gpu --num_processes" in capsys.readouterr().err


def test_help_says_what_is_declared_and_starts_without_warnings():
    done = subprocess.run([sys.executable, "-W", "error", "-m", "pfgm.jobs", "--help"], capture_output=True, text=True,
                          env={**os.environ, "COLUMNS": "400"})
    assert done.returncode == 0 and done.stderr == ""
    assert "extra dimensions, 1 or more: 1 is PFGM, in between PFGM++, inf is diffusion [1]" in done.stdout
    said = " ".join(done.stdout.split())
    for field in fields(TrainConfig):
        assert re.search(rf"--{field.name}\b", said) and f"{field.metadata['help']} [{field.default}]" in said, field.name
    assert all(preset in said.split("--preset PRESET", 2)[2] for preset in PRESETS)


def test_every_parameter_is_explained_with_all_that_can_be_chosen():
    assert set(CHOICES) == {"objective", "draw", "guess", "schedule", "loss", "precision", "compile"}
    for field in fields(TrainConfig):
        help = field.metadata["help"]
        assert len(help) > 8 and "\n" not in help and field.name not in help.split(":")[0].split(), field.name
        assert set(CHOICES.get(field.name, ())) <= set(re.findall(r"[\w-]+", help)), field.name


def test_the_notebook_offers_every_parameter_as_it_is_declared():
    assert rewritten(SOURCE) == SOURCE, "TrainConfig and train.ipynb differ: python tests/parameters.py"
    lines = [line for line in SOURCE.splitlines() if not line.startswith("#")]
    parts = [re.fullmatch(r"(\w+): (\w+) = (.+?) {2,}# (.+)", line) for line in lines]
    assert all(parts), "every parameter has a type, a value and a comment"
    offered = {part[1]: part for part in parts}
    assert len(offered) == len(lines) and set(offered) == OWN | {field.name for field in fields(TrainConfig)}
    for field in fields(TrainConfig):
        _, kind, value, words = offered[field.name].groups()
        value = eval(value)
        assert (kind, words) == (field.type.__name__, field.metadata["help"]), field.name
        assert value == field.default and type(value) is type(field.default), field.name
    assert all(word in offered["preset"][4] for word in PRESETS) and all(word in offered["solver"][4] for word in SOLVERS)


def test_papermill_lists_every_parameter_with_its_words():
    known = papermill.inspect_notebook(str(TRAIN))
    assert set(known) == OWN | {field.name for field in fields(TrainConfig)}
    for field in fields(TrainConfig):
        assert known[field.name]["help"] == field.metadata["help"], field.name
        assert known[field.name]["inferred_type_name"] == field.type.__name__
    assert all(known[name]["help"] for name in OWN)


def test_rewriting_mends_a_line_and_leaves_the_others():
    torn = SOURCE.replace("of Adam", "of Eve").replace("draw: str", "draw: int").replace("lr: float = 0.0003", "lr: float = 7")
    assert torn != SOURCE and rewritten(torn) == SOURCE
    assert rewritten("solver: str = 'x'  # mine\n# a heading") == "solver: str = 'x'  # mine\n# a heading"
