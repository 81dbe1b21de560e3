"The posterior mean of pixels kept as bytes, and of one class, against brute force in double precision."
import math

import pytest
import torch

from pfgm import field
from pfgm.checks import InputError
from pfgm.field import posterior_mean, posterior_weights, scaled
from pfgm.flow import EmpiricalFlow


def picture_like(n, seed=0):
    "Smooth bytes of 3 x 32 x 32, with the norm of CIFAR-10 images."
    generator = torch.Generator().manual_seed(seed)
    small = 128 + 75 * torch.randn(n, 3, 8, 8, generator=generator)
    return torch.nn.functional.interpolate(small, size=32, mode="bicubic").clamp(0, 255).round().to(torch.uint8)


def brute_force(x, z, y, D, allowed=None):
    x, z, y = (t.double().flatten(1) for t in (x, z[:, None], y))
    square = (x[:, None] - y).square().sum(-1)
    logs = -square / (2 * z ** 2) if D == math.inf else -(y.shape[1] + D) / 2 * (square + D * z ** 2).log()
    return torch.softmax(logs if allowed is None else logs.masked_fill(~allowed, -math.inf), 1) @ y


def queries(y, m):
    "Points at the distance and height of the paper's m-th draw from the first 12 charges."
    generator, growth = torch.Generator().manual_seed(m), 0.01 * 1.03 ** m
    noise = torch.randn(12, *y.shape[1:], generator=generator)
    noise = noise * (growth * 55.4 / noise.flatten(1).norm(dim=1))[:, None, None, None]
    return scaled(y[:12]) + noise, growth * torch.randn(12, generator=generator).abs()


def test_all_bytes():
    k = torch.arange(256, dtype=torch.uint8)
    assert scaled(k).dtype == torch.float32
    torch.testing.assert_close(scaled(k).double(), torch.arange(256.0).double() / 127.5 - 1, rtol=0, atol=6e-8)
    assert torch.equal(scaled(k), -scaled(k).flip(0)) and torch.equal(scaled(scaled(k)), scaled(k))


@pytest.mark.parametrize("D", [1, 128, math.inf])
@pytest.mark.parametrize("m", [0, 100, 180, 200, 210, 230, 291])
def test_pixels_against_brute_force(monkeypatch, m, D):
    y = picture_like(300)
    x, z = queries(y, m)
    exact = brute_force(x, z, scaled(y), D)
    for parts in (300, 40):
        monkeypatch.setattr(field, "_parts", lambda charges: charges.flatten(1).split(parts))
        mean = posterior_mean(x, z, y, D, memory=10 ** 5)
        error = (mean.flatten(1).double() - exact).norm(dim=1) / (x.flatten(1).double() - exact).norm(dim=1)
        assert mean.dtype == torch.float32 and error.max() < 5e-7


@pytest.mark.parametrize("shape", [(2,), (16,), (17,), (1, 8, 8)])
def test_few_numbers_and_other_dtypes(shape):
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(256, (50, *shape), generator=generator, dtype=torch.uint8)
    x = torch.rand(4, *shape, generator=generator, dtype=torch.float64) * 2 - 1
    mean = posterior_mean(x, 0.2, y)
    assert mean.dtype == torch.float64 and mean.shape == x.shape
    torch.testing.assert_close(mean, posterior_mean(x, 0.2, scaled(y)), rtol=0, atol=1e-6)
    torch.testing.assert_close(posterior_weights(x, 0.2, y), posterior_weights(x, 0.2, scaled(y)))
    torch.testing.assert_close(EmpiricalFlow(y).posterior_mean(x, 0.2), mean)
    assert posterior_mean(x[:0], 0.2, y).shape == (0, *shape)


def test_double_precision_stays_double():
    generator = torch.Generator().manual_seed(0)
    for N in (3, 40):
        y, x = (torch.randn(n, N, generator=generator, dtype=torch.float64) for n in (30, 4))
        exact = brute_force(x, torch.full((4,), 0.1, dtype=torch.float64), y, 1)
        torch.testing.assert_close(posterior_mean(x, 0.1, y), exact, rtol=1e-11, atol=1e-11)


def test_pixels_become_numbers_a_part_at_a_time(monkeypatch):
    y = picture_like(100).repeat(120, 1, 1, 1)
    sizes, norms = [], []
    monkeypatch.setattr(field, "scaled", lambda charges: sizes.append(charges.numel()) or scaled(charges))
    monkeypatch.setattr(field, "_norms", lambda charges, plain=field._norms: norms.append(1) or plain(charges))
    x, z = queries(y, 180)
    memory = 5 * 4 * len(y) * 6 + 6  # six queries at a time
    whole = posterior_mean(x, z, y, memory=memory)
    assert max(sizes) <= 2 ** 24 < y.numel() and len(norms) == 1
    torch.testing.assert_close(whole, posterior_mean(x, z, y[:100]), rtol=0, atol=1e-5)


def test_blocks_of_queries_keep_their_heights_and_classes():
    y, kinds = picture_like(60), torch.arange(60) % 3
    x, z = queries(y, 200)
    labels = torch.tensor([-1, 0, 1, 2] * 3)
    for D in (1, math.inf):
        whole = posterior_mean(x, z, y, D, labels=labels, charge_labels=kinds)
        pieces = posterior_mean(x, z, y, D, memory=1, labels=labels, charge_labels=kinds)
        torch.testing.assert_close(whole, pieces, rtol=0, atol=1e-5)


@pytest.mark.parametrize("D", [1, 128, math.inf])
@pytest.mark.parametrize("m", [0, 100, 200, 291])
def test_classes_against_brute_force(m, D):
    y = picture_like(300)
    x, z = queries(y, m)
    kinds, labels = torch.arange(300) % 4, torch.arange(12) % 4
    labels[::3], labels[1::3] = -1, (labels[1::3] + 1) % 4  # any class, another than that of the nearest, that of the nearest
    allowed = (labels[:, None] == kinds) | (labels[:, None] < 0)
    exact = brute_force(x, z, scaled(y), D, allowed)
    mean = posterior_mean(x, z, y, D, labels=labels, charge_labels=kinds).flatten(1)
    error = (mean.double() - exact).norm(dim=1) / (x.flatten(1).double() - exact).norm(dim=1)
    assert error[0::3].max() < 5e-7 and error[2::3].max() < 5e-7
    assert error[1::3].max() < 1e-4  # far from all allowed charges the exponent multiplies the rounding of the distances
    weights = posterior_weights(x, z, y, D, labels, kinds)
    assert (weights[~allowed] == 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(12))


@pytest.mark.parametrize("N", [2, 40])
def test_gradient_with_classes_is_finite_and_right(N):
    generator = torch.Generator().manual_seed(0)
    y, kinds = torch.randn(30, N, generator=generator, dtype=torch.float64), torch.arange(30) % 3
    labels = torch.tensor([1, 2, -1])
    x = (y[:3] + 1e-3).requires_grad_()  # the nearest charge belongs to another class
    for D in (1, math.inf):
        mean = lambda x: posterior_mean(x, 0.5, y, D, labels=labels, charge_labels=kinds)
        assert torch.autograd.gradcheck(mean, x)


def test_a_class_without_charges_is_refused():
    y, kinds = torch.randn(6, 3), torch.tensor([0, 0, 1, 1, 3, 3])
    with pytest.raises(InputError, match="no charge of class .*2.*-1 means any class"):
        posterior_mean(y[:2], 1.0, y, labels=torch.tensor([0, 2]), charge_labels=kinds)


def test_no_charges_are_refused():
    with pytest.raises(InputError, match="all but the first number must agree"):
        posterior_mean(torch.ones(2, 3), 1.0, torch.ones(0, 3))
