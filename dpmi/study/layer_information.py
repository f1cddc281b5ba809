"""Which layers of a study's models matter for classification, and which for the attacks on them."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch

from dpmi.metrics import fisher
from dpmi.progress import Progress

from .grid import Trial
from .store import Store, StoreError
from .study import StudySpec
from .work import load_private, stored_model

#: Maximum number of held-out images that measure the information for classification.
RECORDS = 500


def finished(spec: StudySpec, store: Store, trial: str | None = None) -> list[Trial]:
    """Return the finished trials of a study.

    Args:
        spec: the study.
        store: its folder.
        trial: select one trial by its id, as in column ``trial`` of the study's tables; default: all.

    Raises:
        StoreError: no trial is finished, or the selected one is not.
    """
    found = [each for each in spec.trials_on(store.content()) if store.trial_record(each.key) is not None]
    if not found:
        raise StoreError(f"{store.root} has no finished trial yet; run the study first")
    if trial is None:
        return found
    for each in found:
        if each.key == trial:
            return [each]
    raise StoreError(
        f"{store.root} has no finished trial {trial!r}; the ids are in column trial of its trials.csv, "
        f"such as {found[0].key!r}"
    )


def layer_information(
    trials: Sequence[Trial], store: Store, *, root: str | None = None, progress: Progress | None = None
) -> pd.DataFrame:
    """Fisher information of every layer for classification and for inversion ([TL-DMI] section 4.2).

    Held-out images of the private classes measure the information for classification. The stored reconstructions, which
    are the final ones of the attack as in Fig. 1-II of [TL-DMI], measure the information for inversion. See
    :mod:`dpmi.metrics.fisher`.

    Args:
        trials: finished trials of one study.
        store: its folder.
        root: the data root.
        progress: called with (images done, all images).

    Returns:
        One row per trial and layer: ``trial``, ``label``, ``attack``, ``seed``, ``layer``, ``kind`` (class of the
        layer), ``parameters`` (number of parameters), ``classification`` and ``inversion`` (information per parameter),
        ``classification_share`` and ``inversion_share`` (shares that sum to 1 over the layers of a trial, or all 0).
    """
    rows = []
    known: dict[str, dict[str, float]] = {}
    split = load_private(trials[0].job, root)
    records = min(len(split.test), RECORDS)  # roles of equal size leave about as many test images
    all_images = len({trial.job.key for trial in trials}) * records + sum(
        len(trial.attacked(split.num_classes)) for trial in trials
    )
    before = 0

    def report(done: int, _: int) -> None:
        if progress is not None:
            progress(before + done, all_images)

    for trial in trials:
        job = trial.job
        split = load_private(job, root)
        model = stored_model(job, store, split)
        if job.key not in known:  # several attacks may share one model
            chosen = torch.randperm(len(split.test), generator=torch.Generator().manual_seed(0))[:RECORDS]
            images, labels = split.test.images[chosen], split.test.labels[chosen]
            known[job.key] = fisher.classification_information(
                model, images, labels, seed=job.seed, progress=report
            )
            before += len(images)
        recons = torch.from_numpy(store.recons(trial.key))
        inversion = fisher.inversion_information(
            model,
            recons,
            trial.attacked(split.num_classes),
            split.train.images,
            split.train.labels,
            seed=job.seed,
        )
        before += len(recons)
        report(0, 0)
        modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
        for layer, names in fisher.layers(model).items():
            rows.append(
                {
                    "trial": trial.key,
                    "label": job.setting,
                    "attack": trial.what,
                    "seed": job.seed,
                    "layer": layer,
                    "kind": type(modules.get(layer, parameters.get(layer))).__name__,
                    "parameters": sum(parameters[name].numel() for name in names),
                    "classification": known[job.key][layer],
                    "inversion": inversion[layer],
                }
            )
    table = pd.DataFrame(rows)
    for task in ("classification", "inversion"):
        total = table.groupby("trial")[task].transform("sum")
        table[f"{task}_share"] = table[task] / total.where(total > 0, 1)
    return table
