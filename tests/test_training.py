"Configuration, loop, resume and model: what goes wrong must be said, what goes on must be the same."
import dataclasses
import json
import math
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext

import numpy as np
import pytest
import torch

import pfgm
from pfgm import config, model, ode, training
from pfgm.checkpoint import load_state, load_weights, read_json_lines, save_state, save_weights
from pfgm.checks import InputError
from pfgm.data import Data
from pfgm.flow import EmpiricalFlow, FieldFlow, PaperFlow
from pfgm.config import TrainConfig, configure
from pfgm.networks import build, count_multiply_adds
from pfgm.prior import Hemisphere, Prior
from pfgm.sources import load
from pfgm.training import fit, train

SMALL = dict(dataset="two_moons", width=16, steps=6)


@pytest.mark.parametrize("wrong, word", [
    (dict(D=0), "D is 0"), (dict(D=-3), "D is -3"), (dict(D=math.nan), "D is nan"), (dict(D="one"), "D is 'one'"),
    (dict(steps=-1), "steps is -1"), (dict(steps=1.5), "steps is 1.5"), (dict(minutes=-2), "minutes is -2"),
    (dict(batch=0), "batch is 0"), (dict(lr=0), "lr is 0"), (dict(ema=1), "ema is 1"), (dict(dropout=1.0), "dropout"),
    (dict(device="cuda:9"), "no device 'cuda:9'"), (dict(device="gpu"), "Allowed: auto, cpu"),
    (dict(objective="poitn"), "did you mean 'point'"), (dict(D=4, objective="field"), "needs D = 1"),
    (dict(width=-1), "width is -1"), (dict(flip="perhaps"), "flip is 'perhaps'"), (dict(s_min=100.0), "s_min"),
    (dict(s_max=math.inf), "s_max"), (dict(seed=-1), "seed"), (dict(precision="fp16"), "unknown precision 'fp16'"),
    (dict(compile="max"), "unknown compile"), (dict(draw="papr"), "did you mean 'paper'"), (dict(keep=0), "keep is 0"),
    (dict(draw="paper", D=2), "needs D = 1"), (dict(draw="paper", objective="point"), "needs draw 'kernel'"),
    (dict(loss="sum"), "needs objective 'field'"), (dict(micro_batch=-1), "micro_batch is -1"),
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


def test_a_few_steps_for_a_few_images_are_cheap():
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8)
    model = fit(images, steps=60, batch=4, progress=False)
    assert model.config.width == 32 and count_multiply_adds(model.flow.network) < 2e7  # of 64 channels 7e7
    assert model.sample(2, steps=2).shape == (2, 16, 16)


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


def stopped_at(monkeypatch, step, number=signal.SIGINT):
    """Training gets a signal in the middle of the step that leads to `step`."""
    advance = training._Training.advance

    def stopped(self, charges):
        if self.step == step - 1:
            signal.raise_signal(number)
        return advance(self, charges)

    monkeypatch.setattr(training._Training, "advance", stopped)


def same_states(first, second):
    for part in ("flow", "average"):
        assert all(torch.equal(value, second[part][name]) for name, value in first[part].items())
    for key, moments in first["optimiser"]["state"].items():
        assert all(torch.equal(value, second["optimiser"]["state"][key][name]) for name, value in moments.items())
    assert torch.equal(first["generator"], second["generator"])
    assert all(torch.equal(a, b) for a, b in zip(first["dropouts"], second["dropouts"], strict=True))


@pytest.mark.parametrize("options", [
    {}, dict(dropout=0.3), dict(D=8, objective="point"), dict(objective="field", draw="paper", n_charges=300),
    dict(half_life=3.0, micro_batch=100), dict(dataset="digits", conditional=True), dict(precision="bfloat16")])
def test_going_on_is_exact(tmp_path, options, monkeypatch):
    options = SMALL | dict(steps=20) | options
    whole = train(TrainConfig(**options, run_dir=str(tmp_path / "whole")), progress=False)
    parts = TrainConfig(**options, run_dir=str(tmp_path / "parts"))
    stopped_at(monkeypatch, 9)
    with pytest.raises(KeyboardInterrupt):
        train(parts, progress=False)
    assert load_state(tmp_path / "parts")["step"] == 9
    monkeypatch.undo()
    train(parts, progress=False)
    same_states(load_state(tmp_path / "whole"), load_state(tmp_path / "parts"))
    assert torch.equal(training.Model.load(tmp_path / "parts").sample(3), whole.sample(3))


def test_a_request_to_end_saves_and_handlers_come_back(tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    stopped_at(monkeypatch, 3, signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        train(TrainConfig(**SMALL, run_dir=str(tmp_path)), progress=False)
    assert load_state(tmp_path)["step"] == 3 and signal.getsignal(signal.SIGTERM) == before


def test_in_a_thread_there_are_no_signals_and_it_trains():
    done = []
    thread = threading.Thread(target=lambda: done.append(train(TrainConfig(**SMALL), progress=False)))
    thread.start()
    thread.join()
    assert done[0].sample(2).shape == (2, 2)


def test_the_log_has_no_steps_that_did_not_count(tmp_path, monkeypatch):
    """A run that was killed logged more steps than it saved; gone on, it logs them once."""
    config = TrainConfig(**SMALL | dict(steps=20), run_dir=str(tmp_path))
    stopped_at(monkeypatch, 9)
    with pytest.raises(KeyboardInterrupt):
        train(config, progress=False)
    monkeypatch.undo()
    with open(tmp_path / "log.jsonl", "a") as log:
        log.write(json.dumps(dict(step=12, loss=1.0)) + "\n" + '{"step": 1')
    train(config, progress=False)
    assert [entry["step"] for entry in read_json_lines(tmp_path / "log.jsonl")] == list(range(1, 21))


def test_a_finished_run_is_loaded_and_a_larger_budget_goes_on(tmp_path):
    config = TrainConfig(**SMALL, run_dir=str(tmp_path))
    train(config, progress=False)
    train(config, progress=False)
    log = read_json_lines(tmp_path / "log.jsonl")
    assert log[-1]["step"] == 6 and all(entry["largest"] >= entry["loss"] for entry in log)
    train(dataclasses.replace(config, steps=9), progress=False)
    assert load_state(tmp_path)["step"] == 9
    train(config, progress=False, restart=True)
    assert load_state(tmp_path)["step"] == 6


def test_a_run_that_goes_on_keeps_its_plan(tmp_path, monkeypatch):
    """Planned with one clock, gone on with another that would plan a wider network."""
    images = np.random.default_rng(0).integers(0, 256, (30, 12, 12), dtype=np.uint8)
    data = pfgm.data.from_array(images)
    monkeypatch.setattr("pfgm.plan._fastest", lambda *_: (1.0, "bfloat16", 1))
    config = TrainConfig(dataset="digits", minutes=0.01, batch=8, run_dir=str(tmp_path))
    first = train(config, data, progress=False)
    assert (first.config.width, first.config.precision, first.config.lr, first.config.batch) == (32, "bfloat16", 2e-3, 8)
    monkeypatch.setattr("pfgm.plan._fastest", lambda network, config, device: (
        1e-5, "float32" if config.precision == "auto" else config.precision, 1))
    on = train(dataclasses.replace(config, minutes=0.02), data, progress=False)
    assert (on.config.width, on.config.precision) == (32, "bfloat16")
    assert train(dataclasses.replace(config, width=16), data, progress=False, restart=True).config.width == 16
    with pytest.raises(InputError, match="width = 16, not 24"):
        train(dataclasses.replace(config, width=24), data, progress=False)


def test_a_model_of_an_earlier_version_is_refused(tmp_path):
    train(TrainConfig(**SMALL, run_dir=str(tmp_path)), progress=False)
    weights, about = load_weights(tmp_path / "network.safetensors")
    save_weights(tmp_path / "network.safetensors", weights, {key: value for key, value in about.items() if key != "format"})
    with pytest.raises(InputError, match="earlier pfgm.*train it again"):
        model.Model.load(tmp_path)


@pytest.mark.parametrize("large", [False, True])
def test_both_bases_of_the_mixture_are_saved(tmp_path, large):
    """Principal axes, and the cosine basis of images that are too large for them."""
    side = 130 if large else 20
    images = np.random.default_rng(0).integers(0, 256, (6, side, side), dtype=np.uint8)
    config = TrainConfig(dataset="digits", steps=1, batch=2, width=8, run_dir=str(tmp_path))
    made = train(config, pfgm.data.from_array(images), progress=False)
    known = made.flow.mixture
    assert (len(known.axes), known.means.shape) == ((0, (1, side ** 2)) if large else (5, (1, 5)))
    assert torch.equal(model.Model.load(tmp_path).sample(2, steps=3), made.sample(2, steps=3))


def test_another_run_is_not_mixed_in(tmp_path):
    config = TrainConfig(**SMALL, run_dir=str(tmp_path))
    left = train(config, progress=False).config
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    others = dict(D=2, width=32, lr=0.5, network="mlp", dropout=0.5, seed=3, dataset="rings", objective="point")
    for names in (["D"], ["width", "network"], ["lr", "dropout", "D"], ["dataset", "seed"], [*others]):
        other = dataclasses.replace(config, **{name: others[name] for name in names})
        with pytest.raises(InputError) as error:
            train(other, progress=False)
        text = str(error.value)
        for name in names:
            assert f"{name} = {getattr(left, name)!r}, not {others[name]!r}" in text
        assert ("other data (hash" in text) == ("dataset" in names) and "\n" not in text
    with pytest.raises(InputError, match="D = 1, not 2; other data .hash [0-9a-f]{16}, not [0-9a-f]{16}.: choose another run"):
        train(dataclasses.replace(config, D=2), load("rings"), progress=False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == kept, "nothing was lost"


def test_run_dir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        train(TrainConfig(**SMALL, run_dir=str(tmp_path / "file" / "run")), progress=False)


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_last_state(tmp_path, monkeypatch):
    config = TrainConfig(**SMALL, run_dir=str(tmp_path))
    train(config, progress=False)
    monkeypatch.setattr(training._Loss, "forward", lambda self, *rest: sum(p.sum() for p in self.parameters()) * math.nan)
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
    for round in range(5):
        child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
        child.stdout.readline()
        time.sleep(0.05 + 0.013 * round)
        child.send_signal(signal.SIGKILL)
        child.wait()
        state = load_state(tmp_path)
        assert state and torch.equal(state["x"], torch.full((20000,), state["k"]))
        last = max(last, state["k"])
    assert last > 1


def test_states_that_are_not_of_this_run(tmp_path):
    config = TrainConfig(**SMALL, run_dir=str(tmp_path))
    for foreign, words in ((dict(step=3, config={}, data=training._hash(load("two_moons"))), "is damaged"),
                           (dict(step=3), "was not written by pfgm"), ([1, 2], "is not a training state")):
        save_state(tmp_path, foreign)
        with pytest.raises(InputError, match=words) as error:
            train(config, progress=False)
        assert "\n" not in str(error.value)
    train(config, progress=False, restart=True)
    assert load_state(tmp_path)["step"] == 6


def test_presets_do_not_overrule_what_is_given():
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    for preset in config.PRESETS.values():
        assert set(preset) <= set(names)
    assert configure("fast", device="cpu", lr=1.0, batch=9).lr == 1 and configure("paper", gamma=2.0).gamma == 2
    with pytest.raises(InputError, match="unknown preset 'papre'; did you mean 'paper'"):
        configure("papre")
    with pytest.raises(InputError, match="network of the paper 'mlp'"):
        configure("paper", network="mlp")
    with pytest.raises(InputError, match=r"is for samples of shape \(3, 32, 32\), not \(1, 8, 8\)"):
        fit("digits", preset="paper", steps=1, flip=False, progress=False)


def test_too_little_memory_is_said(monkeypatch):
    def short(self, *rest):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore lines.")

    monkeypatch.setattr(training._Loss, "forward", short)
    with pytest.raises(InputError, match="set micro_batch to 128 or less") as error:
        train(TrainConfig(**SMALL), progress=False)
    assert "\n" not in str(error.value)
    monkeypatch.undo()
    monkeypatch.setattr(training, "memory", lambda device: 1e4)
    with pytest.raises(InputError, match="before the first image"):
        train(TrainConfig(**SMALL), progress=False)
    monkeypatch.setattr(training, "memory", lambda device: 1e6)
    with pytest.raises(InputError, match="use a part of the data in each step with n_charges"):
        fit(np.random.default_rng(0).normal(size=(2000, 100)), steps=1, width=8, progress=False)


def test_mirror_images_are_charges():
    images = torch.arange(2 * 3 * 8 * 8, dtype=torch.uint8).reshape(2, 3, 8, 8)
    data = Data("two", images, images, torch.tensor(127.5), torch.tensor(127.5), "hwc", torch.tensor([4, 5]))
    for options in (dict(objective="point"), dict()):
        charges = training._Charges(data, TrainConfig(flip=True, conditional=True, **options), torch.device("cpu"))
        x, label = charges.take(torch.arange(4))
        assert len(charges) == 4 and label.tolist() == [4, 5, 4, 5] and charges.points.dtype == torch.uint8
        assert torch.equal(x[2:], x[:2].flip(-1)) and (x[:2] - (images / 127.5 - 1)).abs().max() < 1e-6
    assert len(charges.points) == 4 and len(charges.take(torch.tensor([0]))[0]) == 1


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


def test_one_step_is_what_the_paper_writes():
    """A step of `paper` against the official loss written out: large batch, normalised field, half the sum."""
    config = configure("paper", batch=3, n_charges=7, dropout=0.0, flip=False, device="cpu")
    data = load("digits")
    charges = training._Charges(data, config, torch.device("cpu"))
    y, x, z, label, (pool, classes) = training._draw(charges, config, 0.5, 291, torch.Generator().manual_seed(0))
    assert len(y) == 3 and len(pool) == 7 and torch.equal(pool[:3], y) and len(pool.flatten(1).unique(dim=0)) == 7
    assert label is None and classes is None and (z > 0).all()

    class Network(torch.nn.Module):
        config = {}
        def forward(self, x, levels, label=None):
            return torch.ones_like(x), torch.full((len(x),), 2.0)

    flow = model.make_flow(config, Network())
    loss = training._Loss(flow, config)(x, z, y, label, (pool, classes))
    away = torch.cat([(x[:, None] - pool).flatten(2), z[:, None, None].expand(3, 7, 1)], 2).double()
    distance = away.norm(dim=2, keepdim=True)
    weight = (distance.amin(1, keepdim=True) / distance) ** 65
    direction = (away * weight / weight.sum(1, keepdim=True)).sum(1)
    target = 8 * direction / (direction.norm(dim=1, keepdim=True) + 5)
    # the network's output points to the data
    out = torch.cat([torch.ones(3, 64), torch.full((3, 1), 2.0)], 1)
    torch.testing.assert_close(loss.double(), 0.5 * (out + target).square().sum(1).mean(), rtol=1e-5, atol=0)


def test_the_share_of_every_process_is_the_whole(monkeypatch):
    """Shares [rank::count] weighted by their points give the gradient of the whole batch, also when they are unequal."""
    data, config = load("rings"), TrainConfig(**SMALL | dict(batch=7))
    gradients = []
    for count in (1, 3):
        total = 0
        for rank in range(count):
            run = training._Training(config, data)
            run.team.rank, run.team.count = rank, count
            run.team.apart = lambda module, apart: nullcontext()
            run.optimiser.step = lambda: None
            monkeypatch.setattr(training.nn.utils, "clip_grad_norm_", lambda *rest: None)
            run.flow.network.head.weight.data.normal_(generator=torch.Generator().manual_seed(0))
            run.advance(training._Charges(data, config, run.device))
            total = total + run.flow.network.stem.weight.grad / count  # DDP averages
        gradients.append(total)
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4 * gradients[0].abs().max().item())


def test_classes(tmp_path):
    config = TrainConfig(dataset="digits", conditional=True, width=32, steps=3, run_dir=str(tmp_path))
    trained = train(config, progress=False)
    loaded = training.Model.load(tmp_path)
    labels = [3, 0, 3, 7, 9]
    x = trained.draw(5, steps=4, label=labels, guidance=2.0, seed=1).x
    torch.testing.assert_close(loaded.draw(5, steps=4, label=labels, guidance=2.0, seed=1).x, x, rtol=1e-3, atol=1e-3)
    for k, label in enumerate(labels):  # every sample keeps its start whatever else is drawn
        alone = trained.draw(5, steps=4, label=label, guidance=2.0, seed=1).x[k]
        torch.testing.assert_close(alone, x[k], rtol=1e-3, atol=1e-3)
    assert torch.equal(trained.draw(2, steps=4, label="7").x, trained.draw(2, steps=4, label=7).x)
    everything = trained.draw(2, steps=4).x
    torch.testing.assert_close(trained.draw(2, steps=4, label=1, guidance=0.0).x, everything, rtol=1e-3, atol=1e-3)
    path = trained.draw(3, steps=4, label=[5, 2, 5], path=True).path
    torch.testing.assert_close(path[:, 1], trained.draw(3, steps=4, label=2, path=True).path[:, 1], rtol=1e-3, atol=1e-3)
    for label, word in ((10, "unknown class '10'"), ([1, 2], "list of 5"), ("x", "unknown class 'x'"), (-1, "class '-1'")):
        with pytest.raises(InputError, match=word):
            trained.draw(5, label=label)
    with pytest.raises(InputError, match="knows no classes"):
        train(TrainConfig(**SMALL), progress=False).sample(1, label=0)
    with pytest.raises(InputError, match="conditional needs labels"):
        train(TrainConfig(**SMALL, conditional=True), progress=False)


def test_pictures_while_training(tmp_path):
    train(TrainConfig(**SMALL, run_dir=str(tmp_path), sample_minutes=1e-5), progress=False)
    assert len(list(tmp_path.glob("samples-*.png"))) == 6
    train(TrainConfig(**SMALL, run_dir=str(tmp_path)), progress=False, restart=True)
    assert not list(tmp_path.glob("samples-*.png"))


@pytest.mark.parametrize("how, mode", [("default", None), ("reduce-overhead", "reduce-overhead")])
def test_only_the_network_is_compiled(how, mode, monkeypatch):
    calls = []

    def compiled(function, **options):  # the real one takes a minute on a CPU; results/benchmark is for that
        calls.append((function, options))
        return function

    monkeypatch.setattr(torch, "compile", compiled)
    run = training._Training(TrainConfig(**SMALL, compile=how), load("rings"))
    (function, options), = calls
    assert function.__self__ is run.flow.network and options == dict(mode=mode, dynamic=False)


def test_bfloat16_stays_inside_the_network():
    run = training._Training(TrainConfig(**SMALL, precision="bfloat16"), load("rings"))
    seen = {}
    run.flow.network.stem.register_forward_hook(lambda module, inputs, output: seen.update(out=output.dtype))
    x, s, out = run.flow.ask(torch.randn(3, 2), 0.5)
    assert seen["out"] == torch.bfloat16 and s.dtype == torch.float32
    assert torch.equal(s, run.average.module.ask(torch.randn(3, 2), 0.5)[1].new_tensor(s.tolist()))
    run.average.module.ask(torch.randn(3, 2), 0.5)
    assert all(p.dtype == torch.float32 for p in run.flow.parameters())
    assert "forward" not in run.average.module.network.__dict__  # samples are drawn in single precision


def test_an_official_checkpoint_is_a_model(monkeypatch, tmp_path):
    """The reader of the file has tests of its own; here: which preset, which heights, and that it samples."""
    network = build((3, 32, 32), "cifar10_ncsnpp")
    monkeypatch.setattr(model, "load_official", lambda path: PaperFlow(network, z_max=40.0, z_min=1e-3).eval())
    official = model.Model.load(tmp_path / "checkpoint_5.pth", device="cpu")
    assert official.config.network == "cifar10_ncsnpp" and official.config.objective == "paper"
    assert abs(official.prior.z_max - 40) < 1e-9 and official.z_min == 1e-3
    x = official.sample(1, steps=1)
    assert x.shape == (1, 32, 32, 3) and x.isfinite().all()


def test_the_paper_preset_trains_and_comes_back(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (40, 32, 32, 3), dtype=np.uint8)
    options = dict(width=8, batch=2, n_charges=8, steps=2, device="cpu", run_dir=str(tmp_path))
    trained = fit(images, preset="paper", progress=False, **options)
    loaded = model.Model.load(tmp_path, "cpu")
    assert isinstance(loaded.flow, PaperFlow) and loaded.flow.z_exp == 5
    assert loaded.flow.network.config["embedding"] == "positional"
    torch.testing.assert_close(loaded.draw(1, steps=2).x, trained.draw(1, steps=2).x, rtol=1e-3, atol=1e-3)
    fast = fit(images, preset="fast", network="cifar10_ddpmpp", progress=False, **options | dict(run_dir=""))
    config = fast.flow.network.config
    assert (config["embedding"], config["field"], config["dropout"]) == ("levels", False, 0.0)
