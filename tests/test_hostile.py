"What should not run does not run: names, values and files that were made to do harm, or only look so."
import io
import os
import re
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from pfgm import sources
from pfgm.checkpoint import read_json_lines
from pfgm.checks import InputError
from pfgm.config import TrainConfig
from pfgm.jobs import launch, main
from pfgm.model import Model
from pfgm.sources import load
from pfgm.training import train

NBS = Path(__file__).parent.parent / "nbs"
CODE = "x'; import os; os.system('touch pwned') #"
NAMES = ["two\nlines", "it's \"quoted\"", "$(touch pwned)", "`touch pwned`; touch pwned", "a 🙂 é", "-rf --restart",
         "100%s {0} {x}", "[ab]*?", "tab\tand \x1b[31m red", "\\n & | > pwned"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    "A folder to work in, where nothing called pwned may appear."
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not [*tmp_path.rglob("pwned")], "something ran"


def pictures(folder: Path, *names) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for k, name in enumerate(names):
        Image.new("L", (8, 8), 20 * k).save(folder / f"{name}.png")
    return folder


def refused(what, *arguments, **named) -> str:
    "The one sentence of a call that is refused."
    with pytest.raises(InputError) as error:
        what(*arguments, **named)
    assert str(error.value).isprintable()
    return str(error.value)


# Files

def bomb(width: int, height: int) -> bytes:
    "A PNG file of a few bytes that promises many pixels."
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10 ** 6))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [None, 16])
def test_a_decompression_bomb_is_refused_in_a_moment(here, size):
    folder, before = pictures(here / "images", "a", "b"), psutil.Process().memory_info().rss
    (folder / "c.png").write_bytes(bomb(60_000, 60_000))
    start = time.monotonic()
    words = refused(load, folder, image_size=size)
    assert "c.png" in words and "bomb" in words
    assert time.monotonic() - start < 5 and psutil.Process().memory_info().rss - before < 2 ** 29


def test_an_array_that_unpacks_to_more_than_there_is_is_refused(here, monkeypatch):
    np.savez_compressed(here / "x.npz", np.zeros((2000, 500)))
    assert os.path.getsize("x.npz") < 20_000 and load("x.npz").shape == (500,)
    monkeypatch.setattr(sources, "memory", lambda device: 10 ** 7)
    assert "more than half of this machine's memory" in refused(load, "x.npz")


@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_a_header_that_promises_terabytes_is_refused(here, ending):
    file = io.BytesIO()
    np.save(file, np.zeros((4, 4)))
    whole = file.getvalue().replace(b"(4, 4), }" + b" " * 16, b"(1000000, 500000), }      ")
    assert b"500000" in whole
    Path("x.npy").write_bytes(whole)
    if ending == "npz":
        import zipfile
        with zipfile.ZipFile("x.npz", "w") as archive:
            archive.write("x.npy")
    assert "holds no plain array" in refused(load, f"x.{ending}")


def test_a_folder_of_very_many_files(here):
    folder, handles = pictures(here / "images", "a", "b", "c"), psutil.Process().num_fds()
    for k in range(3000):
        (folder / f"{k}.txt").touch()
    for k in range(200):
        (folder / "deep" / str(k)).mkdir(parents=True)
    start = time.monotonic()
    data = load(folder)
    assert len(data.train) + len(data.test) == 3 and time.monotonic() - start < 10 and psutil.Process().num_fds() == handles


# Names

@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_any_name_of_a_folder_a_file_and_a_run(here, name, capsys):
    for kind in ("one", "two"):
        pictures(here / name / kind / name, f"{name} 1", f"{name} 2") if kind == "one" else pictures(here / name / kind, name)
    assert load(here / name).shape == (1, 8, 8)
    np.save(here / f"{name}.npy", np.random.default_rng(0).normal(size=(20, 2)))
    words = ["--dataset", f"./{name}.npy", "--width", "8", "--device", "cpu", "--steps", "2", f"--run_dir=runs/{name}"]
    assert main(words) == 0 and main([*words, "--restart"]) == 0, capsys.readouterr().err
    assert sorted(path.name for path in Path("runs").iterdir()) == sorted([name, f"{name}.1"])
    assert Model.load(f"runs/{name}").sample(2, steps=2).shape == (2, 2)
    assert len(read_json_lines(f"runs/{name}/log.jsonl")) == 2 and Model.load(f"runs/{name}").config.dataset == f"./{name}.npy"


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_any_name_of_what_is_not_there(here, name, capsys):
    refused(load, f"./{name}/none")
    refused(load, name)
    refused(Model.load, here / name)
    refused(TrainConfig, device=name)
    assert main(["--dataset", f"./{name}/none", "--run_dir", "run"]) == 1
    assert main([f"--{name}", "3", "--run_dir", "run"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.startswith("InputError: ") for line in lines)
    (here / f"{name}.npy").write_text(name)
    refused(load, f"./{name}.npy")


# Values that would be code

def papermill(notebook: str, *words):
    command = [sys.executable, "-m", "papermill", str(NBS / notebook), "out.ipynb", *words]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return done.returncode, [line for line in done.stderr.splitlines() if line.startswith("InputError: ")]


@pytest.mark.parametrize("notebook, words, said", [
    ("train.ipynb", ["-p", "dataset", CODE, "-p", "run_dir", "runs/x"], "there is no file or folder"),
    ("train.ipynb", ["-p", "solver", '"""; __import__("os").system("touch pwned") #'], "unknown solver"),
    ("train.ipynb", ["-r", "run_dir", "$(touch pwned)\n!touch pwned", "-p", "dataset", "`touch pwned`"], "unknown data set"),
    ("sample.ipynb", ["-p", "run_dir", CODE], "there is no trained network"),
    ("evaluate.ipynb", ["-p", "samples", CODE, "-p", "cache_dir", "cache"], "there is no file or folder"),
])
def test_a_value_given_to_papermill_is_a_value(here, notebook, words, said):
    status, lines = papermill(notebook, *words)
    assert status != 0 and len(lines) == 1 and said in lines[0]


@pytest.mark.parametrize("dataset", [CODE, "$(touch pwned)", "x\n; touch pwned"])
def test_a_value_given_to_the_command_line_is_a_value(here, dataset):
    command = [sys.executable, "-m", "pfgm.jobs", "--dataset", dataset, "--run_dir", "run"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert re.match("InputError: (unknown data set or path|there is no file or folder) ", done.stderr)


def test_names_and_values_go_through_the_launcher_unchanged(here):
    name = "it's \"x\" $(touch pwned) `touch pwned`\n; touch pwned 🙂 --restart"
    np.save(here / f"{name}.npy", np.random.default_rng(0).normal(size=(20, 2)))
    config = TrainConfig(dataset=f"{here}/{name}.npy", width=8, device="cpu", steps=2, run_dir=f"{here}/runs/{name}")
    assert launch(config, 2).config.dataset == config.dataset and [path.name for path in Path("runs").iterdir()] == [name]
    train(config, progress=False)  # it is the run that one process would make
    assert [path.name for path in Path("runs").iterdir()] == [name]
