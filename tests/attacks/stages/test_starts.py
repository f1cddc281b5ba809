import torch

from dpmi.attacks.stages.starts import child_generator, starting_images


def test_first_restart_is_the_papers_and_the_others_are_distinct() -> None:
    """Trap 13: no two classes or restarts share a start."""
    labels = torch.arange(5)
    images = starting_images(labels, first=0.5, restarts=3, image_shape=(1, 4, 4), seed=1)
    assert images.shape == (15, 1, 4, 4)
    assert (images[::3] == 0.5).all()
    others = images.view(5, 3, 16)[:, 1:].flatten(0, 1)
    assert len(others.unique(dim=0)) == 10
    assert others.min() >= 0
    assert others.max() <= 1


def test_start_depends_on_seed_class_and_restart_only() -> None:
    """Trap 19."""
    shape = {"first": 0.0, "image_shape": (1, 4, 4)}
    many = starting_images(torch.tensor([8, 3]), restarts=4, seed=1, **shape)
    few = starting_images(torch.tensor([3]), restarts=2, seed=1, **shape)
    assert torch.equal(many[5], few[1])
    assert not torch.equal(few[1], starting_images(torch.tensor([3]), restarts=2, seed=2, **shape)[1])


def test_child_generators_do_not_collide() -> None:
    seeds = {child_generator(0, label, r).initial_seed() for label in range(100) for r in range(20)}
    assert len(seeds) == 2000
