"Likelihoods against closed forms, conservation laws and wrong input."
import math

import pytest
import torch

from pfgm.checks import InputError
from pfgm.flow import DenoiserFlow, EmpiricalFlow, FieldFlow, Flow, LearnedFlow
from pfgm.likelihood import bits_per_dim, dequantise, log_likelihood, mean_and_trace
from pfgm.mixture import Mixture
from pfgm.networks import MLP, build
from pfgm.perturbation import kernel_draw
from pfgm.prior import Hemisphere, Prior, student_draw
from pfgm.training import fit

double = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=double)


def mixture(x, charges, z, D):
    """Log-density of charges seen from height z, without any line."""
    logs = torch.stack([Prior(x.shape[1:], z, D, y).log_prob(x) for y in charges])
    return logs.logsumexp(0) - math.log(len(charges))


def network(shape, std, **options):
    """A small MLP with random weights."""
    torch.manual_seed(0)
    mlp = MLP(shape, width=32, depth=1, **options)
    torch.nn.init.normal_(mlp.head.weight, std=std)
    return mlp


@pytest.mark.parametrize("shape", [(1,), (2,), (1, 2, 2)])
@pytest.mark.parametrize("D", [1, 16, math.inf])
def test_truth(shape, D):
    charges = randn(4, *shape)
    x = student_draw(charges.repeat(5, *[1] * len(shape)), 0.3, D, seeded(1))
    N = math.prod(shape)
    priors = [Prior(shape, 200.0, D, charges.mean(0))]
    if D < math.inf:
        priors.append(Hemisphere(shape, 200.0 * math.sqrt(N + D), D, charges.mean(0)))
    for prior in priors:
        found = log_likelihood(EmpiricalFlow(charges, D), prior, x, 0.3, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(found, mixture(x, charges, 0.3, D), rtol=0, atol=1e-3)


@pytest.mark.parametrize("solver", ["heun", "2m"])
def test_fixed_steps_converge(solver):
    charges, prior = randn(4, 2), Prior((2,), 100.0, 1)
    x = student_draw(charges, 0.3, 1, seeded(1))
    flow = EmpiricalFlow(charges)
    exact = log_likelihood(flow, prior, x, 0.3, rtol=1e-8, atol=1e-8)
    errors = [(log_likelihood(flow, prior, x, 0.3, solver=solver, steps=steps) - exact).abs().max().item()
              for steps in (60, 120)]
    assert errors[1] < 0.1 and 3.3 < errors[0] / errors[1] < 4.8


def test_far_point_on_the_ray():
    """Outside the hemisphere a point has the density of the kernel round the centre, whatever the flow says."""
    prior = Hemisphere((3,), 10.0, 4, centre=randn(3))
    x = 30 * torch.nn.functional.normalize(randn(5, 3), dim=1)
    found = log_likelihood(EmpiricalFlow(randn(6, 3), 4), prior, x, 0.5, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found, Prior((3,), 0.5, 4, prior.centre).log_prob(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
@pytest.mark.parametrize("probes", [1, 3])
def test_hutchinson_is_unbiased(kind, probes):
    charges, prior = randn(5, 4), Prior((4,), 60.0, 1)
    x, flow = randn(1, 4, seed=3), EmpiricalFlow(charges)
    exact = log_likelihood(flow, prior, x, 0.3)
    found = log_likelihood(flow, prior, x.expand(1500, 4), 0.3, kind, probes, generator=seeded(5))
    error = found.std() / math.sqrt(1500)
    assert (found.mean() - exact).abs() < 3 * error < 0.3
    assert found.std() > 10 * 1e-3  # probes differ from point to point


@pytest.mark.parametrize("kind", ["exact", "rademacher"])
def test_does_not_depend_on_the_batch(kind):
    flow, prior, x = EmpiricalFlow(randn(5, 2)), Hemisphere((2,), 60.0), randn(7, 2, seed=1)
    def run(n, batch_size):
        return log_likelihood(flow, prior, x[:n], 0.1, kind, generator=seeded(2), batch_size=batch_size)
    together = run(7, 1024)
    for other in (run(7, 1), run(7, 3), run(2, 1024)):
        torch.testing.assert_close(other, together[:len(other)], rtol=1e-10, atol=1e-10)
    noisy = [dequantise(torch.zeros(n, 2), 0.5, seeded(2)) for n in (2, 5)]
    assert torch.equal(noisy[0], noisy[1][:2]) and noisy[1].unique().numel() == 10
    bits = [bits_per_dim(flow, prior, torch.zeros(n, 2), 0.5, 0.1, generator=seeded(2)) for n in (2, 5)]
    torch.testing.assert_close(bits[0], bits[1][:2], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("D", [16, math.inf])
def test_any_network_is_normalised_in_the_plane(D):
    """Polar coordinates, r = tan(t): the whole plane."""
    flow = DenoiserFlow(network((2,), 0.02), D)
    n = 60
    t = (torch.arange(n, dtype=double) + 0.5) / n * math.pi / 2
    angle = (torch.arange(n, dtype=double) + 0.5) / n * 2 * math.pi
    points = t.tan()[:, None, None] * torch.stack([angle.cos(), angle.sin()], -1)
    area = t.tan() / t.cos().square() * (math.pi / 2 / n) * (2 * math.pi / n)
    density = log_likelihood(flow, Prior((2,), 40.0, D), points.view(-1, 2), 0.5, batch_size=4000).exp().view(n, n)
    assert abs((density * area[:, None]).sum().item() - 1) < 5e-3


@pytest.mark.parametrize("D", [1, 16])
def test_an_untrained_network_of_one_number_is_normalised(D):
    """The whole line, x = tan(t): the density of a network that answers zero integrates to one."""
    flow = DenoiserFlow(lambda x, levels: torch.zeros_like(x), D, 0.5, s_min=0.005, s_max=40.0)
    t = (torch.arange(801, dtype=double) + 0.5) / 801 * math.pi - math.pi / 2
    prior = Hemisphere((1,), 40 * math.sqrt(1 + D), D)
    density = log_likelihood(flow, prior, t.tan()[:, None], 0.005, rtol=1e-6, atol=1e-6).exp()
    assert abs((density / t.cos().square()).sum().item() * math.pi / 801 - 1) < 1e-3


@pytest.mark.parametrize("D", [1, 2, 16, 128])
@pytest.mark.parametrize("N", [2, 64])
def test_scale_of_a_learned_flow_is_differentiated(N, D):
    """Finite differences of s, with and without a mixture."""
    data = randn(500, N) @ (0.5 * randn(N, N, seed=1) / math.sqrt(N))
    for mixture in (None, Mixture.fit(data, 1), Mixture.fit(data)):
        flow = LearnedFlow(None, D, data.std().item(), None, mixture)
        x, z, _ = kernel_draw(data[:100], 0.05, 30.0, D, seeded(2))
        x.requires_grad_()
        s, v = flow.scale(x, z), randn(100, N, seed=3)
        slope = (torch.autograd.grad(s.log().sum(), x)[0] * v).sum(1)
        h = 1e-4 * s.detach()
        with torch.no_grad():
            ahead, behind = (flow.scale(x + sign * h[:, None] * v, z).log() for sign in (1, -1))
        torch.testing.assert_close(slope * s.detach(), (ahead - behind) / 2e-4, rtol=0, atol=2e-3)


@pytest.mark.parametrize("kind", ["denoiser", "field", "unet"])
def test_trace_of_networks_by_differences(kind):
    """Single-precision networks: coarse differences, but of every kind of flow."""
    if kind == "unet":
        shape, net = (1, 8, 8), build((1, 8, 8), "unet", width=8)
        for weights in net.parameters():
            torch.nn.init.normal_(weights, std=0.1, generator=seeded(1))
        flow = DenoiserFlow(net.eval(), 4)
    else:
        shape = (3,)
        flow = FieldFlow(network(shape, 0.1, field=True)) if kind == "field" else DenoiserFlow(network(shape, 0.1), 4)
    N, k = math.prod(shape), 5
    x, z = 0.5 * randn(k, *shape), torch.full((k,), 0.3, dtype=double)
    units = torch.eye(N, dtype=double).view(1, N, *shape)
    mean, trace = mean_and_trace(flow, x, z, units)
    assert torch.equal(mean, flow.posterior_mean(x, z).detach())
    h, total = 2e-3, torch.zeros(k, dtype=double)
    with torch.no_grad():
        for unit in units[0]:
            change = flow.posterior_mean(x + h * unit, z) - flow.posterior_mean(x - h * unit, z)
            total += (change * unit).flatten(1).sum(1) / (2 * h)
    torch.testing.assert_close(trace, total, rtol=0.02, atol=0.02)


def test_bits_of_uniform_data():
    """A prior so high that the density is flat: log2 of the number of bins."""
    prior = Prior((1,), 10.0, math.inf)
    flow = EmpiricalFlow(((torch.arange(1600, dtype=double) + 0.5) / 800 - 1)[:, None], math.inf)
    levels = ((torch.arange(16, dtype=double) + 0.5) / 8 - 1)[:, None]
    bits = bits_per_dim(flow, prior, levels.repeat(20, 1), 1 / 8, 0.005, "exact", seeded())
    assert abs(bits.mean().item() - 4) < 0.03


def test_model():
    """Data of a known grid through a barely trained model: its own height and prior are the defaults."""
    values = torch.randint(0, 4, (200, 3), generator=seeded())
    model = fit(values, progress=False, steps=3, width=16)
    x = model.data.restore(model.data.test[:6])
    nats = log_likelihood(model.flow, model.prior, model.data.test[:6], model.z_min)
    torch.testing.assert_close(model.log_likelihood(x), nats - 3 * math.log(1.5))
    bits = model.bits_per_dim(x, divergence="exact")
    assert torch.equal(bits, model.bits_per_dim(x, divergence="exact")) and bits.shape == (6,)
    assert 1.5 < bits.mean() < 6
    with pytest.raises(InputError, match="bin_width"):
        model.bits_per_dim(x, 0.7)


class Broken(Flow):
    def posterior_mean(self, x, z):
        return x * torch.where(z > 1.0, math.nan, 1.0)[:, None]


@pytest.mark.parametrize("change, words", [
    (dict(z_min=50.0), "z_min is 50; it must be positive and below z_max = 40."),
    (dict(z_min=0.0), "z_min is 0"),
    (dict(x=torch.zeros(3, 5)), "x has shape (3, 5); it must be (n, 2) with n >= 1."),
    (dict(x=torch.zeros(0, 2)), "n >= 1"),
    (dict(x=torch.full((3, 2), math.nan)), "x holds NaN"),
    (dict(divergence="rademaker"), "did you mean 'rademacher'?"),
    (dict(divergence="rademacher", probes=0), "probes is 0; it must be a whole number"),
    (dict(solver="rk54"), "did you mean 'rk45'?"),
    (dict(solver="2m", steps=0), "steps is 0; at least 1 is needed."),
    (dict(prior=Prior((2,), 40.0, 16)), "D = 1 and the prior D = 16"),
])
def test_wrong_input(change, words):
    arguments = dict(flow=EmpiricalFlow(randn(4, 2)), prior=Prior((2,), 40.0), x=torch.zeros(3, 2), z_min=0.1)
    with pytest.raises(InputError) as caught:
        log_likelihood(**arguments | change)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("width", [0.0, -1.0, 0.3, math.nan])
def test_wrong_bins(width):
    with pytest.raises(InputError, match="bin_width"):
        dequantise(torch.tensor([[0.0], [0.125], [0.5]]), width)


def test_nan_names_the_height():
    with pytest.raises(FloatingPointError, match="height"):
        log_likelihood(Broken(), Prior((2,), 40.0), torch.zeros(3, 2), 0.1)
