"What we promise: nothing is lost, nothing is misread, nothing damaged is used."
import json
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import pfgm
from pfgm import sources
from pfgm.checkpoint import load_state, load_weights, read_json_lines, save_weights
from pfgm.checks import InputError
from pfgm.config import TrainConfig, configure
from pfgm.data import from_array
from pfgm.features import cached, cached_classifier
from pfgm.heights import kept_heights
from pfgm.jobs import _options, main
from pfgm.model import Model
from pfgm.sources import load
from pfgm.training import train

SMALL = dict(dataset="two_moons", width=16, steps=6, device="cpu")


# Switches

@pytest.mark.parametrize("word", [False, "false", "no", "False", 0, "0", np.bool_(False)])
def test_a_word_for_no_keeps_the_run(tmp_path, word):
    config = TrainConfig(**SMALL, run_dir=str(tmp_path / "run"))
    train(config, progress=False)
    train(replace(config, steps=7), progress=False, restart=word)
    assert [entry["step"] for entry in read_json_lines(tmp_path / "run" / "log.jsonl")] == list(range(1, 8)), "it went on"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_restart_moves_the_old_run_aside(tmp_path, capsys):
    config = TrainConfig(**SMALL, run_dir=str(tmp_path / "run"))
    for count in range(3):
        kept = {path.name: path.read_bytes() for path in (tmp_path / "run").glob("[!.]*")}
        train(config, progress=False, restart="yes")
        if count:
            aside = tmp_path / f"run.{count}"
            assert {path.name: path.read_bytes() for path in aside.iterdir()} == kept
            assert f"'run' is now in '{aside}'" in capsys.readouterr().out
    with pytest.raises(InputError, match="restart is 'maybe'"):
        train(config, restart="maybe")
    assert len([*tmp_path.iterdir()]) == 3


def test_switches_of_the_command_line(tmp_path, capsys):
    for words, value in ((["--flip"], True), (["--flip", "no"], False), (["--flip=false"], False), (["--no-flip"], False),
                         (["--flip=1"], True)):
        assert configure(**_options(words)).flip is value, words
    assert main(["--flip", "perhaps", "--run_dir", str(tmp_path)]) == 1 and "flip is 'perhaps'" in capsys.readouterr().err
    words = [word for name, value in SMALL.items() for word in (f"--{name}", str(value))] + ["--run_dir", str(tmp_path / "a")]
    assert main(words) == 0 and main([*words, "--restart", "false"]) == 0 and not (tmp_path / "a.1").exists()
    assert main([*words, "--restart", "true"]) == 0 and (tmp_path / "a.1" / "network.safetensors").exists()


# Numbers of other libraries

def test_numbers_of_other_libraries_are_kept_as_plain_ones(tmp_path):
    odd = dict(lr=np.float64(1e-4), steps=np.int64(6), batch=torch.tensor(16), width=32.0, flip=np.bool_(False),
               D=np.float32(2), seed=np.uint8(3), clip=np.float16(1), run_dir=tmp_path / "run")
    usual = dict(lr=1e-4, steps=6, batch=16, width=32, D=2.0, seed=3, run_dir=str(tmp_path / "run"))
    config = TrainConfig(**SMALL | odd)
    assert config == TrainConfig(**SMALL | usual)
    train(config, progress=False)
    assert train(replace(config, steps=8), progress=False).config.lr == 1e-4
    for wrong in (dict(width=32.5), dict(steps="many"), dict(seed=2 ** 70), dict(lr=np.nan), dict(batch=np.array([3, 4]))):
        with pytest.raises(InputError, match=f"^{next(iter(wrong))} is"):
            TrainConfig(**SMALL | wrong)


# Classes

@pytest.fixture(scope="module")
def named():
    "A model whose classes are called 1, 2 and 3."
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    data = from_array(x, labels=[1 + k % 3 for k in range(60)])
    return pfgm.fit(data, conditional=True, width=16, steps=60, lr=0.01, progress=False)


@pytest.mark.parametrize("label", [1, "1", 1.0, np.int64(1), torch.tensor(1), [1, 1, 1], ["1"] * 3, np.array([1, 1, 1])])
def test_a_name_wins_whatever_its_type(named, label):
    assert named.data.classes == ["1", "2", "3"]
    first = named.draw(3, label_index=0).x
    assert torch.equal(named.draw(3, label=label).x, first) and not torch.equal(named.draw(3, label=3).x, first)


@pytest.mark.parametrize("options, words", [
    (dict(label=0), "unknown class '0'"), (dict(label=True), "unknown class 'True'"), (dict(label=-1), "unknown class '-1'"),
    (dict(label=""), "unknown class ''"), (dict(label=[1, 2]), "list of 3"), (dict(label_index=3), "from 0 to 2"),
    (dict(label_index=True), "from 0 to 2"), (dict(label_index=0.5), "from 0 to 2"),
    (dict(label=1, label_index=0), "give one of them"),
    (dict(guidance=2.0), "say which with label"), (dict(label=1, guidance=float("nan")), "guidance is nan"),
    (dict(seed=2 ** 70), "seed is"), (dict(seed=-1), "seed is")])
def test_classes_that_are_none(named, options, words):
    with pytest.raises(InputError, match=words):
        named.draw(3, **options)


def test_counts_that_are_none(named):
    assert named.sample(3.0).shape == named.sample(np.int64(3)).shape == (3, 2)
    for wrong in (0, -1, 2.5, None, "3"):
        with pytest.raises(InputError, match="^n is"):
            named.sample(wrong)


# Damage

@pytest.mark.parametrize("part", [0.2, 0.4, 0.6, 0.8, 0.99])
@pytest.mark.parametrize("kind", ["bit", "zeros"])
def test_a_damaged_network_is_refused(named, tmp_path, part, kind):
    named.save(tmp_path)
    path = tmp_path / "network.safetensors"
    whole = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(whole[:8], "little")
    place = header + int(part * (len(whole) - header))
    if kind == "bit":
        whole[place] ^= 4
    else:
        whole[place:place + 64] = bytes(64 - max(0, place + 64 - len(whole)))
    if whole == path.read_bytes():
        pytest.skip("zeros stood there before")
    path.write_bytes(whole)
    with pytest.raises(InputError, match="is damaged"):
        Model.load(tmp_path)


# What fit takes, the others take

@pytest.mark.parametrize("dtype", ["bool", ">f4", ">i2", "uint16", "float16", "int8", "float64"])
def test_what_fit_takes_encode_and_likelihood_take(dtype):
    values = np.random.default_rng(0).integers(0, 2, (40, 3))
    values[:2] = [[0, 0, 0], [1, 1, 1]]
    model = pfgm.fit(values.astype(dtype), width=16, steps=3, progress=False)
    for x in (values[:2].astype(dtype), values[:2].astype(dtype)[::-1]):
        plain = x.astype(np.float64)
        assert torch.equal(model.encode(x, steps=2).x, model.encode(plain, steps=2).x)
        assert torch.equal(model.log_likelihood(x, rtol=0.1, atol=0.1), model.log_likelihood(plain, rtol=0.1, atol=0.1))


def test_a_series_comes_back_as_a_series():
    model = pfgm.fit(np.linspace(3, 5, 40), width=16, steps=3, progress=False)
    assert model.sample(7, steps=2).shape == (7,) and model.log_likelihood([4.0, 4.5], rtol=0.1, atol=0.1).shape == (2,)


def test_a_mask_is_never_ignored():
    x = np.ma.masked_greater(np.random.default_rng(0).normal(size=(40, 3)), 1)
    with pytest.raises(InputError, match="masked"):
        pfgm.fit(x, steps=1)
    assert from_array(np.ma.array(x.data)).shape == (3,)


def test_data_sets_of_torch():
    x, y = torch.randn(40, 3), torch.arange(40) % 4
    pairs = torch.utils.data.TensorDataset(x, y)
    assert pfgm.fit(pairs, conditional=True, width=16, steps=2, progress=False).sample(4, label=2, steps=2).shape == (4, 3)
    with pytest.raises(InputError, match="loader.dataset"):
        pfgm.fit(torch.utils.data.DataLoader(pairs, 4), steps=1)
    three = torch.utils.data.TensorDataset(x, y, y)
    with pytest.raises(InputError, match="points with one label"):
        pfgm.fit(three, steps=1)


def test_two_points_are_too_few_and_the_sentence_is_true():
    with pytest.raises(InputError, match="one data point is left to learn from"):
        pfgm.fit(np.eye(2), steps=1)


def spoil(part, name, value):
    def change(state):
        (state if part is None else state[part])[name] = value
    return change


def no_number(state):
    next(each for name, each in state["average"].items() if "weight" in name).flatten()[0] = float("nan")


def no_moment(state):
    state["optimiser"]["state"].pop(0)


def half_a_moment(state):
    state["optimiser"]["state"][1].pop("exp_avg_sq")


@pytest.mark.parametrize("change, words", [
    (no_moment, "has the moments of 41 tensors, not of 42"), (half_a_moment, "has the moments of 41 tensors, not of 42"),
    (spoil("optimiser", "state", {}), "has the moments of 0 tensors, not of 42"),
    (spoil("optimiser", "param_groups", None), "its optimiser holds no moments"),
    (lambda state: state.pop("optimiser"), "it lacks optimiser"), (lambda state: state.pop("average"), "it lacks average"),
    (lambda state: state["optimiser"]["state"][0]["exp_avg"].fill_(float("inf")), "its optimiser holds numbers that are not"),
    (spoil(None, "step", -5), "step is -5"), (spoil(None, "step", float("nan")), "step is nan"),
    (spoil(None, "step", 310.5), "step is 310.5"), (spoil(None, "step", 10 ** 9), "1000000000, that of its optimiser 6"),
    (spoil(None, "seconds", "long"), "'long' seconds"), (spoil(None, "seconds", -1.0), "-1.0 seconds"),
    (spoil(None, "config", [1]), "configuration is [1]"), (no_number, "average holds numbers that are not finite")])
def test_a_state_that_makes_no_sense_is_named_and_the_one_before_it_is_used(tmp_path, change, words, capsys):
    config = TrainConfig(**SMALL, run_dir=str(tmp_path))
    train(replace(config, steps=3), progress=False)
    train(config, progress=False)
    assert (tmp_path / "state-1.pt").exists()
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    change(state)
    torch.save(state, tmp_path / "state.pt")
    assert load_state(tmp_path)["step"] == 3 and words in capsys.readouterr().out
    train(config, progress=False)
    assert load_state(tmp_path)["step"] == 6


def test_moments_of_another_shape_are_refused(tmp_path):
    config = TrainConfig(**SMALL, run_dir=str(tmp_path))
    train(config, progress=False)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    state["optimiser"]["state"][0]["exp_avg"] = torch.zeros(3, 5)
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(InputError, match="does not fit this version"):
        train(replace(config, steps=8), progress=False)


KEPT = ["state.pt", "network.safetensors", "log.jsonl", "summary.json", "samples.png", "heights.json"]


@pytest.mark.parametrize("name", KEPT)
def test_a_folder_in_the_place_of_a_file(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=f"{name}' is a folder"):
        train(TrainConfig(**SMALL, run_dir=str(tmp_path)), progress=False)


@pytest.mark.parametrize("line", [b"[1, 2]", b"7", b'{"step": "x"}', bytes(range(128, 200)), b"{", b'{"loss": 1}',
                                  b"[" * 10 ** 5])
def test_a_log_with_foreign_lines_is_read_up_to_them(tmp_path, line):
    config = TrainConfig(**SMALL, run_dir=str(tmp_path))
    train(replace(config, steps=3), progress=False)
    with open(tmp_path / "log.jsonl", "ab") as log:
        log.write(line + b"\n")
    train(config, progress=False)
    assert [entry["step"] for entry in read_json_lines(tmp_path / "log.jsonl")] == list(range(1, 7))


@pytest.mark.parametrize("content", ["[]", "3", "null", "words", '{"flow": 1}', "wrong", "short"])
def test_kept_heights_that_are_none_are_found_anew(named, tmp_path, content):
    file, ask = tmp_path / "heights.json", (named.flow, named.prior, 4, "unipc", named.z_min)
    right = kept_heights(file, *ask)
    known = json.loads(file.read_text())
    key = next(name for name in known if name != "flow")
    known[key] = known[key][::-1] if content == "wrong" else known[key][:-1]
    file.write_text(json.dumps(known) if content in ("wrong", "short") else content)
    torch.testing.assert_close(kept_heights(file, *ask), right)


def test_heights_that_cannot_be_written_are_found_and_a_line_says_so(named, tmp_path, capsys):
    (tmp_path / "heights.json").mkdir()
    found = kept_heights(tmp_path / "heights.json", named.flow, named.prior, 3, "unipc", named.z_min)
    assert found.shape == (4,) and "cannot be written (Is a directory)" in capsys.readouterr().out


FOREIGN = [("[1]", "is no list of names"), ("words", "cannot be read"), ("{}", "is not a pfgm model"),
           ("[" * 10 ** 5, "cannot be read")]


@pytest.mark.parametrize("text, words", FOREIGN, ids=["list", "words", "empty", "deep"])
def test_a_network_with_a_foreign_description_is_refused(tmp_path, text, words):
    save_file({"x": torch.ones(2)}, tmp_path / "network.safetensors", metadata={"config": text})
    with pytest.raises(InputError, match=words):
        Model.load(tmp_path)


@pytest.mark.parametrize("change", [
    dict(train=[1]), dict(train={"who": 1}), dict(train={"D": "x"}), dict(network={"network": "mlp"}), dict(network=3),
    dict(sigma_data="wide"), dict(data={"name": "x"}), dict(data=[]),
    dict(data=dict(name="x", shape=[5], layout="", classes=None))])
def test_a_network_whose_description_makes_no_sense_is_refused(named, tmp_path, change):
    named.save(tmp_path)
    weights, about = load_weights(tmp_path / "network.safetensors")
    save_weights(tmp_path / "network.safetensors", weights, about | change)
    with pytest.raises(InputError) as error:
        Model.load(tmp_path)
    assert "holds no network of this version" in str(error.value) and "\n" not in str(error.value)


def test_a_changed_description_is_damage(named, tmp_path):
    named.save(tmp_path)
    path = tmp_path / "network.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'\\"s_max\\": 80.0', b'\\"s_max\\": 90.0'))
    assert path.read_bytes() != whole
    with pytest.raises(InputError, match="is damaged"):
        Model.load(tmp_path)


@pytest.mark.parametrize("kind", ["folder", "shape", "pickle", "header", "empty", "no tensor x"])
def test_a_cache_that_is_none_is_made_anew(tmp_path, kind, capsys):
    path, right = tmp_path / "x.safetensors", torch.ones(3, 2)
    promise = json.dumps({"x": dict(dtype="F32", shape=[10 ** 6, 10 ** 6], data_offsets=[0, 4 * 10 ** 12])}).encode()
    {"folder": path.mkdir, "shape": lambda: save_weights(path, {"x": torch.zeros(4, 2)}, {}),
     "pickle": lambda: path.write_bytes(pickle.dumps([1])), "empty": path.touch,
     "header": lambda: path.write_bytes(len(promise).to_bytes(8, "little") + promise),
     "no tensor x": lambda: save_weights(path, {"y": right}, {})}[kind]()
    assert cached(path, lambda: right, (3, 2)).equal(right)
    if kind == "folder":
        assert "cannot be written" in capsys.readouterr().out
    else:
        assert cached(path, lambda: 1 / 0, (3,)).equal(right)


def test_a_damaged_classifier_is_trained_anew(tmp_path):
    x, labels = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2
    first = cached_classifier(tmp_path, x, labels, 3)
    path, = tmp_path.glob("classifier-*")
    for content in (b"", path.read_bytes()[:-9], pickle.dumps([1])):
        path.write_bytes(content)
        assert torch.equal(cached_classifier(tmp_path, x, labels, 3).features(x), first.features(x))
    save_weights(path, {"y": torch.ones(2)}, {"who": 1})
    assert torch.equal(cached_classifier(tmp_path, x, labels, 3).features(x), first.features(x))


@pytest.mark.parametrize("kind", ["empty", "words", "cut", "shape", "type", "header", "folder"])
def test_a_damaged_file_of_images_is_made_anew(tmp_path, monkeypatch, kind):
    for k in range(4):
        Image.new("L", (8, 8), 20 * k).save(tmp_path / f"{k}.png")
    monkeypatch.setattr(sources, "LARGE", 0)
    first = load(tmp_path, data_dir=tmp_path / "kept").train.clone()
    path, = (tmp_path / "kept").glob("images-*.npy")
    whole = path.read_bytes()
    if kind == "folder":
        path.unlink()
        path.mkdir()
        with pytest.raises(InputError, match="is a folder, where a file of images is kept"):
            load(tmp_path, data_dir=tmp_path / "kept")
        return
    ways = dict(empty=b"", words=b"words", cut=whole[:-40], header=whole.replace(b"(4, 1, 8, 8)", b"(9**9,9,9,9)"))
    np.save(path, np.zeros((4, 1, 8, 9), np.uint8) if kind == "shape" else np.zeros((4, 1, 8, 8), np.int8))
    if kind in ways:
        path.write_bytes(ways[kind])
    assert torch.equal(load(tmp_path, data_dir=tmp_path / "kept").train, first) and path.read_bytes() == whole


# Two at once, and an end from outside

RUN = "import sys, pfgm.training as t, pfgm.config as c; t.train(c.TrainConfig(dataset='two_moons', width=16, minutes=5, " \
      "save_minutes=0.001, run_dir=sys.argv[1], device='cpu'), progress=False)"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_the_second_run_in_a_folder_is_refused_and_the_lock_dies_with_its_owner(tmp_path, number):
    child = subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path)], stderr=subprocess.PIPE)
    while not (tmp_path / "state.pt").exists():
        assert child.poll() is None
        time.sleep(0.05)
    config = TrainConfig(dataset="two_moons", width=16, minutes=5, run_dir=str(tmp_path), device="cpu")
    for restart in (False, True):
        with pytest.raises(InputError, match="another run is training into"):
            train(config, progress=False, restart=restart)
    child.send_signal(number)
    child.wait(60)
    child.stderr.close()
    before = load_state(tmp_path)["step"]
    train(replace(config, steps=before + 2), progress=False)
    assert load_state(tmp_path)["step"] == before + 2 and before > 0
