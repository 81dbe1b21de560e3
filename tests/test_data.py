"Data: toys, digits, layouts, the map to [-1, 1] and back, classes, and every array that is refused."
import numpy as np
import pytest
import torch

from pfgm import data as D
from pfgm.checks import InputError
from pfgm.data import TOYS, Data, from_array
from pfgm.sources import load

RNG = np.random.default_rng(0)


def both(data: Data) -> torch.Tensor:
    return torch.cat([data.train, data.test])


def bytes_of(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


# Toys and digits

@pytest.mark.parametrize("name", TOYS)
def test_toys(name):
    data, again, other = load(name, n=500), load(name, n=500), load(name, n=500, seed=1)
    assert data.train.shape == data.test.shape == (500, 2) and data.train.dtype == torch.float32
    assert both(data).abs().max() <= 1 and not data.is_images
    assert torch.equal(data.train, again.train) and not torch.equal(data.train, other.train)
    assert not torch.equal(data.train, data.test)
    assert torch.equal(data.restore(data.train), data.train)
    drawn = TOYS[name](7, torch.Generator().manual_seed(0))
    assert drawn.shape == (7, 2)


def test_toys_leave_the_global_seed_alone():
    torch.manual_seed(3)
    before = torch.rand(1)
    torch.manual_seed(3)
    load("rings", n=10)
    from_array(np.arange(10.0))
    assert torch.equal(torch.rand(1), before)


def test_digits_split_ignores_the_seed():
    data, other = load("digits"), load("digits", seed=5)
    assert data.train.shape == (1400, 1, 8, 8) and data.test.shape == (397, 1, 8, 8)
    assert torch.equal(data.train, other.train) and data.is_images and data.layout == "hw"
    assert data.classes == list("0123456789") and data.labels.bincount().min() > 100 and len(data.test_labels) == 397
    means = torch.stack([data.train[data.labels == k].mean(0) for k in range(10)]).flatten(1)
    assert (torch.cdist(data.test.flatten(1), means).argmin(1) == data.test_labels).float().mean() > 0.8
    assert data.restore(data.test).shape == (397, 8, 8)
    assert "1400 train + 397 held out" in repr(data)


# Arrays

@pytest.mark.parametrize(("shape", "scaled", "layout", "images"), [
    ((), (1,), "n", False), ((5,), (5,), "", False), ((1,), (1,), "", False),
    ((8, 8), (1, 8, 8), "hw", True), ((7, 9), (7, 9), "", False), ((28, 20), (1, 28, 20), "hw", True),
    ((9, 8, 3), (3, 9, 8), "hwc", True), ((9, 8, 1), (1, 9, 8), "hwc", True), ((4, 4, 3), (4, 4, 3), "", False),
    ((3, 9, 8), (3, 9, 8), "", True), ((1, 9, 8), (1, 9, 8), "", True), ((2, 9, 8), (2, 9, 8), "", False),
    ((3, 4, 4), (3, 4, 4), "", False), ((9, 8, 4), (9, 8, 4), "", False), ((8, 8, 8), (8, 8, 8), "", False),
    ((2, 3, 4, 5), (2, 3, 4, 5), "", False),
])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_layouts(shape, scaled, layout, images, dtype):
    array = bytes_of(20, *shape).astype(dtype)
    data = from_array(array)
    if dtype == np.uint8 and shape in ((7, 9), (4, 4, 3)):  # bytes are pixels
        scaled, layout, images = ((1, 7, 9), "hw", True) if shape == (7, 9) else ((3, 4, 4), "hwc", True)
    assert (data.shape, data.layout, data.is_images) == (scaled, layout, images)
    assert len(data.train) == 18 and len(data.test) == 2
    assert both(data).dtype == (torch.uint8 if dtype == np.uint8 and len(shape) > 1 else torch.float32)
    charges = data.scaled(both(data))
    assert charges.dtype == torch.float32 and charges.abs().max() <= 1 and both(data).is_contiguous()
    assert torch.equal(data.restore(charges), data.restore(both(data)))
    back = data.restore(charges).numpy().reshape(20, -1).round(3)
    assert sorted(map(tuple, back)) == sorted(map(tuple, array.reshape(20, -1).astype(float)))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32", "int64", "uint64", "bool", "float16",
                                   "float32", "float64", ">f4", ">i4", "longdouble"])
@pytest.mark.parametrize("shape", [(30, 2), (30, 2, 3)])
def test_dtypes(dtype, shape):
    array = RNG.integers(0, 100, shape).astype(dtype)
    data = from_array(array)
    charges = data.scaled(both(data))
    assert charges.dtype == torch.float32 and charges.abs().max() <= 1
    back, columns = data.restore(charges).double(), 2 if len(shape) == 2 else 1
    original = torch.tensor(array.astype(float)).reshape(-1, columns)
    assert (back.reshape(-1, columns).sort(0).values - original.sort(0).values).abs().max() < 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.uint8, torch.bool, torch.int64, torch.float64])
def test_tensors(dtype):
    data = from_array((torch.rand(10, 3, generator=torch.Generator().manual_seed(0)) * 2).to(dtype))
    assert data.shape == (3,) and both(data).abs().max() <= 1


def test_lists_gradients_views_and_small_sets():
    assert from_array([[0, 1], [2, 3], [4, 5]]).train.shape == (2, 2)
    assert from_array(torch.ones(4, 2, requires_grad=True)).train.requires_grad is False
    assert from_array(np.arange(40.0).reshape(4, 10).T[::-1]).shape == (4,)
    two = from_array(bytes_of(2, 8, 8))
    assert len(two.train) == len(two.test) == 1
    frozen = bytes_of(20, 8, 8)
    frozen.flags.writeable = False
    assert from_array(frozen).is_images


def test_the_given_array_is_not_changed():
    for array in (RNG.normal(size=(20, 3)).astype(np.float32), torch.randn(20, 3, 9, 9)):
        kept = np.asarray(array).copy()
        data = from_array(array)
        data.train.zero_()
        assert np.array_equal(kept, np.asarray(array))


def test_split_depends_on_the_seed_alone():
    array = np.arange(100.0)
    assert torch.equal(from_array(array, seed=1).test, from_array(array * 5 + 3, seed=1).test)
    assert not torch.equal(from_array(array, seed=1).test, from_array(array, seed=2).test)


def test_columns_have_units_of_their_own_and_images_have_one():
    table = np.stack([np.linspace(0, 1, 50), np.linspace(-3e6, 5e6, 50), np.full(50, 7.0)], 1)
    data = from_array(table)
    low, high = both(data).aminmax(dim=0)
    assert low.tolist() == [-1, -1, 0] and high.tolist() == [1, 1, 0] and data.scale[2] == 1
    curves = from_array(table[:, :, None])
    assert curves.scale.shape == () and both(curves).aminmax() == (-1, 1)
    assert from_array(np.full((4, 8, 8), 2.5)).train.abs().max() == 0


@pytest.mark.parametrize("values", [
    [1.0, np.nextafter(1.0, 2)], [-1.7e308, 1.7e308], [0.0, 5e-324], [1.7e9, 1.7e9 + 1], [2**53, 2**53 - 3]])
def test_extreme_ranges_stay_inside(values):
    data = from_array(np.array(values * 10))
    assert both(data).isfinite().all() and both(data).abs().max() <= 1
    back = data.restore(both(data)).flatten().sort().values
    assert torch.allclose(back, torch.tensor(sorted(values * 10), dtype=torch.float64), rtol=1e-9)


def test_bytes_come_back_exactly():
    data = from_array(np.arange(256, dtype=np.uint8).reshape(4, 8, 8))
    assert torch.equal(data.restore(both(data)).flatten().sort().values, torch.arange(256.0))
    dark = from_array(np.full((4, 8, 8), 3, np.uint8))
    assert dark.restore(dark.train).unique().tolist() == [3]


@pytest.mark.parametrize(("array", "words"), [
    (np.ones((4, 2), complex), "complex128"), (np.array([[1, None]] * 3), "object"), (["a", "b"], "<U1"),
    (np.zeros(3, "datetime64[s]"), "datetime64"), ([[1, 2], [3]], "not one array"),
    (torch.ones(4, 2, dtype=torch.complex64), "complex64"), (5.0, "shape ()"), (np.ones((1, 2)), "shape (1, 2)"),
    (np.ones((0, 2)), "shape (0, 2)"), (np.ones((3, 0)), "shape (3, 0)"),
    ([[1.0, 2.0], [np.nan, np.inf]], "(2 of 4), the first at index (1, 0)"),
    (np.array([0, 1, -np.inf]), "(1 of 3), the first at index (2,)"),
    (np.where(np.arange(128).reshape(2, 8, 8) == 77, np.nan, 0), "the first at index (1, 1, 5)"),
])
def test_arrays_refused(array, words):
    with pytest.raises(InputError) as caught:
        from_array(array, "mine")
    assert words in str(caught.value) and "'mine'" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("labels", [["cat", "dog"] * 15, np.arange(30) % 2 == 0, torch.arange(30) % 2 * 7])
def test_labels_go_with_their_samples(labels):
    data = from_array(np.arange(30.0), labels=labels)
    place, kind = data.restore(both(data)).round().long(), torch.cat([data.labels, data.test_labels])
    assert kind.dtype == torch.int64 and len(data.labels) == 27 and set(kind.tolist()) == {0, 1}
    assert [data.classes[k] for k in kind] == [str(labels[k].item() if hasattr(labels[k], "item") else labels[k])
                                               for k in place]
    assert "2 classes" in repr(data)


@pytest.mark.parametrize("labels", [[1, 2], [[1]] * 4, [None] * 4, [0.5] * 4, 3])
def test_labels_refused(labels):
    with pytest.raises(InputError, match="'mine' has 4 samples; give each a label"):
        from_array(np.ones((4, 2)), "mine", labels=labels)


def test_no_more_is_held_out_than_needed():
    assert [len(part) for part in D.split(3)] == [2, 1] and [len(part) for part in D.split(95)] == [86, 9]
    train, test = D.split(250_000)
    assert len(test) == 10_000 and sorted(np.concatenate([train, test])) == list(range(250_000))


def test_restore_wants_its_own_shape():
    with pytest.raises(InputError, match="restore needs points of shape"):
        load("digits").restore(torch.zeros(2, 8, 8))
    with pytest.raises(InputError, match=r"have shape \(2,\), not \(3,\)"):
        load("rings").as_charges(np.zeros((4, 3)))
