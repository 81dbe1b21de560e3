"What a user types: papermill on train.ipynb and sample.ipynb, right and wrong, and what it kills."
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
from bad_inputs import NOTEBOOKS, bad_things
from PIL import Image

NBS = Path(__file__).parent.parent / "nbs"


def papermill(notebook, out, cwd, *parameters):
    command = [sys.executable, "-m", "papermill", str(NBS / notebook), str(out), *parameters]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def passed(parameters: dict) -> list:
    return [word for name, value in parameters.items() for word in ("-p", name, str(value))]


RUN = "runs/digits-D1-seed0"
QUICK = dict(dataset="digits", steps=12, width=32, n_samples=40, sample_steps=4)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run of the main job in a folder of its own."""
    folder = tmp_path_factory.mktemp("run")
    done = papermill("train.ipynb", "out.ipynb", folder, *passed(QUICK))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def pictures(path) -> int:
    outputs = [output for cell in json.loads(path.read_text())["cells"] for output in cell.get("outputs", [])]
    assert not any(output["output_type"] == "error" for output in outputs)
    return sum("image/png" in output.get("data", {}) for output in outputs)


def test_main_job(run):
    assert pictures(run / "out.ipynb") == 3  # early samples, loss, samples
    folder = run / "runs" / "digits-D1-seed0"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["steps"] == 12 and summary["nfe"] == 4 and summary["config"]["D"] == 1
    assert summary["generated"]["n"] == 40 and summary["real_held_out"]["n"] == 397
    assert 0.1 < summary["real_held_out"]["frechet"] < 0.4 and 1.8 < summary["real_held_out"]["nearest"] < 2.4
    assert Image.open(folder / "samples.png").width > 500 and (folder / "network.safetensors").exists()
    text = (run / "out.ipynb").read_text()
    assert "nearest training point" in text and "real, held out" in text


def test_typed_again_it_goes_on(run):
    done = papermill("train.ipynb", "again.ipynb", run, *passed(QUICK | dict(steps=15)))
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads((run / "runs" / "digits-D1-seed0" / "summary.json").read_text())
    assert summary["steps"] == 15


def test_a_run_whose_log_is_lost_says_so(run):
    log = run / RUN / "log.jsonl"
    whole = log.read_bytes()
    log.write_bytes(b"[1]\n" + whole)
    done = papermill("train.ipynb", "lost.ipynb", run, *passed(QUICK | dict(watch=False)))
    lines = [line for line in done.stderr.splitlines() if line.startswith("InputError: ")]
    log.write_bytes(whole)
    assert len(lines) == 1 and "is empty or damaged" in lines[0] and (run / RUN / "network.safetensors").exists()


def test_sample(run):
    done = papermill("sample.ipynb", "samples.ipynb", run, *passed(dict(run_dir=RUN, n=5, steps=3, out="x.npy")))
    assert done.returncode == 0, done.stderr[-3000:]
    assert pictures(run / "samples.ipynb") == 2
    five = np.load(run / "x.npy")
    assert five.shape == (5, 8, 8)
    done = papermill("sample.ipynb", "samples.ipynb", run, *passed(dict(run_dir=RUN, n=2, steps=3, out="y.npy")))
    np.testing.assert_allclose(np.load(run / "y.npy"), five[:2], atol=1e-3)


def test_restore(run):
    done = papermill("restore.ipynb", "restored.ipynb", run, *passed(dict(run_dir=RUN, n=3, n_each=2, steps=4, out="r.npy")))
    assert done.returncode == 0, done.stderr[-3000:]
    restored = np.load(run / "r.npy")
    assert pictures(run / "restored.ipynb") == 1 and restored.shape == (3, 2, 8, 8)
    np.save(run / "observed.npy", restored[:, 0])
    np.save(run / "mask.npy", np.eye(8) > 0)
    given = dict(run_dir=RUN, observed="observed.npy", seen="mask.npy", n_each=1, steps=4, method="gibbs", out="s.npy")
    done = papermill("restore.ipynb", "restored.ipynb", run, *passed(given))
    assert done.returncode == 0, done.stderr[-3000:]
    seen = np.eye(8) > 0
    np.testing.assert_allclose(np.load(run / "s.npy")[:, 0][:, seen], restored[:, 0][:, seen], atol=1e-3)


def test_other_flows_and_data(tmp_path):
    Path(tmp_path / "pictures").mkdir()
    for k in range(12):
        Image.fromarray(np.random.default_rng(k).integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(
            tmp_path / "pictures" / f"{k}.png")
    np.save(tmp_path / "vectors.npy", np.random.default_rng(0).normal(size=(50, 3)))
    for name, parameters in dict(pictures=dict(image_size=16, D="inf", batch=4, width=8),
                                 vectors=dict(dataset="vectors.npy", D=16, seed=3)).items():
        done = papermill("train.ipynb", f"{name}.ipynb", tmp_path, *passed(QUICK | dict(dataset=name) | parameters))
        assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "runs" / "pictures-Dinf-seed0" / "network.safetensors").exists()
    assert (tmp_path / "runs" / "vectors-D16-seed3" / "summary.json").exists()


def test_preset_and_what_wins_over_it(tmp_path):
    """A value that is passed wins over the preset, also if it is the default; the rest is the preset's."""
    for k in range(12):
        folder = tmp_path / "pictures" / ("cats" if k % 2 else "dogs")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(k).integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / f"{k}.png")
    given = dict(dataset="pictures", preset="fast", conditional=True, ema=0.999, warmup=7, batch=256, width=8, steps=2,
                 sample_steps=2, device="cpu")
    done = papermill("train.ipynb", "out.ipynb", tmp_path, *passed(given))
    assert done.returncode == 0, done.stderr[-3000:]
    folder = tmp_path / "runs" / "pictures-D1-seed0-fast"
    summary = json.loads((folder / "summary.json").read_text())
    config = summary["config"]
    assert (config["flip"], config["warmup"], config["batch"], config["conditional"]) == (True, 7, 256, True)
    assert summary["preset"] == "fast" and summary["generated"]["n"] == 1400  # a small network


def test_two_processes(tmp_path):
    done = papermill("train.ipynb", "out.ipynb", tmp_path, *passed(QUICK | dict(processes=2, run_dir="two", device="cpu")))
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "two" / "summary.json").read_text())["processes"] == 2
    assert (tmp_path / "two" / "network.safetensors").exists() and "step 12" in (tmp_path / "out.ipynb").read_text()


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faulty")
    bad_things(folder)
    return folder


@pytest.mark.parametrize("parameters, words", [bad[1:] for bad in NOTEBOOKS if bad[0] == "train"][:2])
def test_faults_stop_at_once_with_one_line(faulty, parameters, words):
    """All the others: test_bad_inputs.py without a kernel, and `make faults` with one."""
    start = time.monotonic()
    done = papermill("train.ipynb", "out.ipynb", faulty, *passed(parameters))
    lines = [line for line in done.stderr.splitlines() if line.startswith("InputError: ")]
    assert done.returncode != 0 and len(lines) == 1 and words in lines[0], done.stderr[-2000:]
    assert time.monotonic() - start < 60 and not list(faulty.glob("runs/*/state.pt"))


def test_cifar10_without_network_says_how_to_go_on(faulty):
    """Refused here for want of a network; where there is one, this test would download CIFAR-10, so it is cut off."""
    environment = {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    command = [sys.executable, "-m", "papermill", str(NBS / "train.ipynb"), "out.ipynb", "-p", "dataset", "cifar10",
               "-p", "data_dir", str(faulty / "downloads")]
    done = subprocess.run(command, cwd=faulty, capture_output=True, text=True, env={**os.environ, **environment})
    lines = [line for line in done.stderr.splitlines() if line.startswith("InputError: ")]
    assert len(lines) == 1 and "cifar-10-python.tar.gz" in lines[0] and "digits" in lines[0], done.stderr[-2000:]


def test_help_lists_every_parameter():
    done = subprocess.run([sys.executable, "-m", "papermill", "--help-notebook", str(NBS / "train.ipynb")],
                          capture_output=True, text=True)
    for name in ("dataset", "D", "minutes", "steps", "seed", "device", "run_dir", "restart", "solver"):
        assert f"{name}: " in done.stdout, done.stdout
    assert "1 is PFGM" in done.stdout


def test_a_killed_experiment_goes_on(tmp_path):
    """The kernel is killed inside the second of three parts; the same line again measures that one and the third."""
    cells = [
        "import os, signal\nfrom pathlib import Path\n\nfrom pfgm.experiments import Lab, method",
        'lab = Lab("00_killed", "test", "runs")\nmodel = lab.train({0: method("PFGM", "test")})[0]',
        "def part(k):\n"
        "    with open('calls', 'a') as calls:\n"
        "        calls.write(str(k))\n"
        "    if Path('calls').read_text() == '12':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return dict(nfe=model.draw(k, steps=2).nfe)\n\n"
        "print(lab.table([(1,), (2,), (3,)], part))"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata["kernelspec"] = dict(display_name="python3", language="python", name="python3")
    nbformat.write(notebook, tmp_path / "in.ipynb")
    done = papermill(tmp_path / "in.ipynb", "out.ipynb", tmp_path)
    assert done.returncode != 0 and "DeadKernelError" in done.stderr, done.stderr[-3000:]
    network, = tmp_path.glob("runs/networks/*/network.safetensors")
    trained = network.stat().st_mtime_ns
    for _ in range(2):  # and a finished one is not repeated
        done = papermill(tmp_path / "in.ipynb", "out.ipynb", tmp_path)
        assert done.returncode == 0 and (tmp_path / "calls").read_text() == "1223", done.stderr[-3000:]
        assert "[{'nfe': 2}, {'nfe': 2}, {'nfe': 2}]" in (tmp_path / "out.ipynb").read_text()
    assert network.stat().st_mtime_ns == trained
