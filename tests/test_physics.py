"The field, the prior and the lines, checked by laws and closed forms; what is too heavy or too dull for the chapters."
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from pfgm.field import electric_field, log_field, log_sphere_area, posterior_mean, potential
from pfgm.flow import EmpiricalFlow
from pfgm.ode import encode, integrate as follow
from pfgm.prior import Hemisphere, Prior, student_draw

DOUBLE = dict(dtype=torch.float64)


def randn(*shape, seed=0, **kwargs):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


@pytest.mark.parametrize("place", [0.0, 0.3, 0.9, 0.97, 1.2, 4.0])
@pytest.mark.parametrize("d", [2, 3, 4, 6])
def test_gauss_law_for_any_position_of_the_charge(d, place):
    """Flux through the unit sphere; by symmetry round the charge's axis only the angle to it is left to integrate."""
    def ring(angle):
        point = torch.tensor([[math.cos(angle), math.sin(angle)] + [0.0] * (d - 2)], **DOUBLE)
        charge = torch.tensor([[place] + [0.0] * (d - 1)], **DOUBLE)
        flux = (electric_field(point, charge) * point).sum().item()
        return flux * math.exp(log_sphere_area(d - 1)) * math.sin(angle) ** (d - 2)

    flux = integrate.quad(ring, 0, math.pi, limit=200, points=[0.05, 0.3])[0]
    assert abs(flux - (place < 1)) < 1e-6


@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_field_is_minus_the_gradient_and_has_no_divergence(d):
    charges, x = randn(6, d), 4 * randn(3, d, seed=1)
    x.requires_grad_()
    gradient, = torch.autograd.grad(potential(x, charges).sum(), x)
    torch.testing.assert_close(electric_field(x, charges), -gradient)
    for point in x.detach():
        jacobian = torch.autograd.functional.jacobian(lambda p: electric_field(p[None], charges)[0], point)
        assert abs(jacobian.trace()) < 1e-10


@pytest.mark.parametrize("d", [2, 3, 10])
def test_far_field_is_that_of_the_centroid(d):
    charges = randn(20, d)
    centroid, direction = charges.mean(0, keepdim=True), torch.nn.functional.normalize(randn(1, d, seed=2))
    errors = []
    for distance in (1e3, 1e4):
        point = centroid + distance * direction
        near, far = electric_field(point, charges), electric_field(point, centroid)
        errors.append(((near - far).norm() / far.norm()).item())
    assert abs(math.log10(errors[1] / errors[0]) + 2) < 0.05


def test_shell_is_empty_inside_but_not_with_z():
    """A uniform shell in three dimensions, by quadrature nodes that are exact for smooth fields."""
    height, weight = np.polynomial.legendre.leggauss(80)
    angle = np.arange(160) * 2 * math.pi / 160
    ring = np.sqrt(1 - height ** 2)[:, None]
    shell = np.stack(np.broadcast_arrays(ring * np.cos(angle), ring * np.sin(angle), height[:, None]), -1)
    shell, weight = torch.tensor(shell.reshape(-1, 3)), torch.tensor(np.repeat(weight, 160) / 320)
    inside = torch.tensor([[0.2, 0.1, -0.4]], **DOUBLE)

    def field(point, charges, d):
        diff = point - charges
        return (weight[:, None] * diff / diff.norm(dim=1, keepdim=True) ** d).sum(0) / math.exp(log_sphere_area(d))

    assert field(inside, shell, 3).norm() < 1e-10
    lifted = torch.nn.functional.pad(shell, (0, 1))
    assert field(torch.nn.functional.pad(inside, (0, 1), value=0.1), lifted, 4).norm() > 1e-3


@pytest.mark.parametrize("N", [1, 2, 3, 8])
def test_flux_through_the_plane_is_one_half(N):
    for z in (0.01, 1.0, 100.0):
        def ring(angle):
            r = z * math.tan(angle)
            point = torch.tensor([[r] + [0.0] * (N - 1) + [z]], **DOUBLE)
            strength = electric_field(point, torch.zeros(1, N + 1, **DOUBLE))[0, -1].item()
            return strength * math.exp(log_sphere_area(N)) * r ** (N - 1) * z / math.cos(angle) ** 2
        assert abs(integrate.quad(ring, 0, math.pi / 2 - 1e-9)[0] - 0.5) < 1e-6


def test_data_pushed_up_the_lines_are_uniform_on_the_hemisphere():
    charges = randn(30, 2)
    flow = EmpiricalFlow(charges - charges.mean(0))
    generator = torch.Generator().manual_seed(1)
    low = student_draw(flow.charges[torch.randint(30, (1500,), generator=generator)], 1e-3, 1, generator)
    high = encode(flow, low, Prior((2,), 500.0)).x
    height = 500.0 / (high.square().sum(1) + 500.0 ** 2).sqrt()
    assert stats.kstest(height, "uniform").pvalue > 0.01
    assert stats.kstest(torch.atan2(high[:, 1], high[:, 0]) / (2 * math.pi) + 0.5, "uniform").pvalue > 0.01


@pytest.mark.parametrize("D", [1, 3, 128, math.inf])
@pytest.mark.parametrize("N", [1, 2, 3])
def test_prior_density_integrates_to_one(N, D):
    prior = Prior((N,), 2.0, D, centre=torch.full((N,), 5.0))

    def shell(r):
        point = torch.full((1, N), 5.0, **DOUBLE)
        point[0, 0] += r
        return (prior.log_prob(point) + log_sphere_area(N)).exp().item() * r ** (N - 1)

    assert abs(integrate.quad(shell, 0, 8)[0] + integrate.quad(shell, 8, np.inf)[0] - 1) < 1e-7


@pytest.mark.parametrize("D", [1, 2.5, 64, math.inf])
@pytest.mark.parametrize("N", [1, 64, 3072])
def test_prior_samples_follow_its_density(N, D):
    prior = Prior((N,), 3.0, D)
    x, _ = prior.sample(1500, torch.Generator().manual_seed(N))
    u = (torch.arange(1500, **DOUBLE) + 0.5) / 1500
    assert stats.ks_2samp(prior.radius_icdf(u), x.norm(dim=1)).pvalue > 1e-3
    assert stats.kstest(torch.nn.functional.normalize(x)[:, 0] * math.sqrt(N) if N > 1 else x[:, 0].sign() * u,
                        {1: stats.uniform(-1, 2).cdf, 64: lambda t: stats.beta(31.5, 31.5, -8, 16).cdf(t),
                         3072: stats.norm.cdf}[N]).pvalue > 1e-3
    # density of the radius from log_prob against the slope of its quantiles
    r = prior.radius_icdf(torch.tensor([0.499, 0.5, 0.501], **DOUBLE))
    point = torch.zeros(1, N, **DOUBLE)
    point[0, 0] = r[1]
    density = (prior.log_prob(point) + log_sphere_area(N) + (N - 1) * r[1].log()).exp().item()
    assert abs(density * (r[2] - r[0]).item() / 0.002 - 1) < 1e-3


def images(n, N=3072):
    """Points with the norm (27), the spread and the few directions of variation of CIFAR-10 images."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(n, 40, generator=generator) @ torch.randn(40, N, generator=generator)
    return points * 27 / points.norm(dim=1).mean()


@pytest.mark.parametrize("m", [0, 50, 100, 150, 180, 190, 200, 205, 210, 220, 230, 240, 250, 270, 291])
def test_posterior_mean_in_single_precision(m):
    y, generator = images(1024), torch.Generator().manual_seed(m)
    growth = 0.01 * 1.03 ** m
    z = growth * torch.randn(32, generator=generator).abs()
    noise = torch.randn(32, 3072, generator=generator)
    x = y[:32] + growth * 55.4 * noise / noise.norm(dim=1, keepdim=True)
    square = (x.double()[:, None] - y.double()).square().sum(-1) + z.double()[:, None] ** 2
    exact = torch.softmax(-3073 / 2 * square.log(), 1) @ y.double()
    error = (posterior_mean(x, z, y).double() - exact).norm(dim=1) / (x.double() - exact).norm(dim=1)
    assert error.max() < 5e-7


@pytest.mark.parametrize("D", [1, 16, math.inf])
def test_posterior_mean_stays_finite(D):
    for N in (1, 2, 64, 3072, 196_608):
        y = torch.rand(3, N, generator=torch.Generator().manual_seed(0)) * 2 - 1
        y = torch.cat([y, y[:1]])                             # charges that coincide
        for size in (0.0, 1.0, 1e5):
            for z in (1e-6, 1e-2, 1.0, 1e4):
                for charges in (y, y[:1]):
                    mean = posterior_mean(y + size, z, charges, D)
                    assert mean.isfinite().all(), (N, size, z)
                    assert mean.abs().max() <= 1.001


def test_posterior_mean_memory_is_bounded_and_does_not_matter():
    x, y = randn(50, 100), randn(80, 100, seed=1)
    torch.testing.assert_close(posterior_mean(x, 0.5, y, memory=1), posterior_mean(x, 0.5, y))


def test_log_field_in_the_dimension_of_large_images():
    charges, x = randn(3, 196_609), randn(2, 196_609, seed=1)
    direction, log_magnitude = log_field(x, charges)
    assert direction.isfinite().all() and log_magnitude.isfinite().all() and log_magnitude.abs().max() > 1e5


def test_up_and_down_the_same_line():
    flow = EmpiricalFlow(randn(10, 3))
    x = randn(20, 3, seed=3)
    plane = Prior((3,), 30.0)
    up = encode(flow, x, plane, "rk45", z_min=0.5, rtol=1e-9, atol=1e-9).x
    down = follow(flow, up, torch.full((20,), 30.0, **DOUBLE), torch.tensor([1.0, 0.5 / 30]), "rk45", rtol=1e-9, atol=1e-9).x
    assert (down - x).abs().max() < 1e-5


def test_hemisphere_is_the_prior_seen_from_the_centre():
    """Scaled to one height, starts on the hemisphere are draws of the prior (the projection argument), for any D."""
    for D in (1, 4):
        x, z = Hemisphere((5,), 10.0, D).sample(4000, torch.Generator().manual_seed(0))
        y, _ = Prior((5,), 1.0, D).sample(4000, torch.Generator().manual_seed(1))
        assert stats.ks_2samp((x / z[:, None]).norm(dim=1), y.norm(dim=1)).pvalue > 1e-3
