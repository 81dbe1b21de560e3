"A minute of nonsense for every reader: what comes back is an answer or one sentence, and it comes in seconds."
import io
import json
import signal
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import pfgm
from pfgm.checkpoint import load_official, load_state, read_json_lines
from pfgm.checks import InputError
from pfgm.features import Inception, cached
from pfgm.heights import kept_heights
from pfgm.model import Model
from pfgm.prior import Latents, check_latents
from pfgm.sources import load

settings.register_profile("same every time", derandomize=True, deadline=None, database=None)
settings.load_profile("same every time")

FLIPS = st.lists(st.tuples(st.floats(0, 0.999999), st.integers(1, 255)), min_size=1, max_size=4)
HEADS = st.lists(st.tuples(st.integers(0, 300), st.integers(1, 255)), min_size=1, max_size=3)


@st.composite
def damage(draw, whole: bytes):
    "A file that is not what it should be: noise, cut, doubled, with other bytes anywhere or in its first part."
    kind = draw(st.sampled_from(["noise", "cut", "flip", "head", "zeros", "doubled", "noise behind the start"]))
    n = len(whole)
    if kind in ("flip", "head"):
        new = bytearray(whole)
        for place, change in draw(FLIPS if kind == "flip" else HEADS):
            new[int(place * n) if kind == "flip" else place % n] ^= change
        return bytes(new)
    start = int(draw(st.floats(0, 1)) * n)
    return {"noise": draw(st.binary(max_size=200)), "cut": whole[:start], "doubled": whole + whole,
            "zeros": whole[:start] + bytes(min(40, n - start)) + whole[start + 40:],
            "noise behind the start": whole[:start] + draw(st.binary(min_size=1, max_size=60))}[kind]


@contextmanager
def soon(seconds: int = 20):
    "An answer that takes longer is a fault."
    def late(*_):
        raise TimeoutError("the reader hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def answered(read):
    "Its answer, or None for one sentence; everything else is raised."
    with soon(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow and NumPy
        try:
            return read()
        except InputError as error:
            assert len(str(error)) > 20 and str(error).isprintable()
    return None


def image(ending: str, mode: str = "RGB") -> bytes:
    file, pixels = io.BytesIO(), np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(file, ending)
    return file.getvalue()


def arrays(save, **more) -> bytes:
    file = io.BytesIO()
    save(file, np.random.default_rng(0).normal(size=(9, 4)), **more)
    return file.getvalue()


IMAGES = {"png": image("PNG"), "jpg": image("JPEG"), "gif": image("GIF", "P"), "bmp": image("BMP"), "tif": image("TIFF"),
          "webp": image("WEBP"), "ppm": image("PPM")}
ARRAYS = {"npy": arrays(np.save), "npz": arrays(np.savez), "compressed.npz": arrays(np.savez_compressed),
          "csv": b"a,b\n1,2\n3,4\n5,6\n"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize("ending", IMAGES)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_images(place, ending, data):
    folder = place / ending
    folder.mkdir(exist_ok=True)
    (folder / f"a.{ending}").write_bytes(IMAGES[ending])
    (folder / f"b.{ending}").write_bytes(data.draw(damage(IMAGES[ending])))
    found = answered(lambda: load(folder, image_size=8, data_dir=place, progress=False))
    assert found is None or found.shape in ((1, 8, 8), (3, 8, 8)) and len(found.train) + len(found.test) == 2


@pytest.mark.parametrize("ending", ARRAYS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_arrays(place, ending, data):
    path = place / f"x.{ending}"
    path.write_bytes(data.draw(damage(ARRAYS[ending])))
    found = answered(lambda: load(path))
    assert found is None or bool(found.train.isfinite().all()) and found.train.abs().max() <= 1


@pytest.fixture(scope="module")
def run(place):
    "A run folder, a file of latents and one of heights, small enough to be spoilt hundreds of times."
    folder = place / "run"
    model = pfgm.fit(torch.randn(30, 2, generator=torch.Generator().manual_seed(0)), steps=3, width=8, progress=False,
                     run_dir=str(folder))
    latents = model.latents(3)
    for ending in ("npz", "safetensors"):
        latents.save(folder / f"latents.{ending}")
    kept_heights(folder / "heights.json", model.flow, model.prior, 2, "unipc", model.z_min)
    cached(folder / "cache.safetensors", lambda: torch.ones(3, 2))
    torch.save(dict(model={"a": torch.ones(2)}, ema=dict(shadow_params=[torch.ones(2)])), folder / "checkpoint_1.pth")
    return folder, model, {path.name: path.read_bytes() for path in folder.iterdir()}


def usable(model: Model) -> bool:
    try:
        return model.sample(2, steps=2).shape == (2, 2)
    except FloatingPointError as error:  # weights that are not finite are named when they are used
        return "is not finite" in str(error)


def read_latents(path, model):
    latents = Latents.load(path)
    check_latents(latents, model.prior)
    return latents


READERS = {
    "network.safetensors": (lambda path, model: usable(Model.load(path, "cpu")), 80),
    "state.pt": (lambda path, model: load_state(path.parent) or True, 80),
    "log.jsonl": (lambda path, model: all(type(entry["step"]) is int for entry in read_json_lines(path)), 80),
    "heights.json": (lambda path, model: len(kept_heights(path, model.flow, model.prior, 2, "unipc", model.z_min)) == 3, 6),
    "latents.npz": (read_latents, 60),
    "latents.safetensors": (read_latents, 60),
    "cache.safetensors": (lambda path, model: len(cached(path, lambda: torch.ones(3, 2), (3, 2))) == 3, 60),
    "checkpoint_1.pth": (lambda path, model: load_official(path), 60),
}


@pytest.mark.parametrize("name", READERS)
def test_what_a_run_keeps(run, name):
    folder, model, whole = run
    read, count = READERS[name]

    @settings(max_examples=count)
    @given(damage(whole[name]))
    def spoilt(content):
        for other in folder.glob("state*"):
            other.unlink()
        (folder / name).write_bytes(content)
        answer = answered(lambda: read(folder / name, model))
        assert answer is None or answer

    spoilt()
    (folder / name).write_bytes(whole[name])


JSON = st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["step", "flow", "x"]), inner),
                    max_leaves=8)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=st.lists(JSON, max_size=4))
def test_logs_of_any_json(place, entries):
    path = place / "any.jsonl"
    path.write_text("\n".join(json.dumps(entry) for entry in entries), encoding="utf-8")
    assert all(type(entry["step"]) is int for entry in answered(lambda: read_json_lines(path)))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300))
def test_weights_of_inception(place, content):
    pytest.importorskip("torch_fidelity")
    path = place / "inception.pth"
    path.write_bytes(content)
    assert answered(lambda: Inception(str(path))) is None
