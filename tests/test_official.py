"""Official checkpoints: read for all five configurations, by their averaged weights, without running anything in the file.

`tests/official_keys/` lists the tensors of each configuration as the public code makes them. With PFGM_OFFICIAL=<checkout of
github.com/Newbeeer/Poisson_flow> the public code itself is the judge of the answers (about 2 minutes; no GPU needed).
"""
import ast
import functools
import importlib
import io
import math
import os
import pickle
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from pfgm import ode
from pfgm.checkpoint import _official_names, load_official, save_state
from pfgm.checks import InputError
from pfgm.flow import PaperFlow
from pfgm.networks import PAPER, PRESETS, build, count_parameters
from pfgm.prior import Hemisphere

KEYS = Path(__file__).parent / "official_keys"
COUNTS = dict(cifar10_ddpmpp=61_805_572, cifar10_ddpmpp_deep=106_633_732, cifar10_ncsnpp=62_759_940,
              celeba64_ddpmpp=61_805_572, bedroom_ddpmpp=124_076_292)
SIDES = {name: 32 if name == "bedroom_ddpmpp" else 16 for name in PRESETS}  # that every network can halve often enough


@functools.cache
def shapes(preset: str) -> dict:
    lines = (KEYS / f"{preset}.txt").read_text().splitlines()
    return {name: ast.literal_eval(shape) for name, shape in (line.split("\t") for line in lines)}


def trained(preset: str) -> list:
    fixed = {"module.sigmas"} | ({"module.all_modules.0.W"} if preset == "cifar10_ncsnpp" else set())
    return [name for name in shapes(preset) if name not in fixed]


def official(preset: str, seed: int = 0) -> dict:
    "A checkpoint with the official names and shapes; all tensors are views of a few million random numbers."
    generator = torch.Generator().manual_seed(seed)
    pool = 0.03 * torch.randn(5_000_000, generator=generator)
    gains = 1 + 0.1 * torch.randn(2_000, generator=generator)

    def draw(name: str, k: int) -> torch.Tensor:
        shape = shapes(preset)[name]
        source = gains if len(shape) == 1 and name.endswith("weight") else pool
        start = 7919 * k % (len(source) - math.prod(shape))
        return source[start:start + math.prod(shape)].view(shape)

    model = {name: draw(name, k) for k, name in enumerate(shapes(preset))}
    ema = [draw(name, 1000 + k) for k, name in enumerate(trained(preset))]
    lr = 2e-4 * np.minimum(5 / 5000, 1.0)                              # a NumPy number, as the official code leaves it
    return dict(optimizer=dict(state={}, param_groups=[dict(lr=lr, params=[0])]), model=model,
                ema=dict(decay=0.9999, num_updates=5, shadow_params=ema), step=5)


def answer(flow: PaperFlow, preset: str) -> tuple:
    x = torch.randn(1, 3, SIDES[preset], SIDES[preset], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return flow.field(x, 0.7)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_configuration_is_recognised_and_its_moving_average_counts(preset, tmp_path):
    state, path = official(preset), tmp_path / "checkpoint_5.pth"
    torch.save(state, path)
    flow = load_official(path)
    assert flow.network.config == build(PRESETS[preset]["shape"], preset).config and not flow.network.training
    assert count_parameters(flow.network) == COUNTS[preset]
    assert {name: getattr(flow, name) for name in PAPER[preset]} == PAPER[preset]
    v_x, v_z = answer(flow, preset)
    assert v_x.isfinite().all() and v_z.isfinite().all() and v_x.std() > 1e-3

    other = official(preset, seed=2)["model"]
    fixed = {name: tensor for name, tensor in state["model"].items() if name not in trained(preset)}
    torch.save(state | dict(model=other | fixed), path)
    again = answer(load_official(path), preset)
    assert torch.equal(again[0], v_x) and torch.equal(again[1], v_z)


@pytest.mark.parametrize("preset", PRESETS)
def test_our_list_of_official_tensors_is_theirs(preset):
    with torch.device("meta"):
        names = _official_names(build(PRESETS[preset]["shape"], preset))
    listed = [f"module.{name}" for theirs in names.values() for name in theirs]
    assert sorted(listed) == sorted(set(shapes(preset)) - {"module.sigmas"})


def test_the_five_can_be_told_apart():
    assert len({frozenset(shapes(preset).items()) for preset in PRESETS}) == 5


def test_each_tensor_goes_where_it_belongs(tmp_path):
    torch.save(official("cifar10_ncsnpp"), tmp_path / "file.pth")
    network = load_official(tmp_path / "file.pth").network
    state = official("cifar10_ncsnpp")
    ema = dict(zip(trained("cifar10_ncsnpp"), state["ema"]["shadow_params"]))
    theirs = lambda name: ema[f"module.all_modules.{name}"]
    assert torch.equal(network.embed.frequencies, state["model"]["module.all_modules.0.W"])
    assert torch.equal(network.embed.layers[2].weight, theirs("2.weight"))
    assert torch.equal(network.head.bias, state["ema"]["shadow_params"][-1])
    assert torch.equal(network.pyramid[0].conv.weight, theirs("9.Conv2d_0.weight"))
    qkv = torch.cat([theirs(f"11.NIN_{k}.W") for k in range(3)], 1)      # y = x W + b, with the channels of x in a row
    x = torch.randn(5, 256, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(x @ network.down[1][0].attention.qkv.weight[..., 0, 0].T, x @ qkv)


def test_it_samples(tmp_path):
    torch.save(official("cifar10_ddpmpp"), tmp_path / "file.pth")
    flow = load_official(tmp_path / "file.pth")
    drawn = ode.sample(flow, Hemisphere((3, 16, 16), 100.0), 2, steps=3, z_min=flow.z_min)
    assert drawn.x.isfinite().all()


# -- faults: one clear sentence each ---------------------------------------------------------------------------------------

def flat(preset: str = "cifar10_ddpmpp") -> dict:
    "A checkpoint in a few hundred kilobytes: every tensor is one zero seen many times."
    state = official(preset)
    zero = lambda tensor: torch.zeros(1).expand(tensor.shape)
    state["model"] = {name: zero(tensor) for name, tensor in state["model"].items()}
    state["ema"]["shadow_params"] = [zero(tensor) for tensor in state["ema"]["shadow_params"]]
    return state


def refusal(path) -> str:
    with pytest.raises(InputError) as error:
        load_official(path)
    assert "\n" not in str(error.value) and (str(path) in str(error.value))
    return str(error.value)


def test_flat_files_are_read(tmp_path):
    torch.save(flat(), tmp_path / "file.pth")
    load_official(tmp_path / "file.pth")


def test_files_that_are_not_whole(tmp_path):
    path = tmp_path / "checkpoint_5.pth"
    assert "there is no checkpoint" in refusal(path)
    torch.save(flat(), path)
    whole = path.read_bytes()
    place = whole.index(b"shadow_params")
    changed = whole[:place] + b"?" + whole[place + 1:]
    for damaged in (whole[:-20], whole[:len(whole) // 2], changed, b"", b"hello", pickle.dumps({})):
        path.write_bytes(damaged)
        assert "not a whole checkpoint" in refusal(path)
    torch.save({"model": {}}, path, _use_new_zipfile_serialization=False)
    assert "not a whole checkpoint" in refusal(path)


def test_foreign_files(tmp_path):
    path = tmp_path / "file.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "hello")
    assert "torch.save did not write" in refusal(path)
    for foreign in ([1, 2], {"model": {}}, {"model": {}, "ema": {}}, {"model": {"a": 1}, "ema": {"shadow_params": []}},
                    {"model": {}, "ema": {"shadow_params": [1.0]}}, torch.zeros(3)):
        torch.save(foreign, path)
        assert "not a checkpoint of the official PFGM code" in refusal(path)
    save_state(tmp_path, {"step": 3, "model": torch.zeros(2)})
    assert "not a checkpoint of the official PFGM code" in refusal(tmp_path / "state.pt")


def test_tensors_of_another_network(tmp_path):
    path, name = tmp_path / "file.pth", "module.all_modules.54.bias"
    for change in (lambda model: model.pop(name), lambda model: model.update({name: torch.zeros(3)}),
                   lambda model: model.update(more=torch.zeros(3)), lambda model: model.clear()):
        state = flat()
        change(state["model"])
        torch.save(state, path)
        assert "are not those of cifar10_ddpmpp or cifar10_ddpmpp_deep or" in refusal(path)


def test_a_moving_average_that_does_not_fit(tmp_path):
    path = tmp_path / "file.pth"
    for change in (lambda ema: ema.pop(), lambda ema: ema.append(torch.zeros(4)), lambda ema: ema.reverse()):
        state = flat("cifar10_ncsnpp")
        change(state["ema"]["shadow_params"])
        torch.save(state, path)
        assert "do not match the 570 trained ones of cifar10_ncsnpp" in refusal(path)


class Trap:
    "Unpickled by an ordinary loader, it makes a file."

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("place", ["optimizer", "ema", "step"])
def test_a_file_that_would_run_code_is_refused_and_does_not(place, tmp_path):
    torch.save(flat() | {place: Trap(tmp_path / "sprung")}, tmp_path / "file.pth")
    assert "asks to run code" in refusal(tmp_path / "file.pth") and not (tmp_path / "sprung").exists()


def test_numpy_numbers_are_passed_over_and_nothing_stays_allowed(tmp_path):
    before = torch.serialization.get_safe_globals()
    state = flat()
    state["optimizer"]["param_groups"][0]["lr"] = np.array(Trap(tmp_path / "sprung"), dtype=object)  # a trap in an array
    torch.save(state, tmp_path / "file.pth")
    assert "asks to run code" in refusal(tmp_path / "file.pth") and not (tmp_path / "sprung").exists()
    assert set(torch.serialization.get_safe_globals()) == set(before)
    buffer = io.BytesIO()
    torch.save(flat(), buffer)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)


# -- the judge: the public code itself, given the same tensors -------------------------------------------------------------

def their_network(preset: str) -> torch.nn.Module:
    "The public network on a CPU: only its native filter, and stand-ins for what the network does not need."
    checkout = Path(os.environ["PFGM_OFFICIAL"])

    class ConfigDict(dict):
        __getattr__, __setattr__ = dict.__getitem__, dict.__setitem__

    tree = ast.parse((checkout / "op" / "upfirdn2d.py").read_text())
    native = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "upfirdn2d_native")
    scope = dict(torch=torch, F=torch.nn.functional)
    exec(compile(ast.Module([native], []), "upfirdn2d", "exec"), scope)
    filtered = lambda x, kernel, up=1, down=1, pad=(0, 0): scope["upfirdn2d_native"](
        x, kernel, up, up, down, down, pad[0], pad[1], pad[0], pad[1])
    for name, content in (("op", dict(upfirdn2d=filtered)), ("methods", {}), ("ml_collections", dict(ConfigDict=ConfigDict))):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__dict__.update(content)
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    config = importlib.import_module(f"configs.poisson.{preset}").get_config()
    return importlib.import_module("models.ncsnpp").NCSNpp(config).eval()


@pytest.mark.skipif("PFGM_OFFICIAL" not in os.environ, reason="PFGM_OFFICIAL does not name a checkout of the public code")
@pytest.mark.parametrize("preset", PRESETS)
def test_same_answers_as_the_public_code(preset, tmp_path):
    theirs, generator = their_network(preset), torch.Generator().manual_seed(0)
    for name, p in theirs.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        fan = p.shape[0] if "NIN" in name else p[0].numel()
        p.data = noise * fan ** -0.5 if p.dim() > 1 else p.data + 0.1 * noise if p.requires_grad else p.data
    model = {f"module.{name}": tensor if name.endswith("0.W") else torch.zeros_like(tensor)
             for name, tensor in theirs.state_dict().items()}
    assert {name: tuple(tensor.shape) for name, tensor in model.items()} == shapes(preset)
    ema = [p.data for p in theirs.parameters() if p.requires_grad]
    torch.save(dict(model=model, ema=dict(shadow_params=ema), step=1), tmp_path / "checkpoint_1.pth")
    flow = load_official(tmp_path / "checkpoint_1.pth")
    (tmp_path / "checkpoint_1.pth").unlink()
    heights = torch.tensor([1e-3, 0.5, 900.0] if preset == "bedroom_ddpmpp" else [1e-3, 0.02, 0.5, 7.0, 40.0, 150.0, 900.0])
    points = torch.randn(len(heights), *PRESETS[preset]["shape"], generator=generator) * (0.5 + heights)[:, None, None, None]
    with torch.no_grad():
        for x, z in zip(points.split(1), heights.split(1)):
            field_x, field_z = theirs(x, z)
            v_x, v_z = flow.field(x.double(), z.double())
            off_x = ((-v_x - field_x).norm() / field_x.norm()).item()
            off_z = ((-v_z - field_z).abs() / (field_x.norm() ** 2 + field_z ** 2).sqrt()).item()
            print(f"{preset} z {z.item():g}: {off_x:.1e} {off_z:.1e} (field {field_x.std():.2f}, {field_z.item():.3f})")
            assert off_x < 1e-5 and off_z < 1e-5
