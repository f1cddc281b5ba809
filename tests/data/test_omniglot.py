import torch

from dpmi.data import load


def test_the_split_is_by_writer(data_root, characters):
    split = load("omniglot", root=data_root)
    assert split.num_classes == 242
    assert split.train.labels.bincount().tolist() == [15] * 242
    assert split.test.labels.bincount().tolist() == [5] * 242
    writer_of = {image.tobytes(): writer for image, writer in zip(*characters[::2], strict=True)}
    train, test = (
        {writer_of[image.tobytes()] for image in (part.images[:, 0] * 255).round().byte().numpy()}
        for part in (split.train, split.test)
    )
    assert (len(train), len(test), train & test) == (15, 5, set())
    assert split.class_names[split.train.labels[0]] == "Balinese/character01"
    assert split.identities[0] == "omniglot/Balinese/character01"
    assert split.public_labels.bincount()[[0, 9]].tolist() == [5923, 5949]
    assert split.public_class_names == tuple(f"mnist/{digit}" for digit in range(10))
    other = load("omniglot", root=data_root, seed=1)
    assert not torch.equal(other.test.images, split.test.images)


def test_users_are_the_writers_of_an_alphabet(data_root):
    split = load("omniglot", root=data_root)
    train, test = split.train, split.test
    assert len(train.units.unique()) == 120
    assert len(test.units.unique()) == 40
    assert not set(train.units.tolist()) & set(test.units.tolist())
    for unit in train.units.unique():
        own = [split.class_names[label] for label in train.labels[train.units == unit]]
        (alphabet,) = {name.partition("/")[0] for name in own}
        characters = {name for name in split.class_names if name.startswith(f"{alphabet}/")}
        assert set(own) == characters, "every writer drew every character of one alphabet, once"
        assert len(own) == len(characters)
