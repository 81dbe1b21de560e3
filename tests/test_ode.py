"Solvers, latents and heights: orders, batches, inverses, and what goes wrong."
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from pfgm import fit, ode
from pfgm.checks import InputError
from pfgm.flow import DenoiserFlow, EmpiricalFlow, Flow
from pfgm.heights import fit_heights, kept_heights
from pfgm.config import TrainConfig
from pfgm.networks import build
from pfgm.ode import encode, integrate, sample
from pfgm.prior import Hemisphere, Latents, Prior, interpolate, rescale, starts, student_draw
from pfgm.training import train

DOUBLE = dict(dtype=torch.float64)
NBS = Path(__file__).parent.parent / "nbs"
FIXED = [solver for solver in ode.SOLVERS if solver != "rk45"]


def charges(n, *shape, seed=0):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def network(shape, name):
    """A network with outputs that are not zero."""
    torch.manual_seed(0)
    net = build(shape, name, width=16)
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return DenoiserFlow(net.eval())


@pytest.mark.parametrize("D", [1, math.inf])
@pytest.mark.parametrize("solver, order", [("euler", 1), ("heun", 2), ("2m", 2), ("3m", 3), ("unipc", 3), ("ipndm", 2)])
def test_order_up_and_down(solver, order, D):
    flow = EmpiricalFlow(charges(7, 3, seed=5), D)
    x, z = Prior((3,), 2.0, D).sample(20, torch.Generator().manual_seed(0))
    for last in (0.25, 3.0):
        exact = integrate(flow, x, z, torch.tensor([1, last], **DOUBLE), "rk45", rtol=1e-10, atol=1e-10).x
        errors = []
        for steps in (60, 120):
            t = torch.linspace(0, math.log(last), steps + 1, **DOUBLE)
            factors = torch.cat([t[:1], t[1:2] / steps, t[1:]]).exp()  # the first step is of lower order: short
            errors.append((integrate(flow, x, z, factors, solver).x - exact).norm())
        assert abs(math.log2(errors[0] / errors[1]) - order) < 0.2


def test_polynomials_are_integrated_exactly_on_any_grid():
    """xhat a parabola in log z: with a short first and (unipc, which cannot correct it) last step little is left."""
    class Parabola(Flow):
        def posterior_mean(self, x, z):
            return (1 - 2 * z.log() + 0.5 * z.log() ** 2)[:, None].expand_as(x)

    x, z = torch.zeros(1, 1, **DOUBLE), torch.ones(1, **DOUBLE)
    factors = torch.tensor([1, 1 - 1e-4, 1 - 3e-4, 0.7, 0.6, 0.2, 0.05, 0.04999], **DOUBLE)
    exact = integrate(Parabola(), x, z, torch.tensor([1, 0.04999], **DOUBLE), "rk45", rtol=1e-12, atol=1e-12).x
    for solver in ("3m", "unipc"):
        assert (integrate(Parabola(), x, z, factors, solver).x - exact).abs().max() < 1e-6, solver


@pytest.mark.parametrize("name", ["exact", "exact, D = inf", "mlp", "unet"])
@pytest.mark.parametrize("solver", FIXED)
def test_the_batch_does_not_change_a_bit(name, solver):
    shape = (3, 16, 16) if name == "unet" else (64,)
    D = math.inf if name == "exact, D = inf" else 1
    flow = network(shape, name) if name in ("mlp", "unet") else EmpiricalFlow(charges(300, 64), D)
    prior = Hemisphere(shape, 300.0) if D == 1 else Prior(shape, 50.0, D)
    n, steps = (20, 3) if name == "unet" else (70, 6)
    runs = [sample(flow, prior, count, solver, steps, generator=torch.Generator().manual_seed(4), batch_size=batch).x[:5]
            for count, batch in ((n, 64), (n, 7), (5, 1))]
    assert torch.equal(runs[0], runs[1]) and torch.equal(runs[0], runs[2])


PRIORS = {"hemisphere": Hemisphere((4,), 400.0), "hemisphere, D = 8": Hemisphere((4,), 400.0, 8), "plane": Prior((4,), 200.0),
          "D = inf": Prior((4,), 80.0, math.inf)}


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
@pytest.mark.parametrize("solver, options", [("rk45", dict(rtol=1e-5, atol=1e-5)), ("unipc", dict(steps=100))])
def test_encode_then_sample_returns_the_data(prior, solver, options):
    flow = EmpiricalFlow(charges(10, 4).clamp(-1, 1), prior.D)
    data = student_draw(flow.charges, 0.02, prior.D, torch.Generator().manual_seed(1))
    latents = encode(flow, data, prior, solver, z_min=0.02, **options)
    back = sample(flow, prior, latents=latents, solver=solver, z_min=0.02, **options)
    off = (back.x - data).square().mean(1)  # with fixed steps a line may change sides
    assert (off.mean() if solver == "rk45" else off.median()).sqrt() < 1e-3 and latents.end == 0.02
    if isinstance(prior, Hemisphere):
        radius = (latents.x.square().sum(1) + prior.D * latents.z ** 2).sqrt()
        torch.testing.assert_close(radius, torch.full((10,), 400.0, **DOUBLE))
    else:
        assert (latents.z == prior.z_max).all()


def test_encoded_data_are_uniform_on_the_hemisphere():
    flow, prior = EmpiricalFlow(charges(30, 8)), Hemisphere((8,), 2000.0)
    data = student_draw(flow.charges.repeat(60, 1), 1e-3, 1, torch.Generator().manual_seed(1))
    up = encode(flow, data, prior)
    for part in (up.z, up.x[:, 0], up.x @ torch.nn.functional.normalize(torch.ones(8, **DOUBLE), dim=0)):
        assert stats.kstest((part / 2000) ** 2, stats.beta(0.5, 4).cdf).pvalue > 1e-3


def test_encode_in_batches_of_images():
    flow, prior = EmpiricalFlow(charges(6, 1, 4, 4)), Hemisphere((1, 4, 4), 500.0, centre=charges(1, 1, 4, 4, seed=2)[0])
    whole, parts = (encode(flow, flow.charges, prior, steps=20, batch_size=size) for size in (6, 4))
    assert whole.x.shape == (6, 1, 4, 4) and torch.equal(whole.x, parts.x) and torch.equal(whole.z, parts.z)


@pytest.mark.parametrize("D", [1, 4, math.inf])
def test_interpolate_and_rescale(D):
    prior = Prior((5,), 30.0, D) if D == math.inf else Hemisphere((5,), 100.0, D, centre=torch.ones(5))
    a, b = (Latents(*starts(prior, 4, torch.Generator().manual_seed(seed))) for seed in (0, 1))
    way = interpolate(prior, a, b, 5)
    assert len(way) == 20 and (way.z > 0).all()
    torch.testing.assert_close(way.x[::5], a.x)
    torch.testing.assert_close(way.z[4::5], b.z)
    torch.testing.assert_close(interpolate(prior, a, a, 3).x[1::3], a.x)
    hot = rescale(prior, a, 3.0)
    centre = 0 if D == math.inf else 1
    torch.testing.assert_close((hot.x - centre).norm(dim=1) / hot.z, 3 * (a.x - centre).norm(dim=1) / a.z)
    if D < math.inf:
        torch.testing.assert_close(((hot.x - 1).square().sum(1) + D * hot.z ** 2).sqrt(), torch.full((4,), 100.0, **DOUBLE))


def test_latents_of_a_draw_give_the_same_samples(tmp_path):
    model = train(TrainConfig(dataset="two_moons", width=16, steps=6), progress=False)
    model.latents(5, seed=3).save(tmp_path / "five.npz")
    read = Latents.load(tmp_path / "five.npz")
    assert torch.equal(model.sample(latents=read), model.sample(5, seed=3))
    assert not torch.equal(model.sample(latents=read, temperature=0.5), model.sample(5, seed=3))


@pytest.mark.parametrize("shape", [(20, 6, 6), (20, 9, 9, 3)], ids=["grey", "colours last"])
def test_model_encodes_in_the_units_and_layout_of_the_data(shape):
    images = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    model = fit(images, steps=2, width=8, network="mlp", progress=False)
    latents = model.encode(images[:4], steps=60)
    assert latents.x.shape[1:] == model.data.shape
    np.testing.assert_allclose(model.sample(latents=latents, steps=60), images[:4], atol=1)


def broken(at: int, below: float):
    class Broken(EmpiricalFlow):
        def posterior_mean(self, x, z):
            mean = super().posterior_mean(x, z)
            bad = (x[:, 0] - mark).abs() < 1e-3 * mark.abs() if below == math.inf else z < below
            mean[bad] = math.nan
            return mean

    prior = Hemisphere((2,), 100.0)
    mark = starts(prior, 30, torch.Generator().manual_seed(0))[0][at, 0]
    return Broken(torch.eye(2, **DOUBLE)), prior


@pytest.mark.parametrize("solver", ["unipc", "rk45"])
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_nan_names_the_sample_and_the_height(solver, batch_size):
    flow, prior = broken(13, math.inf)
    with pytest.raises(FloatingPointError, match=r"not finite at height [\d.e+-]+ for sample 13\."):
        sample(flow, prior, 30, solver, generator=torch.Generator().manual_seed(0), batch_size=batch_size)


FLOW, PRIOR = EmpiricalFlow(torch.eye(2)), Hemisphere((2,), 10.0)
GOOD = Latents(*starts(PRIOR, 3, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("options, word", [
    (dict(steps=0), "steps is 0"), (dict(steps=2.5), "steps is 2.5"), (dict(solver="unpic"), "did you mean 'unipc'"),
    (dict(z_min=20.0), "z_min is 20"), (dict(z_min=0.0), "z_min is 0"), (dict(n=0), "n is 0"), (dict(n=None), "n is None"),
    (dict(batch_size=0), "batch_size is 0"), (dict(heights="karas"), "did you mean 'karras'"),
    (dict(heights=[1.0, 0.5]), "fall from 1 to 0"), (dict(heights=torch.tensor([1.0, 2.0, 0.0])), "fall from 1 to 0"),
    (dict(rtol=1e-3), "unknown option of solver 'unipc' 'rtol'"), (dict(solver="rk45", rtol=-1.0), "above 0"),
    (dict(latents=Latents(GOOD.x[:, :1], GOOD.z)), r"shape \(3, 1\)"), (dict(latents=Latents(GOOD.x, GOOD.z[:2])), "heights"),
    (dict(latents=Latents(GOOD.x * math.nan, GOOD.z)), "NaN"), (dict(latents=Latents(GOOD.x, -GOOD.z)), "above the height"),
    (dict(latents=Latents(GOOD.x, GOOD.z, 100.0)), "above the height 100"),
])
def test_wrong_input_to_sample_is_one_sentence(options, word):
    with pytest.raises(InputError, match=word) as error:
        sample(FLOW, PRIOR, **dict(n=2) | options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("call, word", [
    (lambda: encode(FLOW, torch.zeros(2, 3), PRIOR), r"the data have shape \(2, 3\)"),
    (lambda: encode(FLOW, torch.full((2, 2), math.nan), PRIOR), "the data hold NaN"),
    (lambda: encode(FLOW, torch.eye(2), PRIOR, z_min=100.0), "z_min is 100"),
    (lambda: encode(FLOW, 1000 * torch.ones(1, 2), PRIOR), "too far from the data"),
    (lambda: interpolate(PRIOR, GOOD, Latents(GOOD.x[:1], GOOD.z[:1])), "3 latents ending at 0 and 1"),
    (lambda: interpolate(PRIOR, GOOD, GOOD, 1), "count is 1"),
    (lambda: rescale(PRIOR, GOOD, 0.0), "factor is 0"),
    (lambda: fit_heights(FLOW, PRIOR, 8, "rk45"), "chooses its own"),
    (lambda: fit_heights(FLOW, PRIOR, 1), "steps is 1"),
    (lambda: Latents.load("no.npz"), "no file 'no.npz'"),
    (lambda: GOOD.save("x.pt"), r"\.npz or \.safetensors"),
])
def test_wrong_input_elsewhere_is_one_sentence(call, word):
    with pytest.raises(InputError, match=word) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["text.npz", "text.safetensors"])
def test_a_file_that_holds_no_latents(tmp_path, name):
    (tmp_path / name).write_text("nothing")
    with pytest.raises(InputError, match="does not hold latents"):
        Latents.load(tmp_path / name)


def test_fitted_heights_help_at_few_evaluations(tmp_path):
    flow, prior = EmpiricalFlow(charges(40, 16).clamp(-1, 1)), Hemisphere((16,), 200.0)
    latents = Latents(*starts(prior, 100, torch.Generator().manual_seed(9)))
    ends = sample(flow, prior, steps=120, latents=latents).x
    miss = {}
    for name, heights in (("log", "log"), ("karras", "karras"), ("fitted", kept_heights(tmp_path / "h.json", flow, prior, 6))):
        miss[name] = (sample(flow, prior, steps=6, latents=latents, heights=heights).x - ends).square().mean(1).sqrt().mean()
    assert miss["fitted"] < 0.8 * min(miss["log"], miss["karras"])


def test_sample_notebook_with_latents_ways_and_fitted_heights(tmp_path):
    train(TrainConfig(dataset="two_moons", width=16, steps=6, run_dir=str(tmp_path / "run")), progress=False)

    def papermill(**parameters):
        parameters = dict(run_dir="run", steps=3) | parameters
        words = [word for name, value in parameters.items() for word in ("-p", name, str(value))]
        command = [sys.executable, "-m", "papermill", str(NBS / "sample.ipynb"), "out.ipynb", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    first = papermill(n=5, heights="fitted", ways=2, save_latents="kept.npz", out="a.npy")
    again = papermill(latents="kept.npz", heights="fitted", out="b.npy")
    assert first.returncode == again.returncode == 0, first.stderr[-2000:] + again.stderr[-2000:]
    assert (tmp_path / "run" / "heights.json").exists() and np.load(tmp_path / "a.npy").shape == (5, 2)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))
    for parameters, word in ((dict(n=5, ways=3), "ways is 3; 5 latents make"), (dict(latents="no.npz"), "no file")):
        lines = [line for line in papermill(**parameters).stderr.splitlines() if line.startswith("InputError: ")]
        assert len(lines) == 1 and word in lines[0]
