"""What the evaluator of a study says of images that need no model, beside what it says of the attacks' images.

``python docs/results/without_model.py docs/results/attacks-faces`` prints the table of that study as Markdown. It
trains nothing: it reads what ``dpmi run`` left in the study's folder, and the data below ``DPMI_DATA``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from dpmi import metrics
from dpmi.data import ImageSet, Split
from dpmi.metrics.baselines import at_best_brightness
from dpmi.metrics.neighbors import nearest_neighbors
from dpmi.study import Store, StudySpec, Trial, evaluator, parse
from dpmi.study.evaluator import Judge
from dpmi.study.work import load, trial_numbers

#: Public images that are each handed in for every class; of a larger set as many are drawn.
PUBLIC = 1000


class Row(NamedTuple):
    """A row of the table: means over classes, NaN where there is nothing to say."""

    name: str
    attack_accuracy: float
    knn_distance: float
    distance: float
    advantage: metrics.Interval = metrics.Interval(np.nan, np.nan, np.nan)
    pixels: str = ""

    def markdown(self) -> str:
        """The row as Markdown."""
        gain = self.advantage
        shown = (
            f"{100 * self.attack_accuracy:.0f} %",
            f"{self.knn_distance:,.0f}",
            f"{self.distance:.2f}",
            f"{gain.mean:.2f} [{gain.low:.2f}, {gain.high:.2f}]",
        )
        values = (*self[1:4], gain.mean)
        cells = ("" if np.isnan(value) else text for value, text in zip(values, shown, strict=True))
        return f"| {' | '.join([self.name, *cells, self.pixels])} |".replace("  ", " ")


def attacked(spec: StudySpec, store: Store, split: Split, known: metrics.Baselines) -> list[Row]:
    """Every attack, over its seeds, the most accurate first; its pixels are those of its surest image of each class."""
    stored = ((trial, trial_numbers(trial, store)) for trial in spec.trials_on(store.content()))
    finished = [(trial, record["per_class"]) for trial, record in stored if record is not None]
    recons = torch.from_numpy(np.concatenate([store.recons(trial.key) for trial, _ in finished]))
    classes = [torch.tensor(of["class_index"]) for _, of in finished]  # with linkage, those that are private
    shown = [_shown(trial, split.num_classes) for trial, _ in finished]
    one_setting = len({job.setting for job in spec.jobs}) == 1
    trials = pd.DataFrame(
        {
            "name": [t.what if one_setting else f"{t.what} on {t.job.setting}" for t, _ in finished],
            "right": own_class_nearest(ImageSet(recons, torch.cat(shown)), split.train)
            .view(len(finished), -1)
            .sum(dim=1),
            **{column: [np.mean(of[column]) for _, of in finished] for column in Row._fields[1:4]},
            "advantage": [
                metrics.advantage(
                    torch.tensor(of["distance"], dtype=torch.float64),
                    metrics.Baselines(**{name: each[at] for name, each in vars(known).items()}),
                ).numpy()
                for (_, of), at in zip(finished, classes, strict=True)
            ],
        }
    )
    rows = []
    for name, seeds in trials.groupby("name"):
        accuracy, knn, distance = (float(seeds[column].mean()) for column in Row._fields[1:4])
        pixels = f"{seeds['right'].sum()} of {len(seeds) * len(classes[0])}"
        gain = metrics.confidence_interval(np.stack(list(seeds["advantage"])))
        rows.append(Row(str(name), accuracy, knn, distance, gain, pixels))
    return sorted(rows, key=lambda row: -row.attack_accuracy)


def _shown(trial: Trial, classes: int) -> Tensor:
    """The class of each stored reconstruction; with linkage, labels of the model in the order of its roles."""
    roles = trial.job.roles
    return torch.arange(classes) if roles is None else torch.tensor(roles.roles(classes).private)


def own_class_nearest(images: ImageSet, private: ImageSet) -> Tensor:
    """Whether the private image that correlates most with each image is of its class; bool, one per image."""
    points, others = (F.normalize(_centred(of.images), dim=1) for of in (images, private))
    # Between vectors of length 1 the squared distance is 2 - 2 r.
    _, nearest = nearest_neighbors(points, others, torch.arange(len(others)))
    flat = images.images.flatten(1)
    uniform = flat.amin(dim=1) == flat.amax(dim=1)  # correlates with nothing
    return (private.labels[nearest] == images.labels) & ~uniform


def _centred(images: Tensor) -> Tensor:
    flat = images.flatten(1).double()
    return flat - flat.mean(dim=1, keepdim=True)


def without_model(split: Split, judge: Judge, known: metrics.Baselines) -> Iterator[Row]:
    """Images that need no model, each handed in for every class, and what nobody has: images of the class itself."""

    def for_every_class(name: str, images: Tensor) -> Row:
        every = torch.arange(len(images))
        return handed_in(
            f"*no model: {name}*", images, [every] * split.num_classes, split, judge, known=known
        )

    for name, level in (("black image", 0.0), ("grey image", 0.5)):
        yield for_every_class(name, torch.full((1, *split.image_shape), level))
    if len(split.public):
        mean = split.public.double().mean(dim=0, keepdim=True).float()
        yield for_every_class("mean public image", mean)
        yield for_every_class(
            "mean public image, at the brightness nearest to public images",
            at_best_brightness(mean[0], split.public, kind=split.distance)[None],
        )
        some = torch.randperm(len(split.public), generator=torch.Generator().manual_seed(0))[:PUBLIC]
        row = for_every_class("any public image", split.public[some])
        # Handed in for all K classes, an image is right for the one that it is nearest to.
        yield row._replace(pixels=f"1 of {split.num_classes} by chance")
        oracle = float(known.public_nearest.mean())
        yield Row("*no model: nearest public image, picked by an oracle*", np.nan, np.nan, oracle)
    private = [split.train.images[split.train.labels == k] for k in range(split.num_classes)]
    means = [
        at_best_brightness(images.double().mean(dim=0).float(), images, kind=split.distance)
        for images in private
    ]
    each = [torch.tensor([k]) for k in range(split.num_classes)]
    name = "*mean of the class's own training images, at the brightness nearest to them*"
    yield handed_in(name, torch.stack(means), each, split, judge, known=known)
    of_class = [(split.test.labels == k).nonzero()[:, 0] for k in range(split.num_classes)]
    row = handed_in("*held-out images of the class*", split.test.images, of_class, split, judge, known=known)
    yield row._replace(pixels=f"{own_class_nearest(split.test, split.train).sum()} of {len(split.test)}")


def handed_in(
    name: str,
    images: Tensor,
    rows_of: Sequence[Tensor],
    split: Split,
    judge: Judge,
    *,
    known: metrics.Baselines,
) -> Row:
    """Measure an attacker who hands in the images ``rows_of[k]`` for class k."""
    seen = metrics.evaluate(judge.evaluator, images)
    found = []
    for k, rows in enumerate(rows_of):
        labels = torch.full((len(rows),), k)
        accuracy = metrics.attack_accuracy(seen.logits[rows], labels)
        knn = metrics.knn_distance(seen.features[rows], labels, judge.features, judge.labels)
        private = split.train.images, split.train.labels
        distance = metrics.mia_distance(images[rows], labels, *private, kind=split.distance)
        found.append((accuracy.mean, knn.mean, distance.mean))
    mean_accuracy, mean_knn, mean_distance = np.mean(found, axis=0).tolist()
    gain = metrics.advantage(torch.tensor([distance for *_, distance in found]), known)
    return Row(name, mean_accuracy, mean_knn, mean_distance, metrics.confidence_interval(gain[None].numpy()))


def table(root: Path) -> str:
    """The table of the study in that folder, as Markdown.

    Raises:
        StoreError: there is no study in the folder.
        SystemExit: it has not been run, or has no evaluator.
    """
    store = Store.open(root)
    spec = parse(store.spec_text)
    jobs = spec.jobs_on(store.content())
    if not any(trial_numbers(trial, store) for job in jobs for trial in job.trials):
        raise SystemExit(f"{root} has no finished trial yet; run the study first")
    split = load(spec.data, None)
    judge = evaluator.judge(jobs[0], split, store, lambda *_: None)
    if judge is None:
        raise SystemExit(f"the study in {root} has no evaluator; name one that has")
    known = metrics.baselines(
        torch.arange(split.num_classes),
        split.train.images,
        split.train.labels,
        split.public,
        kind=split.distance,
    )
    rows = [*attacked(spec, store, split, known), *without_model(split, judge, known)]
    kind = ", 1 - SSIM" if split.distance == "ssim" else ""
    head = f"| attack | attack accuracy | KNN distance | MIA distance{kind} | advantage | nearest in pixels |"
    return "\n".join([head, "| --- " * 6 + "|", *(row.markdown() for row in rows)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What an evaluator says of images that need no model.")
    parser.add_argument("study", type=Path, help="folder of a study with an evaluator that has been run")
    print(table(parser.parse_args().study))
