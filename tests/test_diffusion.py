"Diffusions: clocks, the network that predicts noise, and Gaussian data, whose lines are known in closed form."
import math

import numpy as np
import pytest
import torch
from scipy import stats

from pfgm.checks import InputError
from pfgm.diffusion import PROCESSES, NoiseFlow, Process, lognormal_draw, own_rule
from pfgm.jobs import main
from pfgm.config import TrainConfig
from pfgm.model import Model
from pfgm.ode import encode, sample
from pfgm.prior import Latents, Prior, starts
from pfgm.training import train

KINDS = list(PROCESSES)


def test_an_unknown_diffusion_or_solver_is_refused():
    with pytest.raises(InputError, match="unknown diffusion 'sub-VP'; did you mean 'subvp'"):
        Process("sub-VP")
    with pytest.raises(InputError, match="unknown solver 'heun'"):
        own_rule(Process("vp"), solver="heun")


@pytest.mark.parametrize("kind", KINDS)
def test_a_clock_runs_from_end_to_end(kind):
    process = Process(kind, 0.02, 30.0)
    factors = process.factors(18)
    assert len(factors) == 19 and factors[0] == 1 and factors[-1] == 0 and (factors.diff() < 0).all()
    assert factors[-2] * process.z_max == pytest.approx(process.z_min)
    t = torch.linspace(process.t_min, 1, 200, dtype=torch.float64)
    torch.testing.assert_close(process.time(process.height(t)), t, rtol=1e-6, atol=1e-9)
    if kind == "ve":
        assert (process.z_min, process.z_max) == pytest.approx((0.02, 30.0))
    else:  # nothing of the data is left at the end
        assert process.alpha(torch.tensor(process.z_max)) < 0.01 and process.z_max > 100


@pytest.mark.parametrize("kind", KINDS)
def test_training_points_are_normal_at_uniform_times(kind):
    process, y = Process(kind), torch.full((20000, 2), 3.0, dtype=torch.float64)
    x, z = process.draw(y, torch.Generator().manual_seed(0))
    assert stats.kstest(process.time(z).numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(((x - y) / z[:, None]).flatten().numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("D", [1, 16, math.inf])
def test_lognormal_draw_follows_the_kernel_at_lognormal_heights(D):
    y = torch.full((20000, 3), -2.0, dtype=torch.float64)
    x, z = lognormal_draw(y, 0.25, D, torch.Generator().manual_seed(0))
    radius = ((x - y).norm(dim=1) / z).numpy()
    law = stats.chi(3) if D == math.inf else stats.f(3, D)
    assert stats.kstest(radius if D == math.inf else radius ** 2 / 3, law.cdf).pvalue > 1e-3
    assert stats.kstest(z.log().numpy(), stats.norm(-1.2 + math.log(0.5), 1.2).cdf).pvalue > 1e-3
    assert abs(stats.spearmanr(radius, z).statistic) < 0.03  # the heights say nothing about the displacement


# Gaussian data: the best answer is linear, and a line is stretched along each principal axis by itself.

VARIANCES = torch.tensor([1.0, 0.25, 0.04], dtype=torch.float64)
MEAN = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
AXES = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]


class GaussianNoise(torch.nn.Module):
    """The noise that a perfect network predicts for y ~ N(MEAN, AXES VARIANCES AXES^T)."""

    def __init__(self, process):
        super().__init__()
        self.process = process

    def forward(self, u, levels):
        assert torch.equal(levels[:, 0], levels[:, 1]) and u.dtype == levels.dtype == torch.float32
        z = levels[:, :1].double().exp()
        along = (u.double() / self.process.alpha(z)) @ AXES
        return (along * z / (VARIANCES + z ** 2)) @ AXES.T


def ends(x, z, then):
    """Where the line through x (b, 3) at height z arrives at the height `then`."""
    along = (x - MEAN) @ AXES
    return MEAN + (along * ((VARIANCES + then ** 2) / (VARIANCES + z ** 2)).sqrt()) @ AXES.T


@pytest.fixture(params=KINDS)
def gaussian(request):
    """A diffusion of Gaussian data: its process, its exact flow, prior and starts."""
    process = Process(request.param, 0.05, 40.0)
    flow = NoiseFlow(GaussianNoise(process), process, 0.6, MEAN)
    prior = Prior((3,), process.z_max, math.inf, MEAN)
    return process, flow, prior, Latents(*starts(prior, 40, torch.Generator().manual_seed(1)))


def test_a_perfect_network_gives_the_posterior_mean(gaussian):
    process, flow, prior, latents = gaussian
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for z in (process.z_min, 0.3, 20.0):
        wanted = MEAN + ((x - MEAN) @ AXES * VARIANCES / (VARIANCES + z ** 2)) @ AXES.T
        torch.testing.assert_close(flow.posterior_mean(x, z), wanted, rtol=0, atol=3e-5)


def test_rk45_arrives_at_the_exact_ends(gaussian):
    process, flow, prior, latents = gaussian
    low = process.factors(2)[-2].item() * process.z_max
    run = sample(flow, prior, solver=own_rule(process, MEAN), heights=process.factors(2), latents=latents)
    exact = ends(latents.x, process.z_max, low)
    exact = MEAN + ((exact - MEAN) @ AXES * VARIANCES / (VARIANCES + low ** 2)) @ AXES.T  # and xhat in the end
    assert (run.x - exact).abs().max() < 1e-3 and run.nfe > 20
    rough = sample(flow, prior, solver=own_rule(process, MEAN, rtol=1e-2, atol=1e-2), heights=process.factors(2),
                   latents=latents)
    assert rough.nfe < run.nfe and (rough.x - exact).abs().max() > (run.x - exact).abs().max()


def test_euler_is_of_first_order_in_every_clock(gaussian):
    process, flow, prior, latents = gaussian
    z_end = 0.2  # above the data plane: the line is compared, not the last xhat
    latents = Latents(latents.x, latents.z, z_end)
    exact, off = ends(latents.x, process.z_max, z_end), []
    for steps in (200, 400, 800):
        t = torch.linspace(1, process.time(torch.tensor(z_end, dtype=torch.float64)).item(), steps + 1, dtype=torch.float64)
        z = process.height(t)
        run = sample(flow, prior, solver=own_rule(process, MEAN, "euler"), heights=[*(z / z[0]).tolist(), 0], latents=latents)
        assert run.nfe == steps
        off.append((run.x - exact).square().mean().sqrt().item())
    assert 1.8 < off[0] / off[1] < 2.2 and 1.8 < off[1] / off[2] < 2.2, off


def test_a_rule_goes_up_and_down(gaussian):
    """A solver of one's own serves encode as well as sample."""
    process, flow, prior, _ = gaussian
    x = MEAN + torch.randn(20, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * VARIANCES.sqrt() @ AXES.T
    rule = own_rule(process, MEAN)
    latents = encode(flow, x, prior, solver=rule, z_min=process.z_min)
    assert (latents.x - ends(x, process.z_min, process.z_max)).abs().max() < 1e-3 * process.z_max
    back = sample(flow, prior, solver=rule, z_min=process.z_min, latents=latents)
    assert (back.x - x).abs().max() < 1e-3


# Training.

@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_and_comes_back_bit_for_bit(kind, tmp_path):
    config = TrainConfig(dataset="two_moons", objective=kind, D=math.inf, width=32, steps=150, warmup=10, lr=3e-3, ema=0.9,
                         seed=1, device="cpu", run_dir=str(tmp_path))
    model = train(config, progress=False)
    assert isinstance(model.flow, NoiseFlow) and isinstance(model.prior, Prior)
    process = model.flow.process
    assert (model.z_min, model.prior.z_max) == (process.z_min, process.z_max)
    loaded = Model.load(tmp_path, "cpu")
    assert loaded.flow.process.kind == kind and loaded.flow.process.ends == process.ends
    rule = dict(solver=own_rule(process, model.flow.centre, "euler"), heights=process.factors(20))
    for options in (dict(), rule):
        assert torch.equal(loaded.draw(5, seed=3, **options).x, model.draw(5, seed=3, **options).x)
    y = model.data.train
    x, z = process.draw(y, torch.Generator().manual_seed(0))
    with torch.no_grad():
        error = ((model.flow.posterior_mean(x, z) - y) / z[:, None]).square().mean()
    assert error < 0.7  # of the noise; without a network it is 1


@pytest.mark.parametrize("wrong, words", [
    (dict(objective="ve"), "needs D = inf"), (dict(objective="vp", D=128), "needs D = inf"),
    (dict(objective="subvp", D=math.inf, draw="lognormal"), "leave draw out"),
    (dict(objective="ve", D=math.inf, draw="paper"), "is the paper's and needs D = 1"),
    (dict(objective="point", draw="paper"), "needs draw 'kernel' or 'lognormal'"),
    (dict(objective="vpp", D=math.inf), "did you mean 'vp'"), (dict(draw="lognorm"), "did you mean 'lognormal'"),
])
def test_what_does_not_go_together_is_refused(wrong, words):
    with pytest.raises(InputError) as error:
        TrainConfig(**wrong)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_the_command_line_offers_them(capsys, tmp_path):
    with pytest.raises(SystemExit) as done:
        main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert done.value.code == 0 and "ve, vp, subvp" in text and "lognormal" in text
    line = f"--dataset two_moons --objective vp --D inf --width 16 --steps 2 --device cpu --run_dir {tmp_path / 'run'}"
    assert main(line.split()) == 0
    assert isinstance(Model.load(tmp_path / "run", "cpu").flow, NoiseFlow)
    assert main([*line.split(), "--D", "2"]) == 1 and "needs D = inf" in capsys.readouterr().err
    assert np.isfinite(Model.load(tmp_path / "run", "cpu").sample(3).numpy()).all()
