"The bench of the experiments: what is kept, what is measured again, rivals on equal terms, one judge, one record."
import json
import math
import os
import subprocess
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from pfgm import experiments
from pfgm.checks import InputError
from pfgm.data import from_array
from pfgm.diffusion import NoiseFlow
from pfgm.experiments import METHODS, SCALES, Judge, Lab, machine, method, over_seeds, sampler
from pfgm.features import content_hash
from pfgm.config import configure
from pfgm.model import Model
from pfgm.sources import load
from pfgm.training import _Training, train


def networks(runs: Path) -> dict:
    """Weights of every network in the folder, by its name."""
    return {path.parent.name: load_file(path) for path in (runs / "networks").glob("*/network.safetensors")}


# Parts

def test_a_part_is_measured_once_and_survives_a_stop(tmp_path):
    calls = []

    def measure(k):
        calls.append(k)
        if calls == [1, 2]:
            raise KeyboardInterrupt
        return dict(k=k, ways=(1, 2))

    with pytest.raises(KeyboardInterrupt):
        Lab("x", "test", tmp_path, tmp_path).table([(1,), (2,)], measure)
    for _ in range(2):  # the kept answer is the same as the new one
        rows = Lab("x", "test", tmp_path, tmp_path).table([(1,), (2,)], measure)
        assert rows == [dict(k=1, ways=[1, 2]), dict(k=2, ways=[1, 2])]
    assert calls == [1, 2, 2]


@pytest.mark.parametrize("damage", [b"", b'{"value": {"k"', b"\xff\xfe\x00"])
def test_a_damaged_part_is_measured_again(tmp_path, damage):
    lab = Lab("x", "test", tmp_path, tmp_path)
    lab.keep("part", lambda: 1)
    path, = lab.folder.glob("*.json")
    path.write_bytes(damage)
    assert lab.keep("part", lambda: 2) == 2 and lab.keep("part", lambda: 3) == 2


def test_parts_have_names_of_their_own(tmp_path):
    """Anything that tells methods apart is in their names: commas, quotes, dots, slashes."""
    lab = Lab("x", "test", tmp_path, tmp_path)
    cases = [(name, seed) for name in (*METHODS, "a/b") for seed in (0, 10)]
    assert lab.table(cases, lambda name, seed: [name, seed]) == [list(case) for case in cases]
    assert lab.table(cases, lambda name, seed: 1 / 0) == [list(case) for case in cases]
    assert len([*lab.folder.rglob("*.json")]) == len(cases)


def test_other_parameters_other_scale_other_name_another_folder(tmp_path):
    labs = [Lab("x", "test", tmp_path, tmp_path, seeds=3), Lab("x", "test", tmp_path, tmp_path, seeds=4),
            Lab("x", "cpu", tmp_path, tmp_path, seeds=3), Lab("y", "test", tmp_path, tmp_path, seeds=3),
            Lab("x", "test", tmp_path, tmp_path, seeds=3, steps=0)]
    assert len({lab.folder for lab in labs}) == 5
    assert Lab("x", "test", tmp_path, tmp_path, steps=0, seeds=3).folder == labs[-1].folder
    assert [lab.keep("part", lambda k=k: k) for k, lab in enumerate(labs)] == [0, 1, 2, 3, 4]


def test_restart_measures_again_and_does_not_train_again(tmp_path):
    def run(answer, **options):
        lab = Lab("x", "test", tmp_path, tmp_path, **options)
        lab.train({0: method("PFGM", "test")})
        return lab.keep("part", lambda: answer), [*tmp_path.glob("networks/*/network.safetensors")][0].stat().st_mtime_ns

    (first, trained), kept, again = run(1), run(2), run(3, restart=True)
    assert (first, kept, again) == (1, (1, trained), (3, trained))


def test_restart_leaves_the_parts_of_others(tmp_path):
    others = [Lab("x", "test", tmp_path, tmp_path, seeds=4), Lab("y", "test", tmp_path, tmp_path, seeds=3)]
    for lab in others:
        lab.keep("part", lambda: 1)
    Lab("x", "test", tmp_path, tmp_path, seeds=3, restart=True)
    assert [lab.keep("part", lambda: 2) for lab in others] == [1, 1]


@pytest.mark.parametrize("where", ["runs", "results"])
def test_a_folder_that_cannot_be_written(tmp_path, where):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file.* cannot be written"):
        Lab("x", "cpu", **{"runs": tmp_path / "r", "results": tmp_path / "r", where: tmp_path / "file" / "folder"})


def test_an_unknown_scale():
    with pytest.raises(InputError, match="unknown scale 'papper'; did you mean 'paper'"):
        Lab("x", "papper")
    with pytest.raises(InputError, match="unknown scale"):
        method("PFGM", "gpu")
    with pytest.raises(InputError, match="unknown method 'PGFM'; did you mean 'PFGM'"):
        method("PGFM")


# Networks

def test_a_run_needs_a_budget_in_steps(tmp_path):
    with pytest.raises(InputError, match="the run slow needs a budget in steps"):
        Lab("x", "test", tmp_path, tmp_path).train({"slow": method("PFGM", "test", steps=0, minutes=1)})
    assert not networks(tmp_path)


def test_two_experiments_share_a_run_and_equal_runs_are_one(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(experiments, "train", lambda config, **options: trained.append(config) or train(config, **options))
    same = method("PFGM", "test", seed=2)
    models = Lab("x", "test", tmp_path, tmp_path).train({"a": same, "b": method("PFGM", "test", seed=2)})
    other = Lab("y", "test", tmp_path, tmp_path).train({0: method("PFGM", "test", seed=2, device="auto")})
    assert len(trained) == 1 and len(networks(tmp_path)) == 1
    assert all(model.draw(2).x.equal(other[0].draw(2).x) for model in models.values())
    Lab("x", "test", tmp_path, tmp_path).train({"a": method("PFGM", "test", seed=2, lr=1e-3)})
    assert len(trained) == 2 and len(networks(tmp_path)) == 2


def test_a_stopped_run_goes_on(tmp_path, monkeypatch):
    """After a stop in the middle the rest gives the weights of a run that was never stopped."""
    config, advance = method("PFGM", "test", steps=6, save_minutes=1e-9), _Training.advance

    def stop_after_three(run, charges):
        if run.step == 3:
            raise KeyboardInterrupt
        return advance(run, charges)

    Lab("x", "test", tmp_path / "whole", tmp_path).train({0: config})
    monkeypatch.setattr(_Training, "advance", stop_after_three)
    with pytest.raises(KeyboardInterrupt):
        Lab("x", "test", tmp_path / "half", tmp_path).train({0: config})
    monkeypatch.undo()
    assert not networks(tmp_path / "half") and [*tmp_path.glob("half/networks/*/state*.pt")]
    Lab("x", "test", tmp_path / "half", tmp_path).train({0: config})
    (name, a), (other, b) = *networks(tmp_path / "whole").items(), *networks(tmp_path / "half").items()
    assert name == other and all(a[key].equal(b[key]) for key in a)


def test_side_by_side_or_alone_the_weights_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    threads = torch.get_num_threads()
    configs = {seed: method(name, "test", seed) for seed, name in enumerate(("PFGM", "VP", "PFGM++, D = 128"))}
    lab = Lab("x", "cpu", tmp_path / "both", tmp_path)
    torch.set_num_threads(1)
    try:
        models = lab.train(configs)
        Lab("x", "test", tmp_path / "alone", tmp_path).train(configs)
    finally:
        torch.set_num_threads(threads)
    both, alone = networks(tmp_path / "both"), networks(tmp_path / "alone")
    assert both.keys() == alone.keys() == lab.trained.keys() and len(both) == 3
    for name in both:
        assert all(both[name][key].equal(alone[name][key]) for key in alone[name]), name
    assert {key: model.config.seed for key, model in models.items()} == {0: 0, 1: 1, 2: 2}
    assert all(minutes > 0 for minutes in lab.trained.values())


def test_a_killed_notebook_leaves_no_workers(tmp_path):
    script = tmp_path / "bench.py"
    script.write_text("from pfgm.experiments import Lab, method\n\nif __name__ == '__main__':\n"
                      "    Lab('x', 'cpu', 'runs', 'runs').train({k: method('PFGM', 'cpu', k, width=16) for k in (0, 1)})\n")
    notebook = subprocess.Popen([sys.executable, script], cwd=tmp_path, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len([*tmp_path.glob("runs/networks/*")]) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    workers = psutil.Process(notebook.pid).children(recursive=True)
    notebook.kill()
    notebook.wait()
    assert len(workers) >= 2 and not psutil.wait_procs(workers, timeout=20)[1]
    assert not [*tmp_path.rglob("network.safetensors")], "they were at work"


def test_a_fault_in_a_worker_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    configs = [method("PFGM", "test", dataset="no/such/folder"), method("PFGM", "test", seed=1)]
    with pytest.raises(InputError, match="there is no file or folder 'no/such/folder'"):
        Lab("x", "cpu", tmp_path, tmp_path).train(dict(enumerate(configs)))


# Rivals

OWN = {"objective", "draw", "D", "s_min", "s_max", "n_charges", "M"}  # what a method may bring


@pytest.mark.parametrize("scale", SCALES)
def test_methods_differ_in_what_is_theirs_alone(scale):
    configs = {name: asdict(method(name, scale, seed=7)) for name in METHODS}
    equal = {name: {key: value for key, value in config.items() if key not in OWN} for name, config in configs.items()}
    if scale == "paper":  # the paper's own is its preset to the letter; budget and network are still the same
        assert configs["PFGM, paper's target"] == asdict(configure("paper", dataset="cifar10", seed=7))
        assert configs["PFGM"]["network"] == "cifar10_ddpmpp" and configs["PFGM"]["dataset"] == "cifar10"
        assert configs["PFGM"]["steps"] == 1_300_000
        for config in equal.values():
            del config["loss"], config["precision"]
    assert all(config == equal["PFGM"] for config in equal.values())
    assert len({tuple(config[key] for key in sorted(OWN)) for config in configs.values()}) == len(METHODS)
    assert configs["PFGM"]["D"] == 1 and configs["EDM"]["D"] == configs["VE"]["D"] == math.inf
    assert configs["PFGM++, D = 128"]["D"] == 128 and configs["PFGM++, D = 2048"]["D"] == 2048


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("scale", SCALES)
def test_what_is_given_wins(name, scale):
    config = method(name, scale, steps=9, lr=1e-5, batch=8)
    assert (config.steps, config.lr, config.batch, config.seed) == (9, 1e-5, 8, 0)
    with pytest.raises(InputError, match="D is 0") if scale != "paper" else pytest.raises(InputError):
        method(name, scale, D=0)


@pytest.fixture(scope="module")
def rivals(tmp_path_factory):
    runs = tmp_path_factory.mktemp("rivals")
    return Lab("x", "test", runs, runs).train({name: method(name, "test", steps=30, lr=2e-3, warmup=5) for name in METHODS})


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_sampled_as_its_authors_do(rivals, name):
    model = rivals[name]
    run, euler = model.draw(3, **sampler(model)), model.draw(3, **sampler(model, 7))
    assert run.x.isfinite().all() and euler.x.isfinite().all() and euler.nfe == 7
    options = sampler(model)
    assert (options["solver"] == "heun") == (name == "EDM" or name.startswith("PFGM++"))
    assert run.nfe == 35 if options["solver"] == "heun" else run.nfe > 12
    if isinstance(model.flow, NoiseFlow):
        assert callable(options["solver"]) and options["heights"].shape == (3,)
        plain = model.draw(3, solver="euler", steps=7)
        assert not torch.allclose(plain.x, euler.x, rtol=1e-3)  # other coordinates, other errors
    elif model.config.draw == "lognormal":
        assert options == dict(solver="heun", heights="karras", steps=18)
    else:
        assert options == dict(solver="rk45")


# Judge

@pytest.fixture(scope="module")
def digits():
    return load("digits")


def test_judge_by_principal_components(digits):
    judge, noise = Judge(digits), torch.randn(300, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert judge.reference.shape == (len(digits.train), 24)
    own = judge.scores(digits.train[:500])
    assert own["nearest"] == 0 and own.keys() == {"frechet", "nearest"}
    assert own["frechet"] < judge.frechet(digits.test) < judge.frechet(noise) / 20
    assert judge.scores(noise)["nearest"] > judge.scores(digits.test)["nearest"] > 0


def test_judge_by_a_classifier(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "cached_classifier", partial(experiments.cached_classifier, steps=100))
    judge, noise = Judge(digits, "classifier", tmp_path), torch.randn(300, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    real, wrong = judge.scores(digits.test), judge.scores(noise)
    assert real.keys() == {"frechet", "nearest", "score"}
    assert 6 < real["score"] <= 10 and real["score"] > wrong["score"] and real["frechet"] < wrong["frechet"] / 5
    kept, = tmp_path.iterdir()
    before = kept.stat().st_mtime_ns
    assert Judge(digits, "classifier", tmp_path).scores(digits.test) == real and kept.stat().st_mtime_ns == before


def test_judge_of_bytes():
    """Data that are kept as bytes are compared on the scale of the samples."""
    x = torch.randint(256, (60, 8, 8, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    data = from_array(x.numpy())
    assert data.train.dtype == torch.uint8
    found = Judge(data).scores(data.scaled(data.train))
    assert abs(found["frechet"]) < 1e-8 and found["nearest"] < 1e-5


def test_judge_of_few_numbers_and_refusals(digits):
    moons = load("two_moons")
    assert Judge(moons).frechet(moons.train) == pytest.approx(0, abs=1e-9)
    with pytest.raises(InputError, match="'two_moons' has no labels to train a classifier on; use features='pca'"):
        Judge(moons, "classifier")
    with pytest.raises(InputError, match="unknown features 'pac'; did you mean 'pca'"):
        Judge(digits, "pac")


def test_over_seeds():
    found = over_seeds([1.0, 2.0, 6.0])
    assert found == dict(mean=3.0, sd=pytest.approx(math.sqrt(7)), n=3, values=[1.0, 2.0, 6.0])
    assert over_seeds([2]) == dict(mean=2.0, sd=None, n=1, values=[2.0])
    assert over_seeds(torch.tensor([1.0, 3.0]).tolist())["sd"] == pytest.approx(math.sqrt(2))
    json.dumps(found, allow_nan=False)


# Record

def test_the_record_says_everything(digits, tmp_path, capsys):
    from pfgm.plots import new_fig, plt

    lab = Lab("07_demo", "cpu", tmp_path / "runs", tmp_path / "results", seeds=2, steps=4)
    lab.train({0: method("PFGM", "test")})
    figures = {"a": over_seeds([0.1, 0.3])}
    lab.keep("part", lambda: 1)
    fig, _ = new_fig()
    lab.figure(fig)
    plt.close(fig)
    lab.write(claim="It holds.", held={"first": torch.tensor(True), "second": figures["a"]["mean"] > 1}, figures=figures,
              data=digits, seeds=range(2), nfe={"PFGM": 16})
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["07_demo.json", "07_demo.png"]
    record = json.loads((tmp_path / "results" / "07_demo.json").read_text())
    assert record["claim"] == "It holds." and record["held"] == {"first": True, "second": False}
    assert record["figures"] == figures and record["seeds"] == [0, 1] and record["nfe"] == {"PFGM": 16}
    assert record["scale"] == "cpu" and record["parameters"] == dict(seeds=2, steps=4) and record["networks"] == 1
    assert record["data"] == dict(name="digits", hash=content_hash(digits.train, digits.test))
    assert record["minutes"] >= 0 and record["training_minutes"] >= 0
    assert record["machine"] and record["cores"] >= 1 and record["versions"]["torch"] == torch.__version__
    assert record["commit"] == machine()["commit"]
    said = capsys.readouterr().out
    assert "held: first\n" in said and "did not hold: second\n" in said


def test_the_scales_do_not_write_over_each_other(digits, tmp_path):
    for scale in SCALES:
        lab = Lab("07_demo", scale, tmp_path / "runs", tmp_path / "results")
        lab.write(claim=scale, held={}, figures={}, data=digits, seeds=[0])
    kept = {path.name: json.loads(path.read_text())["claim"] for path in (tmp_path / "results").iterdir()}
    assert kept == {"07_demo.json": "cpu", "07_demo-paper.json": "paper"}
    trial, = tmp_path.glob("runs/07_demo-test-*/07_demo.json")
    assert json.loads(trial.read_text())["claim"] == "test"


def test_time_that_was_spent_before_a_stop_counts(tmp_path, monkeypatch):
    ticks = iter(range(0, 10_000, 60))  # a minute between two looks at the clock
    monkeypatch.setattr(experiments.time, "monotonic", lambda: next(ticks))
    for _ in range(2):
        lab = Lab("x", "test", tmp_path, tmp_path)
        lab.table([(1,), (2,)], lambda k: k)
        assert lab.minutes == 2


def test_without_git_there_is_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert machine()["commit"] == ""


def test_a_network_in_the_lab_is_a_model_anywhere(tmp_path):
    model = Lab("x", "test", tmp_path, tmp_path).train({0: method("sub-VP", "test")})[0]
    path, = tmp_path.glob("networks/digits-subvp-Dinf-seed0-*")
    assert Model.load(path, "cpu").draw(2).x.equal(model.draw(2).x)
