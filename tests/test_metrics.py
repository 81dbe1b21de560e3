"Metrics: agreement with torch-fidelity, edge cases, the whole Inception path, evaluate.ipynb on files, folders and networks."
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
import torch_fidelity
from PIL import Image
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from pfgm import features as F
from pfgm import metrics as M
from pfgm.checks import InputError
from pfgm.data import Data, from_array
from pfgm.config import TrainConfig
from pfgm.sources import load
from pfgm.training import train

NOTEBOOK = Path(__file__).parent.parent / "nbs" / "evaluate.ipynb"


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made_features(n, k, seed, shift=0.0):
    "Correlated, of very different variances, off the origin."
    return normal(n, k, seed=seed) @ (normal(k, k, seed=9) * torch.logspace(0, -2, k, dtype=torch.float64)) + 1 + shift


# Agreement with the library

@pytest.mark.parametrize(("n", "k", "shift"), [(400, 8, 0.1), (500, 64, 0.0), (900, 200, 0.3)])
def test_frechet_distance_of_the_library(n, k, shift):
    a, b = made_features(n, k, 1, shift), 1.1 * made_features(n + 37, k, 2)
    theirs = fid_statistics_to_metric(fid_features_to_statistics(a), fid_features_to_statistics(b), False)
    assert M.frechet_distance(a, b) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)


def test_kernel_distance_of_the_library():
    a, b = made_features(300, 32, 1, 0.2), made_features(300, 32, 2)
    theirs = kid_features_to_metric(a, b, kid_subsets=1, kid_subset_size=300, verbose=False)
    assert M.kernel_distance(a, b) == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-6)


@pytest.mark.parametrize("neighbours", [1, 3, 5])
def test_precision_and_recall_of_the_library(neighbours):
    a, b = made_features(1500, 8, 1, 0.2), 0.7 * made_features(1300, 8, 2)
    theirs = prc_features_to_metric(a, b, prc_neighborhood=neighbours, verbose=False)
    assert M.precision_recall(a, b, neighbours) == pytest.approx((theirs["precision"], theirs["recall"]), abs=1e-6)


def test_inception_score_of_the_library():
    logits = 3 * normal(500, 12)
    theirs = isc_features_to_metric(logits, splits=1)["inception_score_mean"]
    assert M.inception_score(logits) == pytest.approx(theirs, rel=1e-6)


# Fréchet distance where roots are delicate

def test_fewer_points_than_features_and_singular_covariances():
    flat = normal(50, 3) @ normal(3, 40, seed=1)                # 50 points in a space of three dimensions
    expected = (flat.var(0).sum() + flat.mean(0).square().sum()).item()
    assert M.frechet_distance(flat, 2 * flat) == pytest.approx(expected, rel=1e-12)
    line, other = torch.zeros(2, 20, 5, dtype=torch.float64)
    line[:, 0], other[:, 1] = normal(20), normal(20, seed=3)    # at right angles: nothing in common
    expected = line.var() * 0 + line[:, 0].var() + other[:, 1].var() + (line[:, 0].mean() ** 2 + other[:, 1].mean() ** 2)
    assert M.frechet_distance(line, other) == pytest.approx(expected.item(), rel=1e-12)
    assert M.frechet_distance(torch.ones(5, 3), torch.zeros(9, 3)) == pytest.approx(3)


def test_frechet_distance_keeps_its_digits():
    a = 1e3 + 1e-3 * normal(200, 4)
    assert M.frechet_distance(a, a + 1e-3) == pytest.approx(4e-6, rel=1e-6)
    assert abs(M.frechet_distance(a, a)) < 1e-15


@pytest.mark.parametrize("measure", [M.frechet_distance, M.kernel_distance, M.precision_recall, M.compare])
def test_shapes_that_do_not_fit_are_refused(measure):
    for a, b in ((normal(20, 3), normal(20, 4)), (normal(20), normal(20, 1)), (normal(1, 3), normal(20, 3))):
        with pytest.raises(InputError):
            measure(a, b)


def test_kernel_distance_is_unbiased_where_the_biased_one_is_not():
    found = torch.tensor([M.kernel_distance(normal(10, 4, seed=s), normal(10, 4, seed=1000 + s)) for s in range(400)])
    assert found.mean().abs() < 4 * found.std() / 20 and found.min() < 0


# Error bars and comparison

def test_error_bar_of_a_mean():
    x = normal(201)
    bar = M.standard_errors(lambda index: x[index].mean()[None], 201, 2000, torch.Generator().manual_seed(0))
    assert bar.item() == pytest.approx((x.std() / 201 ** 0.5).item(), rel=0.06)


def test_compare_is_repeatable_and_says_its_sizes():
    a, b = made_features(60, 5, 1), made_features(90, 5, 2)
    once, again = M.compare(a, b, resamples=5), M.compare(a, b, resamples=5)
    assert once == again and (once["n"], once["n_reference"], once["n_pairs"]) == (60, 90, 60)
    assert once["frechet"][0] == pytest.approx(M.frechet_distance(a, b)) and "score" not in once
    few = M.compare(a, b, lambda features: features, resamples=5, largest=30)
    assert few["n_pairs"] == 30 and few["score"][0] == pytest.approx(M.inception_score(a))


# Copies

def test_distance_of_a_copy_is_zero_far_from_the_origin():
    train = normal(300, 64).float() + 1000
    assert M.nearest_distance(train[5:40], train).max() == 0
    distance, index = M.nearest(train[[7, 3]] + 1e-3, train)
    assert index.tolist() == [7, 3] and distance.max() < 0.02


def test_copying():
    train, held_out, fresh = normal(500, 6), normal(300, 6, seed=1), normal(400, 6, seed=2)
    honest = M.copying(fresh, train, held_out)
    assert honest["passed"] and honest["n"] == 400 and honest["n_held_out"] == 300 and honest["share"] < honest["bound"] < 0.06
    caught = M.copying(torch.cat([fresh[:360], train[:40]]), train, held_out)
    assert not caught["passed"] and caught["share"] >= 0.1


def test_copying_where_real_data_repeat_themselves():
    train = normal(200, 3)
    held_out = torch.cat([normal(150, 3, seed=1), train[:50]])
    assert M.copying(torch.cat([normal(150, 3, seed=2), train[50:100]]), train, held_out)["passed"]
    assert not M.copying(train, train, held_out)["passed"]


# Classifier and cache

def test_classifier_is_repeatable_and_leaves_random_numbers_alone(tmp_path):
    x, labels = normal(200, 5).float(), torch.arange(200) % 2
    x[:, 2] += 4 * labels
    torch.manual_seed(3)
    before = torch.get_rng_state()
    network = F.cached_classifier(tmp_path, x, labels, steps=60)
    assert torch.get_rng_state().equal(before)
    assert network.accuracy(x, labels) > 0.95 and network.features(x).shape == (200, 64)
    file, = tmp_path.iterdir()
    changed = file.stat().st_mtime_ns
    again = F.cached_classifier(tmp_path, x, labels.numpy(), steps=60)
    assert again.features(x).equal(network.features(x)) and file.stat().st_mtime_ns == changed
    assert F.train_classifier(x, labels, steps=60).features(x).equal(network.features(x))
    F.cached_classifier(tmp_path, x, 1 - labels, steps=2)
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(InputError, match="at least two classes"):
        F.train_classifier(x, torch.zeros(200), steps=1)
    with pytest.raises(InputError, match="one label"):
        F.train_classifier(x, labels[:-1], steps=1)


def test_cache_is_whole_or_not_there(tmp_path):
    with pytest.raises(ZeroDivisionError):
        F.cached(tmp_path / "x.safetensors", lambda: 1 / 0)
    assert not list(tmp_path.iterdir())
    (tmp_path / "x.safetensors").write_bytes(pickle.dumps([1]))
    assert F.cached(tmp_path / "x.safetensors", lambda: torch.ones(3)).tolist() == [1, 1, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_hash_sees_values_order_shape_and_type():
    x = torch.arange(6.0)
    others = [x + 1, x.flip(0), x.view(2, 3), x.double(), x.int()]
    assert len({F.content_hash(other) for other in [x, *others]}) == 6
    assert F.content_hash(x, "a") != F.content_hash(x, "b") and F.content_hash(x) == F.content_hash(x.clone())


# Inception, with random weights: what is tested is everything but the 95 MB that have to be downloaded

@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    "A file in torch-fidelity's format."
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    patch = pytest.MonkeyPatch()
    torch.manual_seed(0)
    patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
    patch.setattr(torch, "load", lambda *args, **kwargs: None)
    state = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], "none").state_dict()
    patch.undo()
    torch.save({name: 2 * x if name.endswith("conv.weight") else x for name, x in state.items()}, path)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    "A folder of 12 small colour images and one of 8."
    folder = tmp_path_factory.mktemp("pictures")
    for name, count in (("real", 12), ("made", 8)):
        (folder / name).mkdir()
        for k in range(count):
            pixels = np.random.default_rng(k + 100 * (name == "made")).integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((16, 16)).save(folder / name / f"{k:02}.png")
    return folder


def test_inception_as_in_the_library(weights):
    images = (normal(16, 3, 12, 12) / 2).clamp(-1, 1).float()
    network = F.Inception(str(weights))
    a, b = network.features(images[:8]), network.features(images[8:])
    bytes_ = ((images + 1) * 127.5).round().byte()
    theirs = torch_fidelity.calculate_metrics(
        input1=Images(bytes_[:8]), input2=Images(bytes_[8:]), fid=True, kid=True, isc=True, prc=True, cuda=False, cache=False,
        kid_subsets=1, kid_subset_size=8, isc_splits=1, verbose=False, save_cpu_ram=True,  # the last: no worker processes
        feature_extractor="inception-v3-compat", feature_extractor_weights_path=str(weights))
    assert a.shape == (8, 2048) and a.std() > 1e-3
    scale = theirs["frechet_inception_distance"]
    assert scale > 0 and M.frechet_distance(a, b) == pytest.approx(scale, rel=1e-3)  # theirs loses digits: n < features
    assert M.kernel_distance(a, b) == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3, abs=1e-5)
    assert M.precision_recall(a, b) == pytest.approx((theirs["precision"], theirs["recall"]))
    assert M.inception_score(network.logits(a)) == pytest.approx(theirs["inception_score_mean"], rel=1e-5)
    grey = network.features(images[:1, :1])
    assert grey.equal(network.features(images[:1, :1].expand(-1, 3, -1, -1)))
    with pytest.raises(InputError, match="1 or 3 channels"):
        network.features(images[:, :2])


class Images(torch.utils.data.Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, k):
        return self.images[k]


class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["EVIL"],)


def test_weights_that_are_none(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="there is no file '.*none.pth' with Inception weights; get https://"):
        F.Inception(str(tmp_path / "none.pth"))
    monkeypatch.setenv("EVIL", str(tmp_path / "evil"))
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil()))
    torch.save({"a": torch.ones(2)}, tmp_path / "other.pth")
    for name in ("evil.pth", "other.pth"):
        with pytest.raises(InputError, match="does not hold the Inception weights"):
            F.Inception(str(tmp_path / name))
    assert not (tmp_path / "evil").exists()


def test_no_network(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(InputError) as caught:
        F.Inception()
    text = str(caught.value)
    assert "get https://github.com/toshas/torch-fidelity/releases/" in text and "-p weights" in text
    assert str(tmp_path / "hub" / "checkpoints") in text and "\n" not in text
    assert not list((tmp_path / "hub" / "checkpoints").iterdir())


# evaluate.ipynb

def evaluate(folder, monkeypatch, **parameters) -> dict:
    "Run the notebook's cells here, which saves starting a kernel; returns their variables."
    matplotlib.use("Agg")
    monkeypatch.chdir(folder)
    space = {"In": ["# Parameters\n" + "\n".join(f"{name} = {value!r}" for name, value in parameters.items())]}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), space)
            if "parameters" in cell["metadata"].get("tags", []):
                space |= {"cache_dir": "cache"} | parameters
    return space


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Digits as files, and a network that was hardly trained."
    folder = tmp_path_factory.mktemp("evaluate")
    digits = load("digits")
    np.save(folder / "real.npy", digits.restore(digits.test).numpy())
    np.save(folder / "copied.npy", digits.restore(digits.train[:300]).numpy())
    (folder / "noise").mkdir()
    for k in range(60):
        Image.fromarray(np.random.default_rng(k).integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / "noise" / f"{k}.png")
    train(TrainConfig(dataset="digits", steps=3, width=16, run_dir=str(folder / "run")), progress=False)
    return folder


def papermill(folder, *parameters):
    command = [sys.executable, "-m", "papermill", str(NOTEBOOK), "out.ipynb", "-p", "cache_dir", "cache", *parameters]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_real_data_against_real_data(folder):
    done = papermill(folder, "-p", "samples", "real.npy", "-p", "dataset", "digits")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((folder / "real-evaluation.json").read_text())["pca"]
    real = found["figures"]["real.npy"]
    assert real["n"] == 397 and abs(real["frechet"][0] - real["floor"]) < 2 * real["frechet"][1]
    assert abs(real["kernel"][0]) < 2 * real["kernel"][1]
    assert min(real["precision"][0], real["recall"][0]) > 0.88 and found["copies"]["real.npy"]["passed"]
    assert real["frechet"][0] == pytest.approx(found["figures"]["real, held out"]["frechet"][0], rel=1e-6)
    assert len(found["data_hash"]) == 16 and found["versions"]["torch"] and found["machine"]
    assert "precision" in (folder / "out.ipynb").read_text()


def test_noise_is_far_off(folder, monkeypatch):
    found = evaluate(folder, monkeypatch, samples="noise", dataset="digits")["result"]["figures"]
    noise, real = found["noise"], found["real, held out"]
    assert noise["n"] == 60 and noise["frechet"][0] > 20 * real["frechet"][0] and noise["kernel"][0] > 1
    assert noise["precision"][0] < 0.3 and noise["recall"][0] < 0.05  # 60 points on either side: wide balls
    assert (folder / "noise-evaluation.json").exists()


def test_copies_are_named(folder, monkeypatch, capsys):
    found = evaluate(folder, monkeypatch, samples="copied.npy", dataset="digits", n=100)["result"]
    assert found["figures"]["copied.npy"]["n"] == 100 and found["copies"]["copied.npy"]["share"] == 1
    assert "NOT passed" in capsys.readouterr().out


def test_a_network_is_drawn_from_once(folder, monkeypatch):
    parameters = dict(samples="run", n=50, seeds=2, steps=2)
    first = evaluate(folder, monkeypatch, **parameters)["result"]
    assert list(first["figures"]) == ["seed 0", "seed 1", "real, held out"] and first["drawn"]["nfe"] == 2
    assert first["figures"]["seed 0"]["frechet"] != first["figures"]["seed 1"]["frechet"]
    assert len(first["over_seeds"]["frechet"]) == 2
    monkeypatch.setattr("pfgm.training.Model.draw", lambda *args, **kwargs: 1 / 0)  # all of it is in the cache
    again = evaluate(folder, monkeypatch, **parameters)["result"]
    assert again["figures"] == first["figures"] and again["drawn"] == first["drawn"]
    evaluate(folder, monkeypatch, **parameters | dict(components=5, out="run/evaluation.json"))
    assert list(json.loads((folder / "run" / "evaluation.json").read_text())) == ["pca"]
    with pytest.raises(ZeroDivisionError):
        evaluate(folder, monkeypatch, **parameters | dict(n=51))


def test_inception_through_the_notebook(folder, pictures, weights, monkeypatch, capsys):
    parameters = dict(samples=str(pictures / "made"), dataset=str(pictures / "real"), features="inception",
                      weights=str(weights), out=str(folder / "made.json"), resamples=3)
    found = evaluate(folder, monkeypatch, **parameters)["result"]
    assert not found["standard_weights"] and "not the weights" in capsys.readouterr().out
    row = found["figures"]["made"]
    assert row["n"] == 8 and found["n_reference"] == 11 and row["frechet"][0] > 0 and row["score"][0] >= 1
    assert "real, held out" not in found["figures"] and not found["copies"]  # one image is too few
    monkeypatch.setattr(F.Inception, "features", lambda *args: 1 / 0)
    assert evaluate(folder, monkeypatch, **parameters)["result"]["figures"]["made"] == row


@pytest.mark.skipif(not hasattr(Data, "labels") and "labels" not in Data.__dataclass_fields__, reason="data have no labels")
def test_classifier_through_the_notebook(folder, monkeypatch):
    found = evaluate(folder, monkeypatch, samples="real.npy", dataset="digits", features="classifier")["result"]
    real = found["figures"]["real.npy"]
    assert found["accuracy"] > 0.96 and found["n_accuracy"] == 397 and real["score"][0] > 8
    assert abs(real["frechet"][0] - real["floor"]) < 2 * real["frechet"][1] and real["precision"][0] > 0.7
    known = json.loads((folder / "real-evaluation.json").read_text())
    assert set(known) >= {"classifier"}


FAULTS = {  # more of them: bad_inputs.py
    "labels": (dict(samples="rings.npy", dataset="rings", features="classifier"), "'rings' has no labels"),
    "not json": (dict(samples="real.npy", dataset="digits", out="real.npy"), "exists and holds no evaluation"),
    "list": (dict(samples="real.npy", dataset="digits", out="list.json"), "exists and holds no evaluation"),
    "deep": (dict(samples="real.npy", dataset="digits", out="deep.json"), "exists and holds no evaluation"),
    "folder": (dict(samples="real.npy", dataset="digits", out="noise"), "exists and holds no evaluation"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_get_one_sentence(folder, monkeypatch, fault):
    parameters, words = FAULTS[fault]
    np.save(folder / "rings.npy", load("rings", n=20).train.numpy())
    (folder / "list.json").write_text("[1]")
    (folder / "deep.json").write_text("[" * 10 ** 5)
    with pytest.raises(InputError) as caught:
        evaluate(folder, monkeypatch, **parameters)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_layouts_come_back(tmp_path, monkeypatch):
    "Colour images with channels last, as bytes and as floats: both are the data themselves."
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    np.save(tmp_path / "data.npy", images)
    data = from_array(images)
    np.save(tmp_path / "floats.npy", data.restore(data.train).numpy())
    for name in ("data", "floats"):
        space = evaluate(tmp_path, monkeypatch, samples=f"{name}.npy", dataset="data.npy", resamples=2)
        assert M.nearest_distance(space["points"], torch.cat([space["train"], space["held_out"]])).max() < 1e-4
