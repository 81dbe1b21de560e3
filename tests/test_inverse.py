"Inverse problems: what is seen stays, answers come as often as they should, and bad input gets one sentence."
import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from pfgm.checks import InputError
from pfgm.config import TrainConfig
from pfgm.data import from_array
from pfgm.flow import EmpiricalFlow
from pfgm.inverse import METHODS, Linear, restore
from pfgm.model import Model, make_flow, make_network, statistics

DIGITS = (torch.tensor(load_digits().images[:48]) / 8 - 1)[:, None]
TOP = torch.arange(8)[None, :, None].expand(1, 8, 8) < 4


def model_of(array, **values) -> Model:
    torch.manual_seed(0)
    data, config = from_array(array), TrainConfig(width=16, **values)
    return Model(make_flow(config, make_network(config, data.shape), *statistics(config, data)).eval(), data, config)


@pytest.mark.parametrize("shape", [(), (3,), (6, 4), (6, 4, 3), (3, 6, 4)])
def test_what_is_seen_stays_in_every_layout(shape):
    array = np.random.default_rng(0).normal(5, 2, (40, *shape)).astype(np.float32)
    model = model_of(array)
    y, seen = torch.tensor(array[:4]), torch.tensor(np.random.default_rng(1).random(shape) < 0.6)
    if not seen.any():
        seen = torch.ones_like(seen)
    hidden = torch.where(seen, y, torch.nan)
    x = model.restore(hidden, seen, n_each=2, steps=6)
    assert x.shape == (4, 2, *shape) and x.isfinite().all()
    torch.testing.assert_close(x[:, :, seen], y[:, None].expand(4, 2, *shape)[:, :, seen], rtol=1e-4, atol=1e-4)
    assert seen.all() or (x[:, :, ~seen] - y[:, None][:, :, ~seen]).abs().max() > 1e-3


def test_a_blurred_image_has_the_same_blur_in_the_units_of_the_data():
    images = load_digits().images[:60].astype(np.uint8) * 15
    model = model_of(images)

    def blur(x):
        return torch.nn.functional.avg_pool2d(x, 2, 2)
    y = blur(torch.tensor(images[:3]).float())
    x = model.restore(y, blur, steps=10)
    torch.testing.assert_close(blur(x[:, 0]), y, rtol=0, atol=0.1)
    noisy = model.restore(y, blur, noise=20.0, steps=10)
    assert 5 < (blur(noisy[:, 0]) - y).std() < 60


@pytest.mark.parametrize("method", METHODS)
def test_an_answer_depends_on_no_other(method):
    flow, half = EmpiricalFlow(DIGITS, 16), Linear(TOP, (1, 8, 8))
    options = dict(n_each=2, method=method, steps=20, seed=3)
    whole = restore(flow, half, DIGITS[:6], 0.1, **options)
    torch.testing.assert_close(restore(flow, half, DIGITS[:6], 0.1, batch_size=4, **options), whole)
    assert not torch.equal(restore(flow, half, DIGITS[:6], 0.1, **options | dict(seed=4)), whole)


@pytest.mark.parametrize("D", [1, 128, math.inf])
def test_half_a_digit_is_completed(D):
    x = restore(EmpiricalFlow(DIGITS, D), Linear(TOP, (1, 8, 8)), DIGITS, n_each=8, steps=50, s_max=1.5, s_min=0.02)
    right = torch.cdist(x.flatten(0, 1).flatten(1), DIGITS.flatten(1)).argmin(1).view(-1, 8) == torch.arange(48)[:, None]
    assert right.double().mean() > 0.95


@pytest.mark.parametrize("D", [1, math.inf])
def test_a_noisy_digit_has_the_exact_posterior_mean(D):
    y = DIGITS[:1] + torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = EmpiricalFlow(DIGITS, math.inf).posterior_mean(y, 1.0)
    everything = Linear(torch.ones(1, 8, 8, dtype=torch.bool), (1, 8, 8))
    x = restore(EmpiricalFlow(DIGITS, D), everything, y, 1.0, n_each=2000, steps=60, s_max=1.5, s_min=0.05)
    assert (x[0].mean(0) - exact[0]).norm() < 0.02 * exact.norm()


def test_two_answers_come_as_often_as_they_should():
    twin = torch.where(TOP, DIGITS[3], DIGITS[9])  # the same upper half, three times in the data
    charges = torch.cat([DIGITS[:32], twin[None].expand(3, -1, -1, -1)])
    for D in (1, math.inf):
        x = restore(EmpiricalFlow(charges, D), Linear(TOP, (1, 8, 8)), DIGITS[3:4], n_each=1000, s_max=1.5, s_min=0.1)
        distances = torch.cdist(x[0].flatten(1), torch.stack([DIGITS[3], twin]).flatten(1))
        assert distances.min(1).values.max() < 0.1
        assert abs((distances[:, 1] < distances[:, 0]).double().mean().item() - 0.75) < 0.06


IMAGES = load_digits().images[:40]
BAD = {"a mask of another shape": (lambda m: m.restore(IMAGES[:2], torch.ones(4, 8) > 0), "a mask has the shape of a sample"),
       "a mask of numbers": (lambda m: m.restore(IMAGES[:2], torch.ones(8, 8)), "a mask holds bools"),
       "a mask that hides all": (lambda m: m.restore(IMAGES[:2], torch.zeros(8, 8) > 0), "hides everything"),
       "another shape": (lambda m: m.restore(IMAGES[:2, :4]), "an observation has the shape of a sample"),
       "an operator that is not linear": (lambda m: m.restore(IMAGES[:2], lambda x: x ** 2), "not linear"),
       "an operator for other shapes": (lambda m: m.restore(IMAGES[:2], lambda x: x @ torch.ones(3, 3)), "operator fails on"),
       "an operator of nothing": (lambda m: m.restore(IMAGES[:2], lambda x: 0 * x), "gives zero whatever"),
       "an operator to nan": (lambda m: m.restore(IMAGES[:2], lambda x: x / 0), "not finite"),
       "observations of another operator": (lambda m: m.restore(IMAGES[:2, :3], lambda x: x[:, :4]), "observations have shape"),
       "negative noise": (lambda m: m.restore(IMAGES[:2], noise=-1.0), "noise is -1.0"),
       "noise that is no number": (lambda m: m.restore(IMAGES[:2], noise=math.nan), "noise is nan"),
       "no draws": (lambda m: m.restore(IMAGES[:2], n_each=0), "n_each is 0"),
       "half a step": (lambda m: m.restore(IMAGES[:2], steps=2.5), "steps is 2.5"),
       "a negative seed": (lambda m: m.restore(IMAGES[:2], seed=-1), "seed is -1"),
       "a method": (lambda m: m.restore(IMAGES[:2], method="gibs"), "did you mean 'gibbs'"),
       "a switch": (lambda m: m.restore(IMAGES[:2], select="perhaps"), "select is 'perhaps'"),
       "heights upside down": (lambda m: m.restore(IMAGES[:2], s_min=2.0, s_max=1.0), "s_min 2 must be"),
       "a hidden answer": (lambda m: m.restore(np.full((2, 8, 8), np.nan)), "NaN")}


@pytest.fixture(scope="module")
def digits_model():
    return model_of(IMAGES)


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_sentence(what, digits_model):
    call, words = BAD[what]
    with pytest.raises(InputError, match=words) as error:
        call(digits_model)
    assert "\n" not in str(error.value)
