"Sources: files of arrays, folders, sets larger than memory, torchvision, CelebA, LSUN, and every fault a user can make."
import errno
import gzip
import io
import os
import pickle
import struct
import sys
import tarfile
import urllib.error

import numpy as np
import pytest
import torch
from PIL import Image

from pfgm import sources as S
from pfgm.checks import InputError
from pfgm.data import TOYS, Data
from pfgm.model import Model
from pfgm.sources import CARRIED, STANDARD, load
from pfgm.training import fit

RNG = np.random.default_rng(0)


def both(data: Data) -> torch.Tensor:
    return torch.cat([data.train, data.test])


def bytes_of(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def save_images(folder, images, suffix=".png", start=0):
    folder.mkdir(parents=True, exist_ok=True)
    for k, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{k + start:03}{suffix}")
    return folder


def sentence(*args, **kwargs) -> str:
    "What `load` complains of: one line."
    with pytest.raises(InputError) as caught:
        load(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Array files

@pytest.mark.parametrize("names", [("anything",), ("labels", "data"), ("x", "y"), ("y", "images")])
def test_npz(tmp_path, names):
    right = next((name for name in ("data", "x", "images") if name in names), names[0])
    arrays = {name: bytes_of(20, 8, 9) if name == right else np.arange(20) for name in names}
    np.savez(tmp_path / "a.npz", **arrays)
    data = load(tmp_path / "a.npz")
    assert data.shape == (1, 8, 9) and data.restore(data.test).shape == (2, 8, 9)


def test_npz_with_objects_beside_the_data(tmp_path):
    np.savez(tmp_path / "a.npz", data=np.ones((4, 2)), labels=np.array([{}, None], dtype=object))
    assert load(str(tmp_path / "a.npz")).shape == (2,)


def test_npy(tmp_path):
    np.save(tmp_path / "a.npy", RNG.normal(size=(30, 4)))
    first, second = load(tmp_path / "a.npy", seed=1), load(str(tmp_path / "a.npy"), seed=1)
    assert torch.equal(first.train, second.train) and first.name.endswith("a.npy")


def test_array_files_refused(tmp_path):
    np.savez(tmp_path / "two.npz", first=np.ones(3), second=np.ones(3))
    assert "first, second" in sentence(tmp_path / "two.npz")
    np.save(tmp_path / "object.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    assert "numpy.save" in sentence(tmp_path / "object.npy")
    for name in ("broken.npy", "broken.npz"):
        (tmp_path / name).write_bytes(b"no array")
        assert name in sentence(tmp_path / name)
    (tmp_path / "empty.npy").touch()
    assert "empty.npy" in sentence(tmp_path / "empty.npy")
    np.savez(tmp_path / "none.npz")
    assert "none.npz" in sentence(tmp_path / "none.npz")
    np.save(tmp_path / "nan.npy", np.array([[1.0], [np.nan]]))
    assert "nan.npy' holds NaN or infinite numbers (1 of 2)" in sentence(tmp_path / "nan.npy")
    torch.save(torch.ones(3), tmp_path / "a.pt")
    assert "numpy.save" in sentence(tmp_path / "a.pt") and "any program" in sentence(tmp_path / "a.pt")
    (tmp_path / "a.csv").write_text("1,2")
    assert "folder of images, a .npy or a .npz file" in sentence(tmp_path / "a.csv")


# Image folders

@pytest.mark.parametrize("suffix", [".png", ".BMP", ".ppm", ".tif", ".TIFF"])
def test_folder_of_colour(tmp_path, suffix):
    images = bytes_of(12, 9, 11, 3)
    save_images(tmp_path / "a" / "b", images[:5], suffix)
    save_images(tmp_path, images[5:], suffix, start=5)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "._000.png").write_text("left behind by macOS")
    data = load(str(tmp_path))
    assert data.shape == (3, 9, 11) and data.layout == "hwc" and len(data.test) == 1
    back = data.restore(both(data)).numpy()
    assert {image.tobytes() for image in back.astype(np.uint8)} == {image.tobytes() for image in images}


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".webp", ".gif"])
def test_lossy_formats(tmp_path, suffix):
    save_images(tmp_path, np.full((3, 16, 16, 3), (200, 100, 50), np.uint8), suffix)
    data = load(tmp_path)
    mean = data.restore(data.train).mean((0, 1, 2))
    assert data.shape == (3, 16, 16) and (mean - torch.tensor([200.0, 100.0, 50.0])).abs().max() < 4


def test_folder_of_grey(tmp_path):
    save_images(tmp_path, bytes_of(4, 8, 9))
    save_images(tmp_path, [bytes_of(8, 9) > 100], start=10)                      # one bit per pixel
    save_images(tmp_path, [(bytes_of(8, 9).astype(np.uint16) * 257)], start=20)  # sixteen bits per pixel
    data = load(tmp_path)
    assert data.shape == (1, 8, 9) and data.layout == "hw" and data.restore(data.test).shape == (1, 8, 9)
    whole = data.restore(both(data))
    assert torch.equal(whole, whole.round()) and whole.max() > 200


def test_sixteen_bits(tmp_path):
    image = bytes_of(8, 9)
    save_images(tmp_path, [image.astype(np.uint16) * 257] * 2)
    assert np.array_equal(load(tmp_path).restore(load(tmp_path).train)[0].numpy(), image)


def test_mixed_folder_is_colour(tmp_path):
    grey = bytes_of(8, 8)
    save_images(tmp_path, [grey, bytes_of(8, 8, 3)])
    data = load(tmp_path)
    assert data.shape == (3, 8, 8)
    assert any((image == torch.tensor(grey)[..., None]).all() for image in data.restore(both(data)))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "CMYK"])
def test_transparency_becomes_white(tmp_path, mode):
    for k in range(2):
        image = Image.new("RGBA", (9, 9), (0, 0, 0, 0 if mode != "CMYK" else 255)).convert(mode)
        image.save(tmp_path / f"{k}.{'tif' if mode == 'CMYK' else 'png'}",
                   **({"transparency": 0} if mode == "P" else {}))
    data = load(tmp_path)
    assert data.shape[0] == (1 if mode == "LA" else 3)
    assert (data.restore(data.train) == (0 if mode == "CMYK" else 255)).all()


def test_photos_are_turned_as_the_camera_noted(tmp_path):
    image = np.zeros((8, 12, 3), np.uint8)
    image[:, :6] = 255
    for k in range(2):
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned clockwise
        Image.fromarray(image).save(tmp_path / f"{k}.png", exif=exif)
    data = load(tmp_path)
    assert data.shape == (3, 12, 8) and (data.train[0, :, :6] == 255).all() and (data.train[0, :, 6:] == 0).all()


def test_image_size(tmp_path):
    colours = bytes_of(3, 4, 3) // 2 + 64  # the filter rings by a share of the contrast
    for k, (width, height) in enumerate([(640, 480), (300, 500), (20, 16)]):
        image = Image.fromarray(colours[k][None].repeat(2, 0)).resize((width, height), Image.Resampling.NEAREST)
        image.save(tmp_path / f"{k}.jpg", quality=100, subsampling=0)
    data = load(tmp_path, image_size=16)
    assert data.shape == (3, 16, 16) and len(both(data)) == 3
    # 640 x 480: four vertical bars of 160; the middle 480 shows the second from 80 to 240
    order = torch.randperm(3, generator=torch.Generator().manual_seed(0))
    wide = data.restore(both(data))[(torch.cat([order[1:], order[:1]]) == 0).nonzero().item()]
    assert (wide[:, 4:7] - torch.tensor(colours[0][1])).abs().max() < 3


def test_draft_decoding_changes_nothing_visible(tmp_path):
    smooth = Image.fromarray(bytes_of(8, 10, 3)).resize((1000, 800), Image.Resampling.BICUBIC)
    smooth.save(tmp_path / "a.jpg", quality=95)
    full = Image.open(tmp_path / "a.jpg").convert("RGB").crop((100, 0, 900, 800)).resize((32, 32), 3)
    fast = S._decode(tmp_path / "a.jpg", False, 32).transpose(1, 2, 0)
    assert np.abs(fast.astype(int) - np.asarray(full).astype(int))[1:-1, 1:-1].max() <= 3


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("shape", [(9000, 40), (40, 9000), (2500, 2500), (1, 500)])
def test_large_tall_and_flat_images(tmp_path, shape, suffix):
    image = np.zeros((*shape, 3), np.uint8)
    image[:] = (200, 100, 50)
    save_images(tmp_path, [image] * 2, suffix)
    data = load(tmp_path, image_size=16)
    assert data.shape == (3, 16, 16)
    assert (data.restore(data.train) - torch.tensor([200.0, 100.0, 50.0])).abs().max() <= 3


def test_folders_refused(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "a.txt").touch()
    assert "no images" in sentence(empty)
    one = save_images(tmp_path / "one", bytes_of(1, 8, 8))
    assert "at least two samples" in sentence(one)
    sizes = save_images(tmp_path / "sizes", [bytes_of(8, 9), bytes_of(8, 9), bytes_of(10, 8)])
    text = sentence(sizes)
    assert ".png' has 9 x 8" in text and "002.png' has 8 x 10" in text and "-p image_size 32" in text
    assert load(sizes, image_size=8).shape == (1, 8, 8)
    torn = save_images(tmp_path / "torn", bytes_of(3, 30, 30, 3))
    content = (torn / "001.png").read_bytes()
    for damaged in (content[:len(content) // 2], b"", b"no image at all"):
        (torn / "001.png").write_bytes(damaged)
        assert "001.png' cannot be read as an image" in sentence(torn)
    (tmp_path / "float").mkdir()
    for name in ("a.tif", "b.tif"):
        Image.fromarray(np.ones((8, 8), np.float32)).save(tmp_path / "float" / name)
    assert "floating-point" in sentence(tmp_path / "float")


def test_progress_bar_only_where_it_is_wanted(tmp_path, capfd):
    folder = save_images(tmp_path, [bytes_of(8, 8)])
    content = (folder / "000.png").read_bytes()
    for k in range(1, 2001):
        (folder / f"{k:04}.png").write_bytes(content)
    load(folder, progress=False)
    assert capfd.readouterr().err == ""
    load(folder)
    assert "reading images" in capfd.readouterr().err


# Classes and splits of folders

def coloured(folder, kinds, start=0):
    "Images of one colour, their number, in folders that say if it is even."
    for k in range(start, start + kinds):
        save_images(folder / ("even" if k % 2 == 0 else "odd"), np.full((1, 8, 8, 3), k, np.uint8), start=k)


def right(data, points, labels):
    return [data.classes[label] for label in labels] == ["odd" if p[0, 0, 0] % 2 else "even" for p in points]


def test_classes_are_the_folders(tmp_path):
    coloured(tmp_path, 30)
    data, other = load(tmp_path), load(tmp_path, seed=3)
    assert len(data.test) == 3 and right(data, data.train, data.labels) and right(data, data.test, data.test_labels)
    assert data.classes == ["even", "odd"] and data.labels.dtype == torch.int64
    assert torch.equal(data.train, other.train)
    assert data.train[:, 0, 0, 0].tolist() != sorted(data.train[:, 0, 0, 0].tolist())
    assert load(tmp_path / "even").classes is None


def test_train_and_test_folders(tmp_path):
    coloured(tmp_path / "train", 40)
    coloured(tmp_path / "test", 6, start=100)
    save_images(tmp_path / "other", bytes_of(3, 8, 8, 3))
    data = load(tmp_path)
    assert len(data.train) == 40 and len(data.test) == 6 and data.test.min() == 100
    assert right(data, data.train, data.labels) and right(data, data.test, data.test_labels)
    assert data.train[:, 0, 0, 0].tolist() != sorted(data.train[:, 0, 0, 0].tolist())


@pytest.mark.parametrize("stray", ["", "even/deeper"])
def test_no_classes_unless_all_images_have_one(tmp_path, stray):
    coloured(tmp_path, 6)
    save_images(tmp_path / stray, np.full((1, 8, 8, 3), 6, np.uint8), start=90)
    data = load(tmp_path)
    assert data.labels is data.test_labels is data.classes is None and len(both(data)) == 7


# Sets larger than memory

@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(S, "LARGE", 100)
    return tmp_path / "cache"


def test_large_sets_are_kept_in_a_file(tmp_path, cache, monkeypatch, capsys, recwarn):
    coloured(tmp_path / "set", 40)
    data = load(tmp_path / "set", data_dir=str(cache))
    file, = cache.iterdir()
    assert capsys.readouterr().out == f"writing 40 images into '{file}': 0.0 GB\n" and not recwarn
    assert np.load(file, allow_pickle=False).shape == (40, 3, 8, 8)
    monkeypatch.setattr(S, "LARGE", 2 ** 31)
    plain = load(tmp_path / "set", data_dir=str(tmp_path / "none"))
    assert torch.equal(plain.train, data.train) and torch.equal(plain.test, data.test) and data.train.dtype == torch.uint8
    assert torch.equal(plain.labels, data.labels) and not (tmp_path / "none").exists()
    assert torch.equal(data.restore(data.train[torch.tensor([5, 1])]), plain.restore(plain.train)[[5, 1]])
    gap = data.train.data_ptr() - data.test.data_ptr()
    assert abs(gap) in (data.train.numel(), data.test.numel())  # ranges of one mapping
    assert any(str(file) in line for line in open("/proc/self/maps")) if os.path.exists("/proc/self/maps") else True


def test_the_file_is_used_again_until_the_images_change(tmp_path, cache, monkeypatch):
    coloured(tmp_path / "set", 6)
    whole = load(tmp_path / "set", data_dir=str(cache))
    fill = S._fill
    monkeypatch.setattr(S, "_fill", lambda *_: pytest.fail("decoded again"))
    assert torch.equal(load(tmp_path / "set", data_dir=str(cache), seed=7).train, whole.train)
    monkeypatch.setattr(S, "_fill", fill)
    os.utime(tmp_path / "set" / "odd" / "003.png", ns=(0, 0))
    load(tmp_path / "set", data_dir=str(cache))
    load(tmp_path / "set", image_size=16, data_dir=str(cache))
    coloured(tmp_path / "set", 1, start=6)
    assert len(load(tmp_path / "set", data_dir=str(cache)).train) == 6
    assert len(list(cache.iterdir())) == 4


def test_nothing_is_left_of_a_file_that_failed(tmp_path, cache):
    coloured(tmp_path / "set", 6)
    (tmp_path / "set" / "odd" / "003.png").write_bytes(b"torn")
    assert "003.png' cannot be read" in sentence(tmp_path / "set", data_dir=str(cache))
    assert list(cache.iterdir()) == []


def test_full_disk(tmp_path, cache, monkeypatch):
    coloured(tmp_path / "set", 6)
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")
    if hasattr(os, "posix_fallocate"):
        monkeypatch.setattr(os, "posix_fallocate", full)
        text = sentence(tmp_path / "set", data_dir=str(cache))
        assert "No space left on device" in text and str(cache) in text and "-p data_dir" in text
    usage = S.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(S.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    text = sentence(tmp_path / "set", data_dir=str(cache))
    assert "6 images need 0.0 GB" in text and "0.0 GB are free" in text and "-p data_dir" in text
    assert list(cache.iterdir()) == []


def test_cache_folder_that_cannot_be_written(tmp_path, cache):
    coloured(tmp_path / "set", 6)
    cache.touch()
    text = sentence(tmp_path / "set", data_dir=str(cache))
    assert "cannot write" in text and str(cache) in text and "-p data_dir" in text


# Names and options

@pytest.mark.parametrize(("name", "words"), [
    ("digist", "did you mean 'digits'?"), ("cifar", "did you mean 'cifar10'?"), ("moons", "did you mean 'two_moons'?"),
    ("zzz", "unknown data set or path 'zzz'. Allowed: eight_gaussians"), ("", "unknown data set or path ''"),
])
def test_unknown_names(name, words):
    text = sentence(name)
    assert words in text and all(known in text for known in (*TOYS, *CARRIED, *STANDARD))


def test_missing_paths(tmp_path):
    for path in (tmp_path / "a" / "b", tmp_path / "x.npy", "./digits_", "pictures/cats", "x.npz", "~/no/such/folder"):
        text = sentence(path)
        assert f"no file or folder '{path}'" in text and "nearest folder that exists" in text
    assert f"is '{tmp_path}'" in sentence(tmp_path / "a" / "b")
    sentence("a" * 5000)


@pytest.mark.parametrize(("args", "words"), [
    ({"n": 1}, "n is the number of points"), ({"n": 0}, "got 0"), ({"n": 2.5}, "got 2.5"), ({"n": True}, "got True"),
    ({"image_size": 16}, "leave it out for 'rings'"),
])
def test_options_refused(args, words):
    assert words in sentence("rings", **args)


@pytest.mark.parametrize("size", [0, -4, 1, 16.0, True, "16"])
def test_image_sizes_refused(tmp_path, size):
    assert "image_size is a whole number" in sentence(tmp_path, image_size=size)


def test_load_is_for_names_and_paths():
    assert "from_array" in sentence(np.ones((3, 2)))


def test_a_folder_called_like_a_data_set(tmp_path, monkeypatch):
    save_images(tmp_path / "digits", bytes_of(3, 9, 9))
    monkeypatch.chdir(tmp_path)
    assert load("digits").shape == (1, 8, 8) and load("./digits").shape == (1, 9, 9)


# Standard sets, without network

@pytest.fixture
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("Name or service not known")
    monkeypatch.setattr("urllib.request.urlopen", refuse)


@pytest.mark.parametrize(("name", "file", "folder"), [
    ("cifar10", "cifar-10-python.tar.gz", ""), ("mnist", "t10k-images-idx3-ubyte.gz", "MNIST/raw"),
    ("fashion_mnist", "train-images-idx3-ubyte.gz", "FashionMNIST/raw"),
])
def test_no_network(tmp_path, offline, name, file, folder):
    text = sentence(name, data_dir=str(tmp_path))
    assert f"could not download '{name}'" in text and "Name or service not known" in text
    assert file in text and f"into {tmp_path / folder}," in text and "-p dataset digits" in text


def test_data_dir_that_cannot_be_written(tmp_path, offline):
    (tmp_path / "file").touch()
    assert "could not download 'mnist'" in sentence("mnist", data_dir=str(tmp_path / "file"))


def idx(array) -> bytes:
    "The format of MNIST: magic number, sizes, bytes."
    return struct.pack(f">I{array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
@pytest.mark.parametrize("packed", [False, True])
def test_mnist_from_local_files(tmp_path, offline, monkeypatch, capfd, name, folder, packed):
    from torchvision.datasets import mnist, utils
    kind = getattr(mnist, folder)
    raw = tmp_path / folder / "raw"
    raw.mkdir(parents=True)
    images = {"train": bytes_of(30, 28, 28), "t10k": bytes_of(10, 28, 28)}
    for part, array in images.items():
        for file, content in ((f"{part}-images-idx3-ubyte", idx(array)),
                              (f"{part}-labels-idx1-ubyte", idx(np.arange(len(array), dtype=np.uint8) % 10))):
            (raw / (file + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)
    if packed:
        resources = [(file, utils.calculate_md5(raw / file)) for file, _ in kind.resources]
        monkeypatch.setattr(kind, "resources", resources)
    data = load(name, data_dir=str(tmp_path))
    assert data.shape == (1, 28, 28) and data.is_images and data.name == name
    assert np.array_equal(data.restore(data.train).numpy(), images["train"])
    assert np.array_equal(data.restore(data.test).numpy(), images["t10k"])
    assert data.labels.tolist() == [k % 10 for k in range(30)] and data.test_labels.tolist() == list(range(10))
    assert data.labels.dtype == torch.int64 and len(data.classes) == 10
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("packed", [False, True])
def test_cifar10_from_local_files(tmp_path, offline, monkeypatch, packed):
    from torchvision.datasets import CIFAR10, utils
    source = tmp_path / "made" / "cifar-10-batches-py"
    source.mkdir(parents=True)
    images = bytes_of(6, 4, 3, 32, 32)
    names = [name for name, _ in CIFAR10.train_list + CIFAR10.test_list]
    for name, batch in zip(names, images, strict=True):
        (source / name).write_bytes(pickle.dumps({"data": batch.reshape(4, -1), "labels": [0, 1, 1, 0]}))
    (source / "batches.meta").write_bytes(pickle.dumps({"label_names": ["a", "b"]}))
    md5 = {path.name: utils.calculate_md5(path) for path in source.iterdir()}
    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5[name]] for name in names[:5]])
    monkeypatch.setattr(CIFAR10, "test_list", [[name, md5[name]] for name in names[5:]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5["batches.meta"]})
    root = tmp_path / "made"
    if packed:
        root = tmp_path / "packed"
        root.mkdir()
        with tarfile.open(root / "cifar-10-python.tar.gz", "w:gz") as archive:
            archive.add(source, "cifar-10-batches-py")
        monkeypatch.setattr(CIFAR10, "tgz_md5", utils.calculate_md5(root / "cifar-10-python.tar.gz"))
    data = load("cifar10", data_dir=str(root))
    assert data.shape == (3, 32, 32) and data.layout == "hwc" and len(data.train) == 20 and len(data.test) == 4
    assert np.array_equal(data.restore(data.test).numpy(), images[5].transpose(0, 2, 3, 1))
    assert np.array_equal(data.train.numpy(), images[:5].reshape(20, 3, 32, 32))
    assert data.classes == ["a", "b"] and data.labels.tolist() == [0, 1, 1, 0] * 5


def test_a_damaged_download(tmp_path, offline):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"half a file")
    assert "could not download 'cifar10'" in sentence("cifar10", data_dir=str(tmp_path))


# CelebA and LSUN, in files of their format

@pytest.fixture
def faces(tmp_path):
    "Seven faces of 178 x 218 pixels: black, the middle 140 x 140 in one colour; the last one grey."
    image = np.zeros((7, 218, 178, 3), np.uint8)
    image[:, 39:179, 19:159] = np.arange(20, 160, 20)[:, None, None, None]
    pictures = save_images(tmp_path / "celeba" / "img_align_celeba", image[:6], ".jpg")
    save_images(pictures, image[6:, ..., 0], ".jpg", start=6)
    lines = [f"{k:03}.jpg {part}" for k, part in enumerate([0, 0, 1, 0, 2, 1, 2])]
    (tmp_path / "celeba" / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.mark.parametrize("large", [0, 10 ** 6])
def test_celeba(faces, offline, monkeypatch, large):
    monkeypatch.setattr(S, "LARGE", large)
    data = load("celeba64", data_dir=str(faces), progress=False)
    assert data.shape == (3, 64, 64) and data.labels is None and len(list(faces.glob("images-*.npy"))) == (large == 0)
    wanted = torch.tensor([20.0, 40, 80, 100, 140])[:, None, None, None]  # black border cut off, validation left out
    assert len(data.train) == 3 and len(data.test) == 2 and (both(data) - wanted)[..., 2:-2, 2:-2].abs().max() <= 3


def test_celeba_that_cannot_be_had(tmp_path, faces, monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("quota exceeded")
    monkeypatch.setattr("torchvision.datasets.celeba.download_file_from_google_drive", refuse)
    text = sentence("celeba64", data_dir=str(tmp_path / "new"))
    assert "Google Drive" in text and "quota exceeded" in text and f"into {tmp_path / 'new' / 'celeba'}," in text
    assert "img_align_celeba and list_eval_partition.txt" in text and "mmlab.ie.cuhk.edu.hk" in text
    (faces / "celeba" / "list_eval_partition.txt").write_text("image_id,partition\n000.jpg,0\n")
    assert "must say of each image" in sentence("celeba64", data_dir=str(faces))
    (faces / "celeba" / "list_eval_partition.txt").write_text("000.jpg 0\n999.jpg 2\n")
    assert "999.jpg' cannot be read" in sentence("celeba64", data_dir=str(faces))


@pytest.fixture
def bedrooms(tmp_path):
    "Rooms of 256 x 340 pixels as JPEG under keys; left and right 42 columns are black."
    lmdb = pytest.importorskip("lmdb")
    for part, colours in (("train", (30, 60, 90)), ("val", (120,))):
        base = lmdb.open(str(tmp_path / f"bedroom_{part}_lmdb"), map_size=2 ** 24)
        with base.begin(write=True) as view:
            for k, colour in enumerate(colours):
                image, file = np.zeros((256, 340, 3), np.uint8), io.BytesIO()
                image[:, 42:-42] = colour
                Image.fromarray(image).save(file, "JPEG", quality=95)
                view.put(f"{part}{k}".encode(), file.getvalue())
        base.close()
    return tmp_path


@pytest.mark.parametrize("large", [0, 10 ** 7])
def test_bedrooms(bedrooms, monkeypatch, large):
    monkeypatch.setattr(S, "LARGE", large)
    monkeypatch.chdir(bedrooms)
    before = set(bedrooms.iterdir())
    for _ in range(2):
        data = load("lsun_bedroom256", data_dir=str(bedrooms), progress=False)
        assert data.shape == (3, 256, 256) and len(data.train) == 3 and len(data.test) == 1
        wanted = torch.tensor([30.0, 60, 90, 120])[:, None, None, None]
        assert (both(data) - wanted)[..., 4:-4].abs().max() <= 3
    assert len(set(bedrooms.iterdir()) - before) == (large == 0)


def test_bedrooms_that_cannot_be_had(bedrooms, monkeypatch):
    text = sentence("lsun_bedroom256", data_dir=str(bedrooms / "none"))
    assert "bedroom_train_lmdb.zip" in text and "yf.io" in text and f"unpack it in '{bedrooms / 'none'}'" in text
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "lmdb", None)
        assert "pip install lmdb" in sentence("lsun_bedroom256", data_dir=str(bedrooms))
    (bedrooms / "bedroom_val_lmdb" / "data.mdb").write_bytes(b"no data base" * 1000)
    assert "unpack bedroom_val_lmdb.zip again" in sentence("lsun_bedroom256", data_dir=str(bedrooms))


# What lies beside the images

def folder_of_two_classes(folder, count=4):
    for kind in ("cats", "dogs"):
        save_images(folder / kind, bytes_of(count, 9, 9))


def test_hidden_folders_are_no_class(tmp_path):
    folder_of_two_classes(tmp_path)
    save_images(tmp_path / ".ipynb_checkpoints", bytes_of(2, 9, 9))
    save_images(tmp_path / "cats" / ".ipynb_checkpoints", bytes_of(2, 9, 9))
    data = load(str(tmp_path))
    assert data.classes == ["cats", "dogs"] and len(both(data)) == 8


def test_a_class_may_be_a_link_and_a_link_may_turn_back(tmp_path):
    folder_of_two_classes(tmp_path / "far")
    save_images(tmp_path / "here" / "cows", bytes_of(4, 9, 9))
    (tmp_path / "here" / "cats").symlink_to(tmp_path / "far" / "cats")
    (tmp_path / "here" / "cows" / "all").symlink_to(tmp_path / "here")
    assert load(str(tmp_path / "here")).classes == ["cats", "cows"]


@pytest.mark.parametrize("held", ["test", "val", "validation"])
def test_the_held_out_part_by_any_of_its_names(tmp_path, held):
    folder_of_two_classes(tmp_path / "train")
    folder_of_two_classes(tmp_path / held, 3)
    folder_of_two_classes(tmp_path / "else")
    data = load(str(tmp_path))
    assert data.classes == ["cats", "dogs"] and (len(data.train), len(data.test)) == (8, 6)


def test_what_is_left_out_is_said(tmp_path, capsys):
    folder_of_two_classes(tmp_path)
    (tmp_path / "cats" / "x.HEIC").write_bytes(b"x")
    frames = [Image.fromarray(frame) for frame in bytes_of(3, 9, 9)]
    frames[0].save(tmp_path / "cats" / "moves.gif", save_all=True, append_images=frames[1:])
    assert len(both(load(str(tmp_path)))) == 9
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and "1 files" in said[0] and ".heic" in said[0] and "'moves.gif'" in said[1]


def test_depths_that_bytes_cannot_hold(tmp_path):
    pixels = np.arange(81, dtype=np.int32).reshape(9, 9)
    for name, image in (("a", pixels), ("b", pixels * 50)):
        Image.fromarray(image.astype(np.uint16)).save(tmp_path / f"{name}.png")
    with pytest.warns(UserWarning, match="12 of them at most"):
        load(str(tmp_path))
    Image.fromarray(pixels * 100_000).save(tmp_path / "c.tif")
    with pytest.raises(InputError, match="more than 16 bits per pixel"):
        load(str(tmp_path))


def test_classes_that_are_numbers_are_in_their_order(tmp_path):
    for kind in (1, 2, 10):
        save_images(tmp_path / str(kind), bytes_of(4, 9, 9))
    assert load(str(tmp_path)).classes == ["1", "2", "10"]


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_tiny_pictures_are_images(tmp_path, mode):
    for k in range(6):
        Image.fromarray(bytes_of(4, 4, *[3] * (mode == "RGB"))).save(tmp_path / f"{k}.png")
    data = load(tmp_path)
    assert data.is_images and data.shape == (len(mode) if mode == "RGB" else 1, 4, 4)
    model = fit(data, steps=2, width=16, flip=True, progress=False, run_dir=str(tmp_path / "run"))
    assert Model.load(tmp_path / "run").data.is_images and model.sample(2, steps=2).shape == (2, 4, 4, *[3] * (mode == "RGB"))
    assert load(tmp_path, image_size=2).shape[1:] == (2, 2)
