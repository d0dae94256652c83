"""What is watched while a run learns: error rates on a part of the validation split, and the run's log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from ..attacks import Attack, adaptive, at_budget, for_crafting, for_training, get, seed_of
from ..data import Dataset
from ..sheet import contact_sheet, save_png
from .config import TrainConfig
from .state import log_row

_CHUNK = 500


class Validation:
    """Natural and crafted images of about ``watched`` validation images; ``classifier`` is f as it was given."""

    def __init__(self, config: TrainConfig, dataset: Dataset, classifier: nn.Module, watched: int) -> None:
        self.config = config
        split = dataset.validation.every(len(dataset.validation) // watched or 1)
        self.natural, self.labels = split.batch(slice(None), config.device)
        self.images = {"none": self.natural}
        target = for_crafting(classifier, config.mixed_precision)
        for attack in config.seen:
            # As training crafts them: the numbers that are reported come from `evaluate`. What is learned through f
            # after g is crafted here against f alone, as it was given, in steps of its own.
            if config.recipe.inner_steps:
                attack = at_budget(for_training(get(attack.name, dataset.name)), attack.eps or 0.0)
            self.images[attack.name] = attack(target, self.natural, self.labels, self._seed(attack)).images

    def _seed(self, attack: Attack) -> int:
        return seed_of(self.config.seed, "validation", attack.name)

    @torch.no_grad()
    def error_rates(self, purifier: nn.Module, classifier: nn.Module) -> dict[str, float]:
        """Of f after g, in percent; both are left in eval mode.

        What sees g is crafted anew each time, at the budget that the ramp ends at.
        """
        purifier.eval()
        classifier.eval()
        if self.config.recipe.inner_steps:
            pair, bf16 = adaptive.frozen(purifier, classifier), self.config.mixed_precision
            for attack in self.config.seen:
                stronger, seed = attack.with_settings(iterations=20), self._seed(attack)
                crafted = [adaptive.attacked(pair, x, y, stronger, 1.0, seed, bf16) for x, y in self._parts("none")]
                self.images[f"{attack.name} white_box"] = torch.cat(crafted)
        rates = {}
        for name in self.images:
            wrong = sum(int((classifier(purifier(x)).argmax(1) != y).sum()) for x, y in self._parts(name))
            rates[f"error/{name}"] = 100 * wrong / len(self.labels)
        return rates

    def _parts(self, name: str) -> list[tuple[Tensor, Tensor]]:
        return list(zip(self.images[name].split(_CHUNK), self.labels.split(_CHUNK), strict=True))

    def examples(self) -> tuple[Tensor, Tensor]:
        """A few natural images, and the same attacked by the first seen attack."""
        first = self.config.seen[0].name
        attacked = self.images[f"{first} white_box" if self.config.recipe.inner_steps else first]
        return self.natural[:16], attacked[:16]


class RunLog:
    """``metrics.jsonl``, TensorBoard's files and the contact sheets of a run folder."""

    def __init__(self, out: Path, step: int) -> None:
        """``step``: what TensorBoard's files hold from there on was logged by a run that was killed."""
        self.out, self.writer = out, SummaryWriter(str(out / "tensorboard"), purge_step=step)

    def write(self, row: dict[str, Any], x_natural: Tensor, x_adv: Tensor, x_purified: Tensor) -> None:
        """A row of an epoch, and some of its images."""
        log_row(self.out, row)
        for name, value in row.items():
            if "/" in name:
                self.writer.add_scalar(name, value, row["step"])
        sheet = contact_sheet(x_natural, x_adv, x_purified)
        save_png(sheet, self.out / "sheets" / f"epoch-{row['epoch']:03d}.png")
        self.writer.add_image("natural, adversarial, noise x10, purified", sheet, row["step"])
        tqdm.write("  ".join(f"{k.split('/')[-1]} {v:.4g}" for k, v in row.items()))

    def close(self) -> None:
        """Write what TensorBoard holds back."""
        self.writer.close()
