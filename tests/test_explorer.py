"The explorer without a browser: every setting draws, odd charges do not break it, wrong input is named."
import math

import matplotlib
import pytest
import torch

import pfgm
from pfgm.checks import InputError
from pfgm.explorer import HEIGHTS, Explorer, Settings, explore, fall, picture
from pfgm.ode import SOLVERS
from pfgm.walk import numbered, walk_picture

matplotlib.use("Agg")
THREE = torch.tensor([[0.0, 0.5], [-0.5, -0.5], [0.7, 0.0]], dtype=torch.float64)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("D", [1, 64, math.inf])
@pytest.mark.parametrize("extra", [True, False])
def test_every_setting_draws(solver, D, extra):
    for z in (HEIGHTS[0], HEIGHTS[-1]):
        settings = Settings(z=z, extra=extra, D=D, solver=solver, steps=1, particles=50)
        now = fall(THREE, settings)
        assert now.x.isfinite().all() and now.lines.isfinite().all() and now.nfe >= 1
        assert len(picture(THREE, settings).axes) == 2
        matplotlib.pyplot.close("all")


@pytest.mark.parametrize("charges", [[[0.3, 0.3]], [[0.1, 0.1]] * 5, [[1000.0, 0.0], [0.0, 0.0]]])
def test_odd_charges(charges):
    for extra in (True, False):
        now = fall(torch.tensor(charges, dtype=torch.float64), Settings(z=HEIGHTS[-1], extra=extra))
        assert now.x.isfinite().all() and math.isfinite(now.error)


def test_one_charge_has_straight_lines():
    now = fall(torch.zeros(1, 2, dtype=torch.float64), Settings(solver="euler", steps=1))
    assert now.error < 1e-12 and now.reached == 1
    torch.testing.assert_close(now.stops[-1, :, :2] / now.stops[-1, :, 2:], now.stops[0, :, :2] / now.stops[0, :, 2:])


def test_lines_end_at_the_charges_with_z_and_not_without():
    angle = torch.arange(100, dtype=torch.float64) / 100 * 2 * math.pi
    circle = torch.stack([angle.cos(), angle.sin()], 1)
    rings = torch.cat([0.3 * circle, 0.9 * circle])
    share = {extra: (torch.linalg.norm(fall(rings, Settings(z=HEIGHTS[-1], extra=extra, steps=64)).x, dim=1) > 0.6)
             .double().mean().item() for extra in (True, False)}
    assert abs(share[True] - 0.5) < 0.1 and share[False] < 0.3, share


def test_controls_redraw_and_charges_are_kept():
    explorer = Explorer(THREE)
    explorer.controls["charges"].value = "rings"
    assert len(explorer.charges) == 200
    explorer.controls["extra"].value = False
    assert explorer.controls["D"].disabled and "In the plane" in explorer.axes[0].get_title()
    explorer.controls["charges"].value = "your own"
    assert torch.equal(explorer.charges, THREE)


@pytest.mark.parametrize("wrong, words", [
    (lambda: explore(torch.zeros(3, 3)), "(3, 3)"), (lambda: Settings(z=50), "z is 50"),
    (lambda: Settings(solver="huen"), "did you mean 'heun'?"), (lambda: Settings(D=0), "must be 1 or more")])
def test_wrong_input_is_named(wrong, words):
    with pytest.raises(InputError) as error:
        wrong()
    assert words in str(error.value)


@pytest.mark.parametrize("D", [1, 8, math.inf])
def test_numbered_starts_and_ways(D):
    model = pfgm.fit(torch.randn(20, 8, 8, generator=torch.Generator().manual_seed(0)), steps=1, D=D, width=8, progress=False)
    starts = numbered(model, [1, 2])
    x, z = model.prior.sample(1, torch.Generator().manual_seed(2))
    torch.testing.assert_close(starts.x[1:], x)
    torch.testing.assert_close(starts.z[1:], z)
    assert len(walk_picture(model, 3, 3).axes) == 3
    assert len(walk_picture(model, temperature=0.1).axes) == 3


def test_models_of_other_data_are_refused():
    model = pfgm.fit(torch.randn(20, 2), steps=1, progress=False)
    with pytest.raises(InputError, match="shows images"):
        walk_picture(model)
