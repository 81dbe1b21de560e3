"Laws that hold for any data, shape, dimension, height and type: examples are made by hypothesis, the same every time."
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pfgm.field import posterior_mean, posterior_weights
from pfgm.flow import EmpiricalFlow
from pfgm.likelihood import log_likelihood
from pfgm.ode import SOLVERS, encode, sample
from pfgm.prior import Hemisphere, Latents, Prior, interpolate, rescale, starts, student_draw

settings.register_profile("same every time", derandomize=True, deadline=None, database=None, max_examples=40)
settings.load_profile("same every time")

SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple)
DIMENSIONS = st.sampled_from([1, 1.5, 2, 7, 128, 2048, math.inf])
HEIGHTS = st.floats(-3, 3).map(lambda k: 10 ** k)
SEEDS = st.integers(0, 2 ** 31)
DTYPES = st.sampled_from([torch.float32, torch.float64])


def draw(seed: int, n: int, shape: tuple, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def turned(seed: int, N: int) -> torch.Tensor:
    "An orthogonal matrix."
    return torch.linalg.qr(draw(seed, N, (N,)))[0]


# The field

@given(SHAPES, DIMENSIONS, HEIGHTS, SEEDS, DTYPES, st.integers(1, 9))
def test_the_mean_is_in_the_convex_hull_and_keeps_the_type(shape, D, z, seed, dtype, n):
    charges, x = draw(seed, n, shape, dtype), 3 * draw(seed + 1, 4, shape, dtype)
    weights, mean = posterior_weights(x, z, charges, D), posterior_mean(x, z, charges, D)
    assert mean.dtype == dtype and mean.shape == x.shape
    assert bool((weights >= 0).all()) and torch.allclose(weights.sum(1), torch.ones(4, dtype=dtype), atol=1e-5)
    tolerance = 1e-5 * (1 + charges.abs().max())
    assert bool((mean <= charges.amax(0) + tolerance).all() and (mean >= charges.amin(0) - tolerance).all())
    torch.testing.assert_close(mean.flatten(1), weights @ charges.flatten(1), atol=1e-5, rtol=1e-5)


@given(SHAPES, DIMENSIONS, HEIGHTS, SEEDS, st.floats(-2, 2).map(lambda k: 10 ** k))
def test_the_field_moves_scales_and_turns_with_its_charges(shape, D, z, seed, scale):
    charges, x, shift = draw(seed, 6, shape), draw(seed + 1, 3, shape), draw(seed + 2, 1, shape)
    mean, N = posterior_mean(x, z, charges, D), math.prod(shape)
    torch.testing.assert_close(posterior_mean(x + shift, z, charges + shift, D), mean + shift, atol=1e-7, rtol=1e-6)
    larger = posterior_mean(scale * x, scale * z, scale * charges, D)
    torch.testing.assert_close(larger, scale * mean, atol=1e-7 * scale, rtol=1e-6)
    turn = turned(seed + 3, N)
    found = posterior_mean(x.flatten(1) @ turn, z, charges.flatten(1) @ turn, D)
    torch.testing.assert_close(found, mean.flatten(1) @ turn, atol=1e-7, rtol=1e-6)


@given(SHAPES, DIMENSIONS, SEEDS)
def test_far_up_the_mean_is_that_of_the_data_and_low_down_it_is_the_nearest_charge(shape, D, seed):
    charges = draw(seed, 5, shape)
    x = charges + 1e-6 * draw(seed + 1, 5, shape)
    nearest = torch.cdist(charges.flatten(1), charges.flatten(1)).add(torch.eye(5) * 9).min()
    if nearest > 0.05:
        torch.testing.assert_close(posterior_mean(x, 1e-9, charges, D), charges, atol=1e-3, rtol=0)
    torch.testing.assert_close(posterior_mean(x, 1e9, charges, D), charges.mean(0).expand_as(x), atol=1e-6, rtol=0)


@given(SHAPES, DIMENSIONS, HEIGHTS, SEEDS, st.integers(1, 7))
def test_neither_the_order_of_charges_nor_copies_of_all_nor_memory_matter(shape, D, z, seed, memory):
    charges, x = draw(seed, 7, shape), draw(seed + 1, 40, shape)
    mean = posterior_mean(x, z, charges, D)
    for other in (charges.flip(0), torch.cat([charges, charges])):
        torch.testing.assert_close(posterior_mean(x, z, other, D), mean, atol=1e-9, rtol=1e-7)
    torch.testing.assert_close(posterior_mean(x, z, charges, D, memory=memory), mean, atol=1e-12, rtol=1e-12)


# The flow

@given(SHAPES, DIMENSIONS, HEIGHTS, SEEDS, DTYPES)
def test_velocity_leads_away_from_the_mean(shape, D, z, seed, dtype):
    flow, x = EmpiricalFlow(draw(seed, 5, shape, dtype), D), draw(seed + 1, 3, shape, dtype)
    velocity, mean = flow.velocity(x, z), flow.posterior_mean(x, z)
    assert velocity.dtype == dtype and velocity.shape == x.shape
    torch.testing.assert_close(velocity * z, x - mean, atol=1e-5, rtol=1e-5)
    each = torch.stack([flow.velocity(one[None], z)[0] for one in x])
    torch.testing.assert_close(each, velocity, atol=1e-5 / min(1, z), rtol=1e-5)


# The prior

@given(SHAPES, st.sampled_from([1, 1.5, 2, 7, 128]), st.floats(0, 4).map(lambda k: 10 ** k), SEEDS, st.integers(1, 20))
def test_starts_lie_on_the_hemisphere_and_do_not_depend_on_their_number(shape, D, R, seed, n):
    centre = draw(seed, 1, shape)[0]
    prior = Hemisphere(shape, R, D, centre)
    x, z = starts(prior, n, torch.Generator().manual_seed(seed))
    assert x.dtype == z.dtype == torch.float64 and bool((z > 0).all())
    distance = ((x - centre).flatten(1).square().sum(1) + D * z.square()).sqrt()
    torch.testing.assert_close(distance, torch.full_like(distance, R), rtol=1e-8, atol=1e-8)
    more, higher = starts(prior, n + 3, torch.Generator().manual_seed(seed))
    assert torch.equal(more[:n], x) and torch.equal(higher[:n], z)


@given(SHAPES, DIMENSIONS, HEIGHTS, SEEDS)
def test_the_density_of_the_plane_moves_and_scales(shape, D, z_max, seed):
    x, shift, N = z_max * draw(seed, 6, shape), draw(seed + 1, 1, shape)[0], math.prod(shape)
    here, there, unit = Prior(shape, z_max, D), Prior(shape, z_max, D, shift), Prior(shape, 1.0, D)
    torch.testing.assert_close(there.log_prob(x + shift), here.log_prob(x), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(here.log_prob(x), unit.log_prob(x / z_max) - N * math.log(z_max), atol=1e-6, rtol=1e-6)
    falling = here.log_prob(torch.stack([k * x[0] for k in (0, 1, 2, 3)]))
    assert bool((falling.diff() < 0).all())


@given(SHAPES, DIMENSIONS, SEEDS)
def test_quantiles_of_the_radius_rise(shape, D, seed):
    prior, u = Prior(shape, 2.0, D), torch.linspace(0.01, 0.99, 30)
    radii = prior.radius_icdf(u)
    assert bool((radii.diff() > 0).all() and (radii > 0).all())
    distances = prior.sample(400, torch.Generator().manual_seed(seed))[0].flatten(1).norm(dim=1)
    below = (distances < prior.radius_icdf(torch.tensor([0.5]))).double().mean().item()
    assert abs(below - 0.5) < 0.13, "five standard deviations"


@given(SHAPES, DIMENSIONS, HEIGHTS, SEEDS, DTYPES)
def test_a_draw_keeps_the_type_and_scales(shape, D, z, seed, dtype):
    y = draw(seed, 5, shape, dtype)
    x = student_draw(y, z, D, torch.Generator().manual_seed(seed))
    wide = student_draw(torch.zeros_like(y), 2 * z, D, torch.Generator().manual_seed(seed))
    assert x.dtype == dtype
    torch.testing.assert_close(wide, 2 * (x - y), rtol=1e-3, atol=1e-5 * (1 + y.abs().max().item()))


# The lines

def place(seed: int, shape: tuple, D: float):
    "A flow of few charges and a prior far above them."
    charges = draw(seed, 4, shape)
    N = math.prod(shape)
    prior = Prior(shape, 60.0, D) if D == math.inf else Hemisphere(shape, 60.0 * math.sqrt(N + D), D)
    return EmpiricalFlow(charges, D), prior


@settings(max_examples=20)
@given(st.sampled_from([(1,), (3,), (2, 2), (1, 2, 3)]), st.sampled_from([1, 2, 128, math.inf]), SEEDS)
def test_there_and_back(shape, D, seed):
    flow, prior = place(seed, shape, D)
    x = flow.charges + 0.3 * draw(seed + 1, 4, shape)
    latents = encode(flow, x, prior, z_min=0.5, steps=120)
    assert len(latents) == 4 and bool((latents.z > latents.end).all())
    back = sample(flow, prior, latents=latents, steps=120, z_min=0.5).x
    torch.testing.assert_close(back, x, atol=0.02, rtol=0)


@settings(max_examples=20)
@given(st.sampled_from(sorted(set(SOLVERS) - {"rk45"})), st.sampled_from([1, 8, math.inf]), SEEDS, st.integers(1, 7),
       st.integers(2, 9))
def test_samples_do_not_depend_on_batches_and_are_in_the_hull(solver, D, seed, batch_size, steps):
    flow, prior = place(seed, (2, 2), D)
    whole, parts = (sample(flow, prior, 6, solver, steps, generator=torch.Generator().manual_seed(seed), batch_size=size)
                    for size in (6, batch_size))
    torch.testing.assert_close(parts.x, whole.x, atol=1e-9, rtol=0)
    assert whole.x.dtype == torch.float64 and whole.nfe == parts.nfe >= steps
    assert bool((whole.x <= flow.charges.amax(0) + 1e-6).all()), "the last step ends in a posterior mean"


@settings(max_examples=20)
@given(st.sampled_from([1, 2, 16, math.inf]), SEEDS, st.floats(-3, 3))
def test_lines_move_with_their_charges(D, seed, shift):
    flow, prior = place(seed, (3,), D)
    there = EmpiricalFlow(flow.charges + shift, D)
    start = Latents(*starts(prior, 3, torch.Generator().manual_seed(seed)))
    moved = Latents(start.x + shift, start.z)
    same = sample(flow, prior, latents=start, steps=6).x + shift
    torch.testing.assert_close(sample(there, prior, latents=moved, steps=6).x, same, atol=1e-6, rtol=0)


@given(SHAPES, st.sampled_from([1, 2, 16, math.inf]), SEEDS, st.floats(0.2, 5), st.integers(2, 6))
def test_ways_and_temperatures_stay_on_the_hemisphere(shape, D, seed, factor, count):
    _, prior = place(seed, shape, D)
    a, b = (Latents(*starts(prior, 3, torch.Generator().manual_seed(seed + k))) for k in range(2))
    way, warm = interpolate(prior, a, b, count), rescale(prior, a, factor)
    assert len(way) == 3 * count and torch.allclose(way.x[::count], a.x, rtol=1e-5, atol=1e-5)
    cold, hot = (latents.x.flatten(1).norm(dim=1) / latents.z for latents in (a, warm))
    torch.testing.assert_close(hot, factor * cold, rtol=1e-6, atol=0)
    if D < math.inf:
        for latents in (way, warm):
            away = (latents.x.flatten(1).square().sum(1) + D * latents.z.square()).sqrt()
            torch.testing.assert_close(away, torch.full_like(away, prior.R), rtol=1e-5, atol=0)


# The likelihood

@settings(max_examples=10)
@given(st.sampled_from([1, 2, 16, math.inf]), SEEDS, st.floats(-2, 2), st.floats(0.5, 2), st.sampled_from(["rk45", "2m"]))
def test_the_density_moves_with_the_data_and_scales(D, seed, shift, scale, solver):
    charges, x = draw(seed, 3, (2,)), draw(seed + 1, 2, (2,))

    def density(shift: float, scale: float) -> torch.Tensor:
        flow, prior = EmpiricalFlow(scale * charges + shift, D), Prior((2,), scale * 40.0, D, torch.full((2,), shift))
        options = dict(rtol=1e-5, atol=1e-5 * scale) if solver == "rk45" else dict(steps=40)
        return log_likelihood(flow, prior, scale * x + shift, 0.5 * scale, solver=solver, **options)

    here = density(0.0, 1.0)
    assert here.dtype == torch.float64 and bool(here.isfinite().all())
    torch.testing.assert_close(density(shift, 1.0), here, atol=2e-3, rtol=0)
    torch.testing.assert_close(density(0.0, scale), here - 2 * math.log(scale), atol=2e-3, rtol=0)


@pytest.mark.parametrize("D", [1, 4, math.inf])
def test_one_charge_has_the_density_of_its_kernel(D):
    "Lines of one charge are straight, so the density at any height is that of the kernel there."
    charge, x = torch.tensor([[0.3, -0.2, 0.1]], dtype=torch.float64), draw(0, 5, (3,))
    found = log_likelihood(EmpiricalFlow(charge, D), Prior((3,), 50.0, D, charge[0]), x, 0.7, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found, Prior((3,), 0.7, D, charge[0]).log_prob(x), atol=1e-3, rtol=0)
