"Several processes under accelerate: the same steps as one, exact resume, and an end that can be read when one is killed."
import dataclasses
import shutil
import subprocess
import sys
import time

import psutil
import pytest
import torch

from pfgm.checkpoint import load_state, read_json_lines
from pfgm.checks import InputError
from pfgm.jobs import launch
from pfgm.config import TrainConfig
from pfgm.training import train

SMALL = TrainConfig(dataset="digits", steps=20, width=32, batch=31, lr=1e-3, warmup=5, schedule="constant",
                    device="cpu")


def difference(first, second):
    return max((value.double() - second[part][name].double()).abs().max().item()
               for part in ("flow", "average") for name, value in first[part].items())


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    "A run of 20 steps in two processes."
    config = dataclasses.replace(SMALL, run_dir=str(tmp_path_factory.mktemp("runs") / "two"))
    return config, launch(config, 2)


def test_two_processes_make_the_steps_of_one(two, tmp_path):
    config, model = two
    train(dataclasses.replace(config, run_dir=str(tmp_path)), progress=False)
    one, state = load_state(tmp_path), load_state(config.run_dir)
    assert len(state["dropouts"]) == 2 and len(one["dropouts"]) == 1  # there were two
    assert difference(one, state) <= 1e-5 and torch.equal(one["generator"], state["generator"])
    entries, expected = (read_json_lines(f"{folder}/log.jsonl") for folder in (config.run_dir, tmp_path))
    assert [entry["step"] for entry in entries] == list(range(1, 21))  # one writer
    assert all(abs(a["loss"] - b["loss"]) < 1e-4 for a, b in zip(entries, expected))
    assert model.sample(2).shape == (2, 8, 8)


def test_one_process_goes_on_with_a_run_of_two(two, tmp_path):
    config, _ = two
    shutil.copytree(config.run_dir, tmp_path / "parts")
    for name in ("whole", "parts"):
        train(dataclasses.replace(config, steps=25, run_dir=str(tmp_path / name)), progress=False)
    assert difference(load_state(tmp_path / "whole"), load_state(tmp_path / "parts")) <= 1e-5


def test_going_on_is_exact_with_two_processes(tmp_path):
    config = dataclasses.replace(SMALL, dropout=0.2, run_dir=str(tmp_path / "whole"))
    launch(config, 2)
    for steps in (12, 20):
        launch(dataclasses.replace(config, steps=steps, run_dir=str(tmp_path / "parts")), 2)
    whole, parts = load_state(tmp_path / "whole"), load_state(tmp_path / "parts")
    assert difference(whole, parts) == 0 and torch.equal(whole["generator"], parts["generator"])
    assert all(torch.equal(a, b) for a, b in zip(whole["dropouts"], parts["dropouts"], strict=True))
    assert not torch.equal(*whole["dropouts"])
    for key, moments in whole["optimiser"]["state"].items():
        assert all(torch.equal(value, parts["optimiser"]["state"][key][name]) for name, value in moments.items())


def test_a_killed_process_ends_the_run_with_a_sentence(tmp_path):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port",
               "0", "-m", "pfgm.jobs", "--dataset", "digits", "--minutes", "20", "--width", "32", "--device", "cpu",
               "--run_dir", str(tmp_path / "run"), "--save_minutes", "0.02"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        deadline = time.monotonic() + 200
        while not (tmp_path / "run" / "state.pt").exists():
            assert run.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        children = psutil.Process(run.pid).children(recursive=True)
        victim, = (child for child in children if child.environ().get("RANK") == "1")
        victim.kill()
        output, _ = run.communicate(timeout=120)
    finally:
        for process in [*psutil.Process(run.pid).children(recursive=True), run] if run.poll() is None else []:
            process.kill()
    assert run.returncode != 0
    lines = [line for line in output.splitlines() if "ConnectionError: " in line]
    assert len(lines) == 1, output
    assert "process 1 of 2 lost another one" in lines[0] and "goes on from its last saved state" in lines[0]
    assert load_state(tmp_path / "run")["step"] > 0


def test_a_fault_in_two_processes_is_one_sentence(tmp_path, capfd):
    with pytest.raises(InputError, match="ended with status 1: unknown data set or path 'digit'; did you mean"):
        launch(dataclasses.replace(SMALL, dataset="digit", run_dir=str(tmp_path / "run")), 2)
    assert capfd.readouterr().out.count("InputError: unknown data set or path 'digit'; did you mean 'digits'?") == 1
