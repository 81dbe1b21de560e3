"Configuration, loop, resume and model: what goes wrong must be said, what goes on must be the same."
import dataclasses
import math
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import pfgm
from pfgm import ode, training
from pfgm.checkpoint import load_state, read_json_lines
from pfgm.checks import InputError
from pfgm.data import load
from pfgm.flow import EmpiricalFlow, FieldFlow
from pfgm.networks import build
from pfgm.prior import Hemisphere, Prior
from pfgm.training import TrainConfig, fit, train

SMALL = dict(dataset="two_moons", width=16, steps=6)


@pytest.mark.parametrize("wrong, word", [
    (dict(D=0), "D is 0"), (dict(D=-3), "D is -3"), (dict(D=math.nan), "D is nan"), (dict(D="one"), "D is 'one'"),
    (dict(steps=-1), "steps is -1"), (dict(steps=1.5), "steps is 1.5"), (dict(minutes=-2), "minutes is -2"),
    (dict(batch=0), "batch is 0"), (dict(lr=0), "lr is 0"), (dict(ema=1), "ema is 1"), (dict(dropout=1.0), "dropout"),
    (dict(device="cuda:9"), "no device 'cuda:9'"), (dict(device="gpu"), "Allowed: auto, cpu"),
    (dict(objective="poitn"), "did you mean 'point'"), (dict(D=4, objective="field"), "needs D = 1"),
    (dict(width=-1), "width is -1"), (dict(flip="no"), "flip is 'no'"), (dict(s_min=100.0), "s_min"),
    (dict(s_max=math.inf), "s_max"), (dict(seed=-1), "seed"),
])
def test_wrong_configuration_is_refused_in_one_sentence(wrong, word):
    with pytest.raises(InputError) as error:
        TrainConfig(**wrong)
    assert word in str(error.value) and "\n" not in str(error.value)


def test_misspelt_option_and_network():
    with pytest.raises(InputError, match="did you mean 'minutes'"):
        fit(np.zeros((4, 2)), minuets=1)
    with pytest.raises(InputError, match="did you mean 'unet'"):
        fit(np.eye(4), network="unett", steps=1)


def test_data_that_are_all_the_same_are_refused():
    with pytest.raises(InputError, match="all data points are the same"):
        fit(np.ones((20, 3)), steps=1, progress=False)


@pytest.mark.parametrize("options", [
    dict(D=1), dict(D=16), dict(D=math.inf), dict(objective="point"), dict(objective="field"),
    dict(objective="field", n_charges=50), dict(n_charges=300), dict(D=2.5, dropout=0.2)])
def test_every_kind_of_flow_trains_and_samples(options):
    model = train(TrainConfig(**SMALL, **options), progress=False)
    x = model.sample(5)
    assert x.shape == (5, 2) and x.isfinite().all()


def test_images_with_flip_and_unet():
    images = np.random.default_rng(0).integers(0, 255, (30, 16, 16, 3), dtype=np.uint8)
    model = fit(images, steps=3, width=8, batch=4, flip=True, progress=False)
    assert model.flow.network.config["network"] == "unet" and model.sample(2, steps=3).shape == (2, 16, 16, 3)


@pytest.mark.parametrize("options", [{}, dict(dropout=0.3), dict(D=8, objective="point")])
def test_going_on_is_exact(tmp_path, options, monkeypatch):
    whole = train(TrainConfig(**SMALL | dict(steps=20), **options, run_dir=str(tmp_path / "whole")), progress=False)
    advance = training._Training.advance

    def interrupted(self, charges):
        if self.step == 9:
            raise KeyboardInterrupt
        return advance(self, charges)

    parts = TrainConfig(**SMALL | dict(steps=20), **options, run_dir=str(tmp_path / "parts"))
    monkeypatch.setattr(training._Training, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(parts, progress=False)
    assert load_state(tmp_path / "parts")["step"] == 9
    monkeypatch.undo()
    train(parts, progress=False)
    first, second = load_state(tmp_path / "whole"), load_state(tmp_path / "parts")
    for part in ("flow", "average"):
        assert all(torch.equal(value, second[part][name]) for name, value in first[part].items())
    for key, moments in first["optimiser"]["state"].items():
        assert all(torch.equal(value, second["optimiser"]["state"][key][name]) for name, value in moments.items())
    assert torch.equal(first["generator"], second["generator"])
    assert torch.equal(training.Model.load(tmp_path / "parts").sample(3), whole.sample(3))


def test_a_finished_run_is_loaded_and_a_larger_budget_goes_on(tmp_path):
    config = TrainConfig(**SMALL, run_dir=str(tmp_path))
    train(config, progress=False)
    train(config, progress=False)
    assert [entry["step"] for entry in read_json_lines(tmp_path / "log.jsonl")][-1] == 6
    train(dataclasses.replace(config, steps=9), progress=False)
    assert load_state(tmp_path)["step"] == 9
    train(config, progress=False, restart=True)
    assert load_state(tmp_path)["step"] == 6


def test_another_run_is_not_mixed_in(tmp_path):
    config = TrainConfig(**SMALL, run_dir=str(tmp_path))
    train(config, progress=False)
    with pytest.raises(InputError, match="D = 1, not 2"):
        train(dataclasses.replace(config, D=2), progress=False)
    with pytest.raises(InputError, match="other data"):
        train(config, load("rings"), progress=False)


def test_run_dir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        train(TrainConfig(**SMALL, run_dir=str(tmp_path / "file" / "run")), progress=False)


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_last_state(tmp_path, monkeypatch):
    config = TrainConfig(**SMALL, run_dir=str(tmp_path))
    train(config, progress=False)
    monkeypatch.setattr(training, "_loss", lambda flow, *rest: sum(p.sum() for p in flow.parameters()) * math.nan)
    with pytest.raises(FloatingPointError, match="lower lr"):
        train(dataclasses.replace(config, steps=12), progress=False)
    assert load_state(tmp_path)["step"] == 6


def test_killed_at_any_moment_a_state_can_be_read(tmp_path):
    """kill -9 while states are written as fast as possible; what is left must load, or there was none yet."""
    program = ("import sys, torch; from pfgm.checkpoint import save_state\n"
               "k = 0\nprint('ready', flush=True)\n"
               "while True: k += 1; save_state(sys.argv[1], dict(k=k, x=torch.full((20000,), k)))")
    last = 0
    child = None
    for round in range(8):
        child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
        child.stdout.readline()
        time.sleep(0.05 + 0.013 * round)
        child.send_signal(signal.SIGKILL)
        child.wait()
        state = load_state(tmp_path)
        assert state and torch.equal(state["x"], torch.full((20000,), state["k"]))
        last = max(last, state["k"])
    assert last > 1


def test_budget_in_minutes_and_bar(capsys):
    start = time.monotonic()
    fit(np.random.default_rng(0).normal(size=(50, 2)), minutes=0.03, width=16)
    assert time.monotonic() - start < 30 and "left" in capsys.readouterr().err


def test_model_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="no trained network"):
        training.Model.load(tmp_path)


def test_public_names():
    assert {"fit", "train", "TrainConfig", "Model"} <= set(dir(pfgm)) and pfgm.__version__


def test_solver_faults():
    flow, prior = EmpiricalFlow(torch.eye(2)), Hemisphere((2,), 10.0)
    for options, word in ((dict(solver="huen"), "did you mean 'heun'"), (dict(steps=0), "steps is 0"), (dict(n=0), "n is 0"),
                          (dict(z_min=50.0), "z_min is 50"), (dict(solver="rk45", path=True), "path")):
        with pytest.raises(InputError, match=word):
            ode.sample(flow, prior, **dict(n=2) | options)
    with pytest.raises(FloatingPointError, match="not finite at height"):
        ode.sample(EmpiricalFlow(torch.full((3, 2), math.nan)), prior, 2)
    with pytest.raises(InputError, match="Prior"):
        Hemisphere((2,), 1.0, math.inf)


@pytest.mark.parametrize("solver", ode.SOLVERS)
def test_samples_do_not_depend_on_the_batch_with_a_network(solver):
    model = train(TrainConfig(**SMALL), progress=False)
    draws = [model.draw(n, solver, steps=8, seed=4, batch_size=size).x[:3] for n, size in ((3, 1), (64, 64), (64, 7))]
    for other in draws[1:]:
        torch.testing.assert_close(draws[0], other, rtol=1e-3, atol=1e-3)


def test_order_of_the_solvers_on_several_charges():
    generator = torch.Generator().manual_seed(5)
    flow = EmpiricalFlow(torch.randn(7, 3, generator=generator, dtype=torch.float64))
    x, z = Prior((3,), 2.0).sample(40, generator)

    def end(solver, steps, **options):
        factors = torch.linspace(0, math.log(0.25), steps + 1, dtype=torch.float64).exp()
        return ode.integrate(flow, x, z, factors, solver, **options).x

    exact = end("rk45", 1, rtol=1e-12, atol=1e-12)
    for solver, order in (("euler", 1), ("heun", 2), ("2m", 2)):
        coarse, fine = ((end(solver, steps) - exact).norm() for steps in (200, 400))
        assert abs(math.log2(coarse / fine) - order) < 0.1


def test_field_flow_needs_gamma_for_z_exp():
    with pytest.raises(InputError, match="gamma > 0"):
        FieldFlow(build((2,), field=True), gamma=0, z_exp=1.0)
