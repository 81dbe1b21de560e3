"""The image networks: each fact of the published blocks against a formula written here, and what a wrong request is told.

Where a number could be off without any shape changing (which order, which epsilon, which root), it is checked by itself.
"""
import math

import pytest
import torch
import torch.nn.functional as F

from pfgm.blocks import (Double, FourierEmbedding, Halve, LabelEmbedding, PositionalEmbedding, PyramidConv, ResidualConv,
                         SelfAttention, group_norm)
from pfgm.checks import InputError
from pfgm.flow import PaperFlow
from pfgm.networks import PAPER, PRESETS, build, count_multiply_adds, count_parameters

KNOWN = dict(cifar10_ddpmpp=(61_805_572, 10.848e9), cifar10_ddpmpp_deep=(106_633_732, 18.548e9),
             cifar10_ncsnpp=(62_759_940, 10.895e9), celeba64_ddpmpp=(61_805_572, 41.866e9),
             bedroom_ddpmpp=(124_076_292, 279.80e9))
SMALL = [dict(attention=(8,), blocks=2), dict(embedding="fourier", fir=True, pyramid=True, multipliers=(1, 2, 3)),
         dict(embedding="positional", classes=4, field=True)]


def random(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        noise = torch.randn(p.shape, generator=generator)
        p.data = noise * p[0].numel() ** -0.5 if p.dim() > 1 else p.data + 0.3 * noise
    return module.double().eval()


def draw(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("preset", PRESETS)
def test_parameters_and_multiplications(preset):
    with torch.device("meta"):
        network = build(PRESETS[preset]["shape"], preset)
    assert count_parameters(network) == KNOWN[preset][0]
    assert abs(count_multiply_adds(network) / KNOWN[preset][1] - 1) < 0.01


def test_presets_differ_only_in_data():
    assert PRESETS.keys() == PAPER.keys() and len({tuple(preset) for preset in PRESETS.values()}) == 1


# -- blocks ----------------------------------------------------------------------------------------------------------------

def by_hand(x: torch.Tensor, kernel: torch.Tensor, up: int, down: int, before: int, after: int) -> torch.Tensor:
    "Put zeros between, pad, convolve with the outer product of `kernel`, keep every `down`-th: one image, one axis at a time."
    for axis in (0, 1):
        x = x.movedim(axis, 0)
        wide = torch.zeros(up * len(x), x.shape[1], dtype=x.dtype)
        wide[::up] = x
        wide = torch.cat([wide.new_zeros(before, x.shape[1]), wide, wide.new_zeros(after, x.shape[1])])
        taps = [sum(kernel[j] * wide[i + j] for j in range(len(kernel))) for i in range(len(wide) - len(kernel) + 1)]
        x = torch.stack(taps[::down]).movedim(0, axis)
    return x


def test_fir_filters_with_their_padding():
    kernel, x = torch.tensor([1.0, 3.0, 3.0, 1.0]).double() / 8, draw(2, 3, 6, 8)
    each = lambda *how: torch.stack([torch.stack([by_hand(channel, *how) for channel in image]) for image in x])
    torch.testing.assert_close(Halve(True).double()(x), each(kernel, 1, 2, 1, 1))
    torch.testing.assert_close(Double(True).double()(x), each(2 * kernel, 2, 1, 2, 1))  # 2 per axis: 4 in all
    layer = random(PyramidConv(3, 5))
    smooth = each(kernel, 1, 1, 2, 2)
    torch.testing.assert_close(layer(x), F.conv2d(smooth, layer.conv.weight, layer.conv.bias, stride=2))


def test_box_halves_by_the_mean_and_doubles_by_repeating():
    x = draw(1, 2, 4, 6)
    torch.testing.assert_close(Halve()(x), (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4)
    torch.testing.assert_close(Double()(x), x.repeat_interleave(2, 2).repeat_interleave(2, 3))


@pytest.mark.parametrize("channels, groups", [(128, 32), (256, 32), (384, 32), (1024, 32), (64, 16), (8, 2), (136, 17), (3, 1)])
def test_groups_and_epsilon(channels, groups):
    norm = group_norm(channels)
    assert (norm.num_groups, norm.eps) == (groups, 1e-6)


def written_out(block: ResidualConv, h, code, resample) -> torch.Tensor:
    "(P R h + conv(swish(norm(conv(R swish(norm(h))) + V code)))) / root 2"
    def norm(x, layer):
        groups = x.reshape(len(x), layer.num_groups, -1)
        scaled = (groups - groups.mean(2, keepdim=True)) / (groups.var(2, correction=0, keepdim=True) + 1e-6).sqrt()
        return scaled.reshape(x.shape) * layer.weight[:, None, None] + layer.bias[:, None, None]

    swish = lambda x: x * torch.sigmoid(x)
    conv = lambda x, layer: F.conv2d(x, layer.weight, layer.bias, padding=layer.weight.shape[-1] // 2)
    inner = conv(resample(swish(norm(h, block.norm1))), block.inner)
    inner = inner + (code @ block.shift.weight.T + block.shift.bias)[:, :, None, None]
    return (conv(resample(h), block.skip) + conv(swish(norm(inner, block.norm2)), block.outer)) / math.sqrt(2)


@pytest.mark.parametrize("resample", [Halve(), Halve(True), Double(), Double(True), None])
def test_residual_block_in_its_order(resample):
    block, h, code = random(ResidualConv(8, 12, 6, resample=resample)), draw(2, 8, 6, 6), draw(2, 6, seed=2)
    torch.testing.assert_close(block(h, code), written_out(block, h, code, resample or (lambda x: x)))


def test_a_block_that_keeps_its_channels_has_no_skip_convolution_and_one_that_resamples_has():
    assert isinstance(ResidualConv(8, 8, 6).skip, torch.nn.Identity)
    assert ResidualConv(8, 8, 6, resample=Halve()).skip.kernel_size == (1, 1)


def test_attention_scale_and_root():
    layer, h = random(SelfAttention(16)), 2 * draw(2, 16, 3, 5)
    pixels = layer.norm(h).flatten(2)
    q, k, v = torch.einsum("oc,bcp->bop", layer.qkv.weight[..., 0, 0], pixels).add(layer.qkv.bias[:, None]).chunk(3, 1)
    weight = torch.einsum("bcp,bcq->bpq", q, k).mul(16 ** -0.5).softmax(2)
    read = torch.einsum("oc,bcp->bop", layer.outer.weight[..., 0, 0], torch.einsum("bpq,bcq->bcp", weight, v))
    answer = (h.flatten(2) + read + layer.outer.bias[:, None]) / math.sqrt(2)
    torch.testing.assert_close(layer(h), answer.reshape(h.shape))


def test_embeddings():
    z = torch.tensor([1e-3, 0.3, 40.0, 900.0], dtype=torch.float64)
    levels = torch.stack([torch.full_like(z, 5.0), z.log()], 1)                # log s is not looked at
    features = PositionalEmbedding(128, 4).double().features(levels)
    for i in (0, 1, 31, 63):
        angle = z * 10000.0 ** (-i / 63)
        torch.testing.assert_close(features[:, i], angle.sin(), rtol=0, atol=1e-4)  # the frequencies are float32
        torch.testing.assert_close(features[:, 64 + i], angle.cos(), rtol=0, atol=1e-4)
    layer = FourierEmbedding(256, 4).double()
    features = layer.features(levels)
    for i in (0, 100, 255):
        angle = 2 * math.pi * layer.frequencies[i] * z.log()
        torch.testing.assert_close(features[:, i], angle.sin())
        torch.testing.assert_close(features[:, 256 + i], angle.cos())
    assert 13 < layer.frequencies.std() < 19 and not list(layer.parameters())[0].shape[0] == 256
    hidden = lambda x: F.silu(F.linear(x, layer.layers[0].weight, layer.layers[0].bias))
    torch.testing.assert_close(layer(levels), F.silu(F.linear(hidden(features), layer.layers[2].weight, layer.layers[2].bias)))


def test_start_of_training():
    torch.manual_seed(0)
    block = ResidualConv(64, 64, 128, attention=True)
    wide = lambda layer, scale, fan: math.sqrt(3 * scale / fan)
    for layer, bound in ((block.inner, wide(block.inner, 1, 9 * 64)), (block.outer, wide(block.outer, 1e-10, 9 * 64)),
                         (block.shift, wide(block.shift, 1, 96)), (block.attention.outer, wide(block.attention, 1e-10, 64))):
        assert 0.99 * bound < layer.weight.abs().max() <= bound and not layer.bias.any()
    for part in block.attention.qkv.weight.chunk(3):
        assert 0.95 * math.sqrt(0.3 / 64) < part.abs().max() <= math.sqrt(0.3 / 64)


# -- networks --------------------------------------------------------------------------------------------------------------

def ask(network, x, levels, *label):
    out = network(x, levels, *label)
    return torch.cat([out[0].flatten(), out[1]]) if isinstance(out, tuple) else out.flatten()


@pytest.mark.parametrize("options", SMALL, ids=str)
def test_layout_autocast_and_one_graph(options):
    network = random(build((3, 16, 16), "unet", 16, **options)).float()
    x, levels = draw(3, 3, 16, 16).float(), draw(3, 2).float()
    with torch.no_grad():
        answer = ask(network, x, levels)
        compiled = torch.compile(network, backend="eager", fullgraph=True)
        torch.testing.assert_close(ask(compiled, x, levels), answer)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = ask(network, x, levels)
        assert (low - answer).norm() < 0.05 * answer.norm()
        last = dict(memory_format=torch.channels_last)
        torch.testing.assert_close(ask(network.to(**last), x.to(**last), levels), answer, rtol=1e-3, atol=1e-4)


def test_v_z_is_the_mean_of_the_last_channel():
    network = random(build((1, 16, 16), "unet", 8, field=True))
    inside = []
    network.head.register_forward_hook(lambda module, inputs, out: inside.append(out))
    v_x, v_z = network(draw(2, 1, 16, 16), draw(2, 2))
    torch.testing.assert_close(v_z, inside[0][:, -1].mean((1, 2)))
    assert torch.equal(v_x, torch.nn.functional.pixel_shuffle(inside[0][:, :-1], 2))


@pytest.mark.parametrize("name", ["mlp", "unet"])
def test_labels(name):
    network = random(build((1, 8, 8), name, 16, classes=3))
    x, levels = draw(4, 1, 8, 8), draw(4, 2)
    none, some = network(x, levels), network(x, levels, torch.tensor([2, -1, 0, -1]))
    changed = (none - some).flatten(1).abs().amax(1) > 1e-6
    assert changed.tolist() == [True, False, True, False]
    with pytest.raises(InputError, match="without classes"):
        build((1, 8, 8), name, 16)(x.float(), levels.float(), torch.zeros(4, dtype=torch.int64))
    assert not list(LabelEmbedding(0, 16).parameters())


def test_levels_beyond_the_official_table():
    "The official network stops at z = 1,000; nothing here does."
    flow = PaperFlow(random(build((3, 16, 16), "unet", 16, embedding="positional", field=True)).float())
    v_x, v_z = flow.field(draw(2, 3, 16, 16) * 1e4, torch.tensor([0.0, 5e3]))
    assert v_x.isfinite().all() and v_z.isfinite().all() and v_x.dtype == torch.float64


@pytest.mark.parametrize("shape, network, options, words", [
    ((3, 32, 32), "cifar10_ddpmp", {}, "did you mean 'cifar10_ddpmpp'"),
    ((1, 32, 32), "cifar10_ddpmpp", {}, "not (1, 32, 32)"),
    ((3, 64, 64), "cifar10_ncsnpp", {}, "use network='celeba64_ddpmpp'"),
    ((3, 32, 32), "bedroom_ddpmpp", {}, "for samples of shape (3, 256, 256)"),
    ((64,), "cifar10_ddpmpp", {}, "not (64,)"),
    ((1, 16, 16), "unet", dict(embedding="furier"), "did you mean 'fourier'"),
    ((1, 16, 16), "unet", dict(depth=2), "Allowed: width, multipliers"),
    ((1, 17, 17), "refinenet", {}, "even sides"), ((5,), "refinenet", {}, "even sides"),
    ((1, 16, 16), "unet", dict(block="residul"), "did you mean 'residual'"),
])
def test_wrong_requests(shape, network, options, words):
    with pytest.raises(InputError) as error:
        build(shape, network, **options)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_options_go_before_the_presets():
    network = build((3, 32, 32), "cifar10_ncsnpp", 16, blocks=1, field=False, embedding="levels", dropout=0.3)
    expected = dict(width=16, blocks=1, field=False, embedding="levels", dropout=0.3, fir=True, pyramid=True, attention=[16])
    assert expected.items() <= network.config.items()


@pytest.mark.parametrize("options", [dict(multipliers=(1, 1, 1), patch=1), dict(multipliers=(1, 1), patch=4), {}])
@pytest.mark.parametrize("guess", [False, True])
def test_any_sides_and_channels(options, guess):
    """Padding inside repeats the border: an image whose border is repeated already has the same answer where it was."""
    network = random(build((2, 18, 21), "unet", 8, guess=guess, **options))
    x, levels = torch.randn(3, 2 * (1 + guess), 18, 21, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    answer = network(x, levels)
    step = network.config["patch"] * 2 ** (len(network.config["multipliers"]) - 1)
    padded = torch.nn.functional.pad(x, (0, -21 % step, 0, -18 % step), mode="replicate")
    assert answer.shape == (3, 2, 18, 21)
    torch.testing.assert_close(network(padded, levels)[..., :18, :21], answer, rtol=1e-9, atol=1e-9)
