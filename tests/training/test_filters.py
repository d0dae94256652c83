import pytest
import torch

from arn_purify.training import filters
from arn_purify.training.load import load_model


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


def test_resizing_keeps_the_shape_of_images_that_are_no_squares():
    for shape in ((2, 3, 20, 30), (1, 1, 40, 24)):
        assert filters.resize_and_pad()(torch.rand(shape)).shape == shape


def test_bit_depth_leaves_so_many_levels():
    x = torch.linspace(0, 1, 256).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert len(filters.bits_3()(x).unique()) == 8


def test_a_median_removes_a_single_pixel():
    x = torch.zeros(1, 3, 9, 9)
    x[..., 4, 4] = 1
    assert not filters.median_3()(x).any()


def test_total_variation_flattens_noise_and_leaves_edges():
    pytest.importorskip("skimage", reason="the extra filters is not installed")
    torch.manual_seed(0)
    edge = torch.full((1, 3, 32, 32), 0.2)
    edge[..., 16:] = 0.8
    noisy = edge + 0.06 * torch.rand_like(edge) - 0.03
    for smooth in (filters.tv_3, filters.tv_10):
        assert (smooth()(noisy) - edge).abs().mean() < (noisy - edge).abs().mean() / 2
    flat = filters.tv_10()(noisy)
    assert (flat[..., 16] - flat[..., 15]).mean() > 0.5
    assert torch.equal(flat, filters.tv_10()(noisy))


def test_without_scikit_image_total_variation_says_what_to_install(monkeypatch):
    monkeypatch.setattr(filters, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"tv_10: total variation needs scikit-image"):
        load_model("arn_purify.training.filters:tv_10", "purifier", "photos", "cpu")
