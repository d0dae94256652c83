import pytest
import torch

from arn_purify.training import filters


@pytest.mark.parametrize(
    "name", ["jpeg_75", "jpeg_50", "jpeg_25", "bits_5", "bits_4", "bits_3", "median_3", "resize_and_pad"]
)
def test_a_filter_changes_images_a_little_and_the_same_way_each_time(name):
    x = torch.rand(2, 3, 8, 8).repeat_interleave(8, 2).repeat_interleave(8, 3)
    found = getattr(filters, name)()(x)
    assert found.shape == x.shape
    assert found.min() >= 0
    assert found.max() <= 1
    assert 0 < (found - x).abs().mean() < 0.3
    assert torch.equal(found, getattr(filters, name)()(x))


def test_bit_depth_leaves_so_many_levels():
    x = torch.linspace(0, 1, 256).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert len(filters.bits_3()(x).unique()) == 8


def test_a_median_removes_a_single_pixel():
    x = torch.zeros(1, 3, 9, 9)
    x[..., 4, 4] = 1
    assert not filters.median_3()(x).any()
