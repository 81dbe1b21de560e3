"""Bad inputs and the words of the sentence that each gets: of notebooks, of the command line, of calls.

`make faults` puts all of them to the real program and counts; test_bad_inputs.py runs them where it is quick."""
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

import pfgm
from pfgm.checkpoint import load_weights
from pfgm.config import TrainConfig, configure
from pfgm.data import from_array
from pfgm.features import train_classifier
from pfgm.flow import EmpiricalFlow
from pfgm.heights import fit_heights
from pfgm.metrics import frechet_distance
from pfgm.model import Model
from pfgm.networks import build
from pfgm.ode import encode, sample
from pfgm.prior import Latents, Prior, interpolate, rescale
from pfgm.sources import load
from pfgm.training import fit, train

RUN = dict(run_dir="run")
DIGITS = dict(samples="real.npy", dataset="digits")

NOTEBOOKS = [  # notebook, parameters, words
    ("train", dict(datset="cifar10"), "unknown parameter 'datset'; did you mean 'dataset'?"),
    ("train", dict(dataset="digit"), "did you mean 'digits'?"),
    ("train", dict(dataset="no/such/folder"), "there is no file or folder 'no/such/folder'"),
    ("train", dict(dataset="empty"), "there are no images in 'empty'"),
    ("train", dict(dataset="mixed"), "-p image_size 32"),
    ("train", dict(dataset="nan.npy"), "holds NaN or infinite numbers (1 of 10)"),
    ("train", dict(dataset="file"), "cannot read 'file'"),
    ("train", dict(dataset="same.npy"), "all data points are the same"),
    ("train", dict(dataset="digits", image_size=16), "image_size is for folders of images"),
    ("train", dict(dataset="two_moons", conditional=True), "conditional needs labels"),
    ("train", dict(dataset="two_moons", flip=True), "flip is for images"),
    ("train", dict(dataset="two_moons", network="unet"), "a U-Net needs images"),
    ("train", dict(dataset="digits", network="unit"), "did you mean 'unet'?"),
    ("train", dict(dataset="digits", guess="mixtur"), "did you mean 'mixture'?"),
    ("train", dict(D=0), "D is 0; it must be 1"),
    ("train", dict(D="many"), "D is 'many'"),
    ("train", dict(D=2, objective="paper"), "objective 'paper' is the paper's and needs D = 1"),
    ("train", dict(steps=-4), "steps is -4"),
    ("train", dict(minutes=0), "minutes is 0"),
    ("train", dict(minutes="long"), "minutes is 'long'"),
    ("train", dict(batch=2.5), "batch is 2.5"),
    ("train", dict(lr="nan"), "lr is"),
    ("train", dict(ema=1), "ema is 1"),
    ("train", dict(s_min=90), "s_min 90 must be below s_max 80"),
    ("train", dict(restart="maybe"), "restart is 'maybe'"),
    ("train", dict(watch="perhaps"), "watch is 'perhaps'"),
    ("train", dict(device="cuda:5"), "there is no device 'cuda:5'"),
    ("train", dict(run_dir="file/run"), "run_dir 'file/run' cannot be written"),
    ("train", dict(solver="huen"), "unknown solver 'huen'; did you mean 'heun'?"),
    ("train", dict(preset="papre"), "unknown preset 'papre'; did you mean 'paper'?"),
    ("train", dict(preset="paper"), "is for samples of shape (3, 32, 32), not (1, 28, 28)"),
    ("train", dict(processes=0), "processes is 0"),
    ("train", dict(n_samples=1), "n_samples must be 2 or more"),
    ("sample", dict(run_dir="runs/none"), "there is no trained network"),
    ("sample", dict(run_dri="run"), "unknown parameter 'run_dri'; did you mean 'run_dir'?"),
    ("sample", RUN | dict(n=0), "n is 0; it must be 1 or more"),
    ("sample", RUN | dict(solver="rk54"), "did you mean 'rk45'?"),
    ("sample", RUN | dict(heights="fitted", solver="rk45"), "fitted heights need a solver other than rk45"),
    ("sample", RUN | dict(heights="even"), "unknown heights 'even'"),
    ("sample", RUN | dict(label="3"), "knows no classes"),
    ("sample", RUN | dict(temperature=0), "temperature is 0"),
    ("sample", RUN | dict(seed=-1), "seed is -1"),
    ("sample", RUN | dict(ways=40), "ways is 40; 64 latents make at most 32 pairs"),
    ("sample", RUN | dict(out="no/x.npy"), "out is 'no/x.npy'"),
    ("sample", RUN | dict(out="x.png"), "out is 'x.png'"),
    ("sample", RUN | dict(latents="none.npz"), "there is no file 'none.npz' with latents"),
    ("restore", RUN | dict(seen="lower"), "unknown mask 'lower'"),
    ("restore", RUN | dict(seen="none.npy"), "seen: 'none.npy' is no .npy file"),
    ("restore", RUN | dict(noise="much"), "noise is 'much'"),
    ("restore", RUN | dict(method="gibs"), "did you mean 'gibbs'?"),
    ("restore", RUN | dict(observed="file"), "observed: 'file' is no .npy file"),
    ("restore", RUN | dict(steps=0), "steps is 0"),
    ("restore", RUN | dict(select="perhaps"), "select is 'perhaps'"),
    ("evaluate", dict(samples="runs/none"), "there is no file or folder 'runs/none'; train a network into it"),
    ("evaluate", dict(samples="real.npy"), "dataset is empty; name the data"),
    ("evaluate", DIGITS | dict(features="fid"), "unknown features 'fid'"),
    ("evaluate", DIGITS | dict(n=3), "needs 8 samples or more"),
    ("evaluate", DIGITS | dict(steps="many"), "steps is 'many'; it must be a whole number"),
    ("evaluate", DIGITS | dict(dataset="rings"), "holds points of shape (8, 8), 'rings' has (2,)"),
    ("evaluate", DIGITS | dict(out="real.npy/x.json"), "out: the folder 'real.npy' cannot be made"),
    ("evaluate", DIGITS | dict(features="inception", weights="w.pth"), "there is no file 'w.pth'"),
    ("experiments/13_toys", dict(scale="test", toys="moons"), "unknown toy 'moons'; did you mean 'two_moons'?"),
    ("experiments/15_minutes", dict(minutes="3, soon"), "minutes is '3, soon'; give numbers with commas"),
]

COMMANDS = [  # options, words
    ("--stesp 3 --run_dir x", "unknown option 'stesp'; did you mean 'steps'?"),
    ("--dataset digits", "run_dir is missing"),
    ("--dataset digit --run_dir x", "did you mean 'digits'?"),
    ("--dataset no/such --run_dir x", "there is no file or folder 'no/such'"),
    ("--dataset pickle.pkl --run_dir x", "pickles can run any program when opened"),
    ("--dataset cut.npz --run_dir x", "holds no plain array"),
    ("--dataset words.npy --run_dir x", "real numbers are needed"),
    ("--dataset one.npy --run_dir x", "at least 2 samples are needed"),
    ("--dataset digits --run_dir file/x", "cannot be written"),
    ("--dataset digits --run_dir x --flip perhaps", "flip is 'perhaps'"),
    ("--dataset digits --run_dir x --restart later", "restart is 'later'"),
    ("--dataset digits --run_dir x --steps many", "steps is 'many'"),
    ("--dataset digits --run_dir x --steps 2.5", "steps is 2.5"),
    ("--dataset digits --run_dir x --batch 0", "batch is 0"),
    ("--dataset digits --run_dir x --lr -1", "lr is -1"),
    ("--dataset digits --run_dir x --lr inf", "lr is inf"),
    ("--dataset digits --run_dir x --dropout 1", "dropout is 1"),
    ("--dataset digits --run_dir x --seed 99999999999999999999", "seed is 99999999999999999999"),
    ("--dataset digits --run_dir x --precision float8", "unknown precision 'float8'"),
    ("--dataset digits --run_dir x --compile yes", "unknown compile 'yes'"),
    ("--dataset digits --run_dir x --objective mena", "did you mean 'mean'?"),
    ("--dataset digits --run_dir x --objective vp", "needs D = inf"),
    ("--dataset digits --run_dir x --loss sum", "needs objective 'field' or 'paper'"),
    ("--dataset digits --run_dir x --preset fats", "did you mean 'fast'?"),
    ("--dataset digits --run_dir x --device gpu", "'gpu'"),
    ("--dataset digits --run_dir x --width 10000000", "before the first image, more than there is"),
    ("--dataset digits --run_dir x --steps", "--steps: expected one argument"),
]


def bad_things(folder: Path):
    "Files that are wrong in some way, a run of two_moons, and good digits."
    for name in ("empty", "mixed"):
        (folder / name).mkdir()
    for size in (8, 9):
        Image.new("L", (size, size)).save(folder / "mixed" / f"{size}.png")
    np.save(folder / "nan.npy", np.array([[1.0, 2]] * 4 + [[np.nan, 0]]))
    np.save(folder / "same.npy", np.ones((10, 3)))
    np.save(folder / "one.npy", np.ones((1, 3)))
    np.save(folder / "words.npy", np.array([["a", "b"], ["c", "d"]]))
    for name in ("file", "pickle.pkl"):
        (folder / name).write_text("")
    (folder / "cut.npz").write_bytes(b"PK\x03\x04 and no more")
    digits = load("digits")
    np.save(folder / "real.npy", digits.restore(digits.test).numpy())
    train(TrainConfig(dataset="two_moons", steps=3, width=16, device="cpu", run_dir=str(folder / "run")), progress=False)


def calls(folder: Path) -> list:
    "Name, function without arguments, words."
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 2, generator=generator, dtype=torch.float64)
    small = dict(width=16, steps=2, progress=False)
    model = Model.load(folder / "run", "cpu")
    classes = fit(from_array(x, labels=["cat", "dog"] * 20), conditional=True, **small)
    flow, prior = EmpiricalFlow(x), Prior((2,), 10.0)
    latents = model.latents(3)
    other = Latents(torch.ones(2, 3), torch.ones(2), 0.0)
    below = Latents(latents.x, -latents.z, latents.end)
    return [
        ("fit of nothing", lambda: pfgm.fit(np.zeros((0, 2)), **small), "at least 2 samples"),
        ("fit of words", lambda: pfgm.fit([["a"], ["b"]], **small), "real numbers are needed"),
        ("fit of complex numbers", lambda: pfgm.fit(np.ones((4, 2), complex), **small), "real numbers are needed"),
        ("fit of ragged lists", lambda: pfgm.fit([[1, 2], [3]], **small), "is not one array"),
        ("fit of NaN", lambda: pfgm.fit([[1.0, 2], [np.nan, 3]], **small), "holds NaN or infinite numbers"),
        ("fit of infinities", lambda: pfgm.fit([[1.0, 2], [np.inf, 3]], **small), "holds NaN or infinite numbers"),
        ("fit of one point", lambda: pfgm.fit(np.ones((1, 2)), **small), "at least 2 samples"),
        ("fit of equal points", lambda: pfgm.fit(np.ones((9, 2)), **small), "all data points are the same"),
        ("fit of a masked array", lambda: pfgm.fit(np.ma.array([[1.0, 2], [3, 4]], mask=[[0, 1], [0, 0]]), **small), "masked"),
        ("fit of a DataLoader", lambda: pfgm.fit(DataLoader(TensorDataset(x)), **small), "loader.dataset"),
        ("fit of a data set that is none", lambda: pfgm.fit("digit", **small), "did you mean 'digits'?"),
        ("fit with a misspelt option", lambda: pfgm.fit(x, minuets=1), "did you mean 'minutes'?"),
        ("fit for no time", lambda: pfgm.fit(x, minutes=0), "minutes is 0"),
        ("fit for ever", lambda: TrainConfig(minutes=math.inf), "minutes is inf"),
        ("fit with flipped vectors", lambda: pfgm.fit(x, flip=True, **small), "flip is for images"),
        ("fit with a preset that is none", lambda: pfgm.fit(x, preset="quick"), "unknown preset 'quick'"),
        ("fit of classes without labels", lambda: pfgm.fit(x, conditional=True, **small), "conditional needs labels"),
        ("too few labels", lambda: from_array(x, labels=[1, 2]), "give each a label"),
        ("labels that are no classes", lambda: from_array(x, labels=[0.5] * 40), "a whole number or a word"),
        ("load of an array", lambda: load(np.ones(3)), "for an array use from_array"),
        ("load with a size for numbers", lambda: load("rings", image_size=8), "image_size is for folders of images"),
        ("load of one image size 1", lambda: load(folder / "mixed", image_size=1), "whole number of pixels >= 2"),
        ("one toy point", lambda: load("rings", n=1), "a whole number >= 2"),
        ("a configuration with an unknown name", lambda: configure(widht=3), "did you mean 'width'?"),
        ("half a step", lambda: TrainConfig(steps=0.5), "steps is 0.5"),
        ("a negative learning rate", lambda: TrainConfig(lr=-1e-3), "lr is -0.001"),
        ("D below 1", lambda: TrainConfig(D=0.5), "D is 0.5"),
        ("D that is no number", lambda: TrainConfig(D=math.nan), "D is nan"),
        ("no samples", lambda: model.sample(0), "n is 0"),
        ("half a sample", lambda: model.sample(2.5), "n is 2.5"),
        ("a solver that is none", lambda: model.sample(2, solver="dopri5"), "unknown solver 'dopri5'"),
        ("no steps", lambda: model.sample(2, steps=0), "steps is 0"),
        ("half a step of sampling", lambda: model.sample(2, steps=2.5), "steps is 2.5"),
        ("a negative seed", lambda: model.sample(2, seed=-1), "seed is -1"),
        ("no batch", lambda: model.sample(2, batch_size=0), "batch_size is 0"),
        ("no temperature", lambda: model.sample(2, temperature=0), "0"),
        ("a class of a model without", lambda: model.sample(2, label=1), "knows no classes"),
        ("a class that is none", lambda: classes.sample(2, label="cow"), "unknown class 'cow'"),
        ("an index that is none", lambda: classes.sample(2, label_index=2), "from 0 to 1"),
        ("two ways to say a class", lambda: classes.sample(2, label="cat", label_index=0), "give one of them"),
        ("guidance to nothing", lambda: classes.sample(2, guidance=2), "say which with label"),
        ("heights that rise", lambda: sample(flow, prior, 2, heights=torch.tensor([0.0, 1.0])), "fall from 1 to 0"),
        ("heights that are none", lambda: sample(flow, prior, 2, heights="linear"), "unknown heights 'linear'"),
        ("an end above the start", lambda: sample(flow, prior, 2, z_min=100.0), "z_min is 100"),
        ("a tolerance of nothing", lambda: sample(flow, prior, 2, solver="rk45", rtol=0), "rtol is 0"),
        ("a path of rk45", lambda: sample(flow, prior, 2, solver="rk45", path=True), "rk45 gives every sample its own heights"),
        ("encoding with an end below", lambda: encode(flow, x[:2], prior, z_min=0), "z_min is 0"),
        ("encoding another shape", lambda: model.encode(np.ones((2, 3))), "have shape (2,), not (3,)"),
        ("encoding NaN", lambda: model.encode(np.full((2, 2), np.nan)), "holds NaN or infinite numbers"),
        ("likelihood of another shape", lambda: model.log_likelihood(np.ones((2, 3))), "have shape (2,), not (3,)"),
        ("likelihood of NaN", lambda: model.log_likelihood(np.full((2, 2), np.nan)), "holds NaN or infinite numbers"),
        ("bits of numbers that are not whole", lambda: model.bits_per_dim(x[:2]), "bin_width"),
        ("latents of other lines", lambda: model.sample(latents=other), "this model needs"),
        ("latents below their end", lambda: model.sample(latents=below), "must lie above"),
        ("a way between unequal ends", lambda: interpolate(prior, latents[:1], latents, 3), "must be as many"),
        ("a way of one point", lambda: model.interpolate(latents[:1], latents[1:2], 1), "count is 1"),
        ("a rescaling to nothing", lambda: rescale(prior, latents, 0), "the factor is 0"),
        ("latents in a picture", lambda: latents.save(folder / "x.png"), "kept in .npz or .safetensors files"),
        ("fitted heights of one step", lambda: fit_heights(flow, prior, 1), "steps is 1"),
        ("a U-Net for vectors", lambda: build((2,), "unet"), "a U-Net needs images"),
        ("a network that is none", lambda: build((2,), "transformer"), "unknown network 'transformer'"),
        ("a run that is none", lambda: Model.load(folder / "none"), "there is no trained network"),
        ("a run that is a file", lambda: Model.load(folder / "nan.npy"), "nan.npy"),
        ("weights that are none", lambda: load_weights(folder / "none.safetensors"), "there is no network file"),
        ("a class of training without points", lambda: train_classifier(x, torch.zeros(40)), "at least two classes"),
        ("a distance of one point", lambda: frechet_distance(x[:1], x), "2"),
    ]
