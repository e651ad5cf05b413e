"""What Lightning trains: batches of a data set, and a model with its setting and optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import lightning
import torch
from torch import Tensor

from models.architectures.interface import Architecture, StatesArchitecture
from models.data.dataset import SpectrumDataset
from models.graphs.graph import GraphBatch
from models.spectra.band_labels import BandLabels
from models.spectra.settings import Setting
from models.training.config import TrainingConfig

Batch = tuple[GraphBatch, Tensor] | tuple[GraphBatch, Tensor, BandLabels]


class GraphLoader:
    """Batches of a data set that is in memory.

    Parameters
    ----------
    dataset : SpectrumDataset
    batch_size : int
        Of all processes together.
    seed : int, optional
        Shuffle anew each epoch; the order follows from the seed and the epoch alone, so that a
        resumed training sees the same batches as an undisturbed one.
    epoch : callable
        Gives the number of the epoch.
    rank, world_size : int
        This process and the number of processes: each takes its share of every batch. The first
        materials of an epoch fill up the last batch, since all processes need as many batches.
    """

    def __init__(
        self,
        dataset: SpectrumDataset,
        batch_size: int,
        seed: int | None = None,
        epoch: Callable[[], int] = lambda: 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.dataset, self.seed, self.epoch = dataset, seed, epoch
        self.rank, self.world_size = rank, world_size
        self.share = max(1, batch_size // world_size)

    def __len__(self) -> int:
        per_process = -(-len(self.dataset) // self.world_size)
        return -(-per_process // self.share)

    def __iter__(self) -> Iterator[Batch]:
        bands = self.dataset.bands
        for index in self._order().split(self.share):
            graphs, spectra = self.dataset.graphs.select(index), self.dataset.spectra[index]
            yield (graphs, spectra) if bands is None else (graphs, spectra, bands.select(index))

    def _order(self) -> Tensor:
        order = torch.arange(len(self.dataset))
        if self.seed is not None:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch())
            order = torch.randperm(len(self.dataset), generator=generator)
        missing = -len(order) % self.world_size
        return torch.cat([order, order[:missing]])[self.rank :: self.world_size]


class SpectrumModule(lightning.LightningModule):
    """A model with its setting, optimiser and data.

    Parameters
    ----------
    model : Architecture
    setting : Setting
        Fitted to the training materials, as the model.
    config : TrainingConfig
        Of which the optimiser's fields, the seed and the batch size count.
    train, validation : SpectrumDataset
    """

    def __init__(
        self,
        model: Architecture,
        setting: Setting,
        config: TrainingConfig,
        train: SpectrumDataset,
        validation: SpectrumDataset,
    ) -> None:
        super().__init__()
        self.model, self.setting, self.training_config = model, setting, config
        self.train_set, self.validation_set = train, validation

    def train_dataloader(self) -> GraphLoader:
        """The share of this process of the training materials, in another order each epoch."""
        config = self.training_config
        return GraphLoader(
            self.train_set,
            config.batch_size,
            seed=config.seed,
            epoch=lambda: self.current_epoch,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )

    def val_dataloader(self) -> GraphLoader:
        """All validation materials; every process measures them for itself."""
        return GraphLoader(self.validation_set, self.training_config.batch_size)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Total loss of a batch."""
        graphs, spectra, *bands = batch
        target = self.setting.target(spectra, graphs.n_atoms)
        if isinstance(self.model, StatesArchitecture):
            losses = self.model.losses(graphs, target, self.setting, spectra, *bands)
        else:
            losses = self.model.losses(graphs, target, self.setting, spectra)
        self.log("loss", losses["total"], prog_bar=True, batch_size=len(graphs))
        return losses["total"]

    def validation_step(self, batch: Batch, _: int) -> None:
        """Mean absolute error in the space of the targets."""
        graphs, spectra = batch[:2]
        target = self.setting.target(spectra, graphs.n_atoms)
        error = (self.setting.activate(self.model(graphs)) - target).abs().mean()
        self.log("validation_mae", error, prog_bar=True, batch_size=len(graphs))

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW, and how its rate changes."""
        config = self.training_config
        optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
        )
        if config.schedule == "one-cycle":
            cycle = torch.optim.lr_scheduler.OneCycleLR(
                optimizer,
                config.learning_rate,
                epochs=config.epochs,
                steps_per_epoch=len(self.train_dataloader()),
                pct_start=0.15,
            )
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": cycle, "interval": "step"},
            }
        step = max(1, config.epochs // 4)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=step, gamma=0.5)
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the state of the random numbers: dropout and sampling go on where they were."""
        checkpoint["random_state"] = torch.get_rng_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the state of the random numbers."""
        torch.set_rng_state(checkpoint["random_state"].cpu())
