"""All attention blocks: sizes, precisions, layouts, export; the non-local baseline; errors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from dcs_nas.errors import InputError
from dcs_nas.models.blocks import ATTENTION, NonLocalBlock, build_attention

SIZES = [(1, 1, 1), (3, 1, 1), (1, 4, 4), (5, 3, 2), (17, 7, 5), (32, 8, 4)]


def opened(block: nn.Module) -> nn.Module:
    """The block with no weights at 0, so that all its paths count."""
    for parameter in block.parameters():
        if parameter.dim() == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
        elif (parameter == 0).any():
            nn.init.normal_(parameter)
    return block


def random_map(channels: int, height: int, width: int, batch: int = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(batch, channels, height, width, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ATTENTION)
def test_a_block_keeps_shape_and_dtype_and_every_parameter_gets_a_finite_gradient(name, size, dtype):
    block = opened(build_attention(name, *size)).to(dtype)
    x = random_map(*size, dtype=dtype).requires_grad_()
    y = block(x)
    assert (y.shape, y.dtype) == (x.shape, dtype)
    gradients = torch.autograd.grad(y.square().sum(), [x, *block.parameters()])
    assert all(gradient.isfinite().all() for gradient in (y, *gradients))


@pytest.mark.parametrize("name", ATTENTION)
def test_every_kernel_and_matrix_moves_the_output(name):
    block = opened(build_attention(name, 16, 8, 4)).double()
    x = random_map(16, 8, 4, batch=3, dtype=torch.float64)
    (block(x) * torch.randn_like(x)).sum().backward()
    # A BatchNorm takes away the biases and the scale of what it follows, so of a 1 x 1 matrix everything.
    weights = {key: p for key, p in block.named_parameters() if p.dim() > 1 and p.numel() > 1}
    assert all(p.grad.abs().max() > 1e-9 for p in weights.values()), list(weights)


def test_gradients_of_narrow_maps_under_autocast_hold_nothing_left_in_memory() -> None:
    block = opened(build_attention("harmonious", 8, 2, 1))
    for _ in range(5):
        left = [
            torch.full((size,), torch.nan, dtype=torch.bfloat16) for size in (9, 64, 1024, 16384) for _ in range(40)
        ]
        del left
        with torch.autocast("cpu", torch.bfloat16):
            block(random_map(8, 2, 1, batch=4)).float().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())


@pytest.mark.parametrize("size", [(3, 1, 1), (32, 8, 4)])
@pytest.mark.parametrize("name", ATTENTION)
def test_bf16_autocast_trains_and_stays_near_float32_in_evaluation(name, size):
    block = opened(build_attention(name, *size))
    x = random_map(*size, batch=4)
    with torch.autocast("cpu", torch.bfloat16):
        block(x).float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())
    block.eval()
    exact = block(x)
    with torch.autocast("cpu", torch.bfloat16):
        near = [block(x), block(x.bfloat16())]
    assert all((y - exact).abs().max() < 0.05 * exact.abs().max() for y in near)


@pytest.mark.parametrize("name", ATTENTION)
def test_memory_layout_is_kept_and_changes_no_value(name):
    block = opened(build_attention(name, 16, 8, 4)).eval()
    x = random_map(16, 8, 4)
    y, last = block(x), block(x.contiguous(memory_format=torch.channels_last))
    assert y.is_contiguous()
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ATTENTION)
def test_an_exported_block_computes_the_same_for_another_batch_size(name):
    block = opened(build_attention(name, 8, 8, 4)).eval()
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(block, (random_map(8, 8, 4, batch=3),), dynamic_shapes={"x": {0: batch}})
    x = random_map(8, 8, 4, batch=5)
    torch.testing.assert_close(program.module()(x), block(x))


@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.*should not be instantiated")  # the compiler does
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0")
@pytest.mark.parametrize("name", ATTENTION)
def test_a_block_traces_without_graph_breaks_in_training(name):
    block = opened(build_attention(name, 8, 4, 2))
    compiled = torch.compile(block, backend="eager", fullgraph=True)
    x = random_map(8, 4, 2)
    values = []
    for forward in (block, compiled):
        torch.manual_seed(1)
        values.append(forward(x))
    torch.testing.assert_close(values[1], values[0])


@pytest.mark.parametrize("name", ["dcs", "nonlocal", "part_aware"])
def test_a_new_block_is_the_identity(name):
    block = build_attention(name, 6, 4, 3)
    x = random_map(6, 4, 3)
    assert torch.equal(block(x), x)
    assert torch.equal(block.eval()(x), x)


GATED = ["harmonious", "rga", "rga_channel", "rga_spatial"]


@pytest.mark.parametrize("name", GATED)
def test_gates_start_constant_and_learn_from_the_first_step(name):
    block = build_attention(name, 16, 8, 4)
    x = random_map(16, 8, 4, batch=4)
    y = block(x)
    share = {"harmonious": 1 / (1 + math.exp(-1)), "rga": 0.25}.get(name, 0.5)
    torch.testing.assert_close(y, share * x)
    (y * torch.randn_like(y)).sum().backward()
    scales = [
        m.weight for m in block.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) if not m.weight.any()
    ]
    assert scales
    assert all(scale.grad.abs().max() > 0 for scale in scales)


@pytest.mark.parametrize("name", GATED)
def test_the_published_start_is_still_to_be_had(name):
    block = build_attention(name, 16, 8, 4, gate_start="published")
    x = random_map(16, 8, 4)
    assert (block(x) / x).std() > 0.01
    with pytest.raises(InputError, match="unknown gate_start 'publised'; did you mean published"):
        build_attention(name, 16, 8, 4, gate_start="publised")


def test_none_is_the_identity_and_has_no_settings():
    x = random_map(3, 2, 2)
    assert build_attention("none", 3, 2, 2)(x) is x
    with pytest.raises(InputError, match="attention block 'none' has no setting 'tau'"):
        build_attention("none", 3, 2, 2, tau=1.0)


@pytest.mark.parametrize("scale", ["literal", "sqrt"])
def test_the_non_local_block_equals_a_loop_over_positions(scale):
    block = opened(NonLocalBlock(6, scale=scale)).double().eval()
    x = random_map(6, 3, 2, batch=1, dtype=torch.float64)
    tokens = x[0].flatten(1).T
    factor = 1.0 if scale == "literal" else 3**-0.5
    rows = []
    for i in range(6):
        affinity = torch.stack([factor * block.theta(tokens[i]) @ block.phi(tokens[j]) for j in range(6)]).exp()
        mean = sum(affinity[j] / affinity.sum() * block.g(tokens[j]) for j in range(6))
        rows.append(block.out(mean))
    expected = x + block.norm(torch.stack(rows).T.reshape(1, 6, 3, 2))
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize(("height", "sizes"), [(8, [2, 2, 2, 2]), (6, [2, 2, 1, 1]), (3, [1, 1, 1])])
def test_the_part_aware_module_computes_its_equation_part_by_part(height, sizes):
    block = opened(build_attention("part_aware", 5, height, 3)).eval()
    x = random_map(5, height, 3, batch=1)
    parts = [block.transform(part.mean((2, 3)))[0] for part in x.split(sizes, dim=2)]
    rows = []
    for part, size in zip(parts, sizes):
        affinity = torch.stack([part @ other / 5**0.5 for other in parts]).exp()
        rows += [sum(a / affinity.sum() * other for a, other in zip(affinity, parts))] * size
    repeated = torch.stack(rows, dim=1)[None, :, :, None].expand_as(x)
    weight = block.fuse.weight[:, :, 0, 0]
    fused = torch.einsum("dc,bchw->bdhw", weight[:, :5], x) + torch.einsum("dc,bchw->bdhw", weight[:, 5:], repeated)
    torch.testing.assert_close(block(x), fused)


def test_the_part_aware_module_refuses_a_map_of_another_height():
    with pytest.raises(InputError, match="the part-aware module got a map of 4 rows; expected 8"):
        build_attention("part_aware", 4, 8, 2)(random_map(4, 4, 2))


@pytest.mark.parametrize(
    ("name", "sizes", "settings", "message"),
    [
        ("dsc", (8, 4, 4), {}, "unknown attention block 'dsc'; did you mean dcs"),
        ("dcs", (8, 4, 4), {"tua": 1.0}, "attention block 'dcs' has no setting 'tua'; did you mean tau"),
        ("dcs", (8, 4, 4), {"scale": "square"}, "unknown attention scale 'square'"),
        ("dcs", (8, 4, 4), {"tau": 0.0}, "temperature tau is 0.0; expected a number above 0"),
        ("nonlocal", (0, 4, 4), {}, "channels is 0; expected a whole number of at least 1"),
        ("harmonious", (8, 4, 4), {"regions": 0}, "regions is 0; expected a whole number of at least 1"),
        ("part_aware", (8, 4, 4), {"parts": 0}, "parts is 0; expected a whole number of at least 1"),
        ("rga", (8, 4, 0), {}, "width is 0; expected a whole number of at least 1"),
        ("rga", (8, 4, 4), {"max_nodes": 0}, "max_nodes is 0; expected a whole number of at least 1"),
        ("rga", (8, 4, 4), {"reduction": 2.5}, "block 'rga': reduction: .* valid integer"),
    ],
)
def test_bad_settings_are_refused_with_what_was_expected(name, sizes, settings, message):
    with pytest.raises(InputError, match=message):
        build_attention(name, *sizes, **settings)
