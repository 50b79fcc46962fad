"""Pictures and latents in a few hundred numbers."""

import pytest
import torch
from lora_graft.kernels.distill.looks import cells, pixels, resized, small


def draw(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_cells_are_means_and_deviations():
    x = draw(2, 3, 8, 12)
    found = cells(x).view(2, 6, 4, 4)
    block = x[:, :, 2:4, 3:6]
    assert torch.allclose(found[:, :3, 1, 1], block.mean((2, 3)))
    assert torch.allclose(found[:, 3:, 1, 1], block.flatten(2).std(2, correction=0), atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 16, 8, 8), (1, 16, 2, 3), (1, 16, 5, 33), (2, 16, 3, 8, 8)])
def test_any_size_and_frames_give_as_many_numbers(shape):
    assert cells(draw(*shape)).shape == (shape[0], 16 * 32)


def test_pixels_see_edges():
    flat, striped = torch.full((1, 3, 32, 32), 0.5), torch.full((1, 3, 32, 32), 0.5)
    striped[..., ::2, :] = 0
    striped[..., 1::2, :] = 1
    along = (pixels(striped) - pixels(flat)).view(10, 4, 4)[4]
    assert pixels(flat).shape == (1, 160) and along.mean() == pytest.approx(1, abs=0.04)


def test_resized_covers_and_cuts_the_middle():
    wide = torch.zeros(1, 3, 32, 96)
    wide[..., 32:64] = 1
    found = resized(wide, 16, 16)
    assert found.shape == (1, 3, 16, 16) and found[..., 2:-2].min() > 0.9
    assert resized(wide, 32, 96) is wide
    assert resized(draw(1, 3, 7, 5), 64, 31).shape == (1, 3, 64, 31)


def test_pixels_are_compared_small_and_never_enlarged():
    assert small(512, 768) == (64, 96) and small(1024, 512) == (128, 64) and small(48, 64) == (48, 64)
