"""Random damage: in range, the same for the same seed, and of the kind that it says."""

import pytest
import torch

from arn_purify.training.data import corrupt


@pytest.fixture
def images():
    return torch.rand(40, 1, 28, 28, generator=torch.Generator().manual_seed(1)) * 0.9 + 0.05


WAYS = ("specks", "scatter", "grain")


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


def test_what_was_changed_is_moved_and_nothing_else():
    natural = torch.full((40, 3, 8, 8), 0.5)
    attacked = natural + 1e-4  # as float16 rounds it
    attacked[:, :, 2, 1:4] = torch.tensor([0.0, 0.25, 1.0])[:, None]
    moved = corrupt.moved(natural, attacked, 0.5, drawn())
    stays = (moved == attacked).flatten(1).all(1)
    assert 10 < int(stays.sum()) < 30
    elsewhere = moved[~stays]
    changed = (elsewhere != 0.5).any(1)
    assert set(elsewhere.unique().tolist()) == {0.0, 0.25, 0.5, 1.0}, "its own colours on the natural image"
    assert changed.flatten(1).sum(1).max() <= 12, "twice as high and wide at most"
    assert changed.any(0).float().mean() > 0.5, "all over the image"
    tall = changed.any(2).sum(1) > changed.any(1).sum(1)
    assert tall.any(), "as columns"
    assert not tall.all(), "and as rows"
    assert torch.equal(corrupt.moved(natural, attacked, 0.0, drawn()), attacked)


@pytest.mark.parametrize("damage", corrupt.KINDS.values())
def test_damage_stays_in_range_and_follows_its_seed(damage, images):
    out = damage(images, drawn())
    assert out.shape == images.shape
    assert 0 <= out.min() <= out.max() <= 1
    assert not torch.equal(out, images)
    assert torch.equal(out, damage(images, drawn()))
    assert not torch.equal(out, damage(images, drawn(1)))


def test_specks_are_white_or_black_and_few(images):
    changed = corrupt.specks(images, drawn()) != images
    assert (changed.flatten(1).float().mean(1) < 0.2).all()
    assert set(corrupt.specks(images, drawn())[changed].tolist()) == {0.0, 1.0}


def test_crowds_are_white_and_denser_in_some_places(images):
    changed = (corrupt.crowds(images, drawn()) != images).float()
    assert 0.05 < changed.mean() < 0.2
    assert set(corrupt.crowds(images, drawn())[changed.bool()].tolist()) == {1.0}
    shares = torch.nn.functional.avg_pool2d(changed, 14).flatten(1)
    even = torch.nn.functional.avg_pool2d(
        (torch.rand(images.shape, generator=drawn()) < changed.mean()).float(), 14
    ).flatten(1)
    assert shares.std(1).mean() > 1.2 * even.std(1).mean()


def test_scattered_pixels_come_from_two_pixels_away_at_most(images):
    columns = torch.arange(28.0).expand(5, 1, 28, 28) / 28
    assert ((corrupt.scatter(columns, drawn()) - columns).abs() * 28).max() <= 2.001
    assert set(corrupt.scatter(images[:1], drawn()).flatten().tolist()) <= set(images[:1].flatten().tolist())


def test_grain_is_of_one_size_an_image(images):
    inside = torch.full((3, 1, 8, 8), 0.5)
    sizes = (corrupt.grain(inside, drawn()) - inside).abs().flatten(1)
    assert torch.allclose(sizes.amax(1), sizes.amin(1), atol=1e-6)
    assert sizes.max() <= 0.3


def test_only_a_share_is_damaged(images):
    many = images.repeat(20, 1, 1, 1)
    same = (corrupt.corrupt(many, 0.5, WAYS, drawn()) == many).flatten(1).all(1)
    assert 0.4 < float(same.float().mean()) < 0.6
    assert torch.equal(corrupt.corrupt(images, 0.0, WAYS, drawn()), images)
