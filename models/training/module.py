"""What Lightning trains: a model with its setting, optimiser and data."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch import Tensor
from typing_extensions import override

from models.architectures.interface import Architecture, StatesArchitecture
from models.architectures.parts.ensemble import RegressedEnsemble
from models.data.dataset import SpectrumDataset
from models.graphs.graph import GraphBatch
from models.spectra.settings import Setting
from models.training.batches import Batch, GraphLoader, KeptBatches, moved
from models.training.config import TrainingConfig


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
        self.last_loss = torch.tensor(torch.nan)
        self._errors: list[tuple[Tensor, int]] = []
        self._regressions: dict[int, Tensor | None] = {}

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

    def val_dataloader(self) -> KeptBatches:
        """All validation materials; every process measures them for itself."""
        return KeptBatches(GraphLoader(self.validation_set, self.training_config.batch_size))

    @override
    def transfer_batch_to_device(self, batch: Batch, device: torch.device, _: int) -> Batch:
        """Where the model is; Lightning's own way takes a batch apart in Python."""
        return moved(batch, device)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Total loss of a batch."""
        graphs, spectra, *bands = batch
        target = self.setting.target(spectra, graphs.n_atoms)
        if isinstance(self.model, StatesArchitecture):
            losses = self.model.losses(graphs, target, self.setting, spectra, *bands)
        else:
            losses = self.model.losses(graphs, target, self.setting, spectra)
        self.last_loss = losses["total"].detach()
        return losses["total"]

    def validation_step(self, batch: Batch, number: int) -> None:
        """Mean absolute error in the space of the targets."""
        graphs, spectra = batch[:2]
        target = self.setting.target(spectra, graphs.n_atoms)
        error = (self.setting.activate(self._logits(graphs, number)) - target).abs().mean()
        self._errors.append((error, len(graphs)))

    def _logits(self, graphs: GraphBatch, number: int) -> Tensor:
        """Of a validation batch; what training does not change is computed in the first epoch."""
        if not isinstance(self.model, RegressedEnsemble):
            return self.model(graphs)
        if number not in self._regressions:
            statistics = self.model.standardized(graphs)
            self._regressions[number] = self.model.regression(statistics)
        return self.model(graphs, self._regressions[number])

    @override
    def on_validation_epoch_end(self) -> None:
        """The mean over all materials, logged once: each time costs as much as a small layer."""
        total = sum(error * n for error, n in self._errors)
        self.log("validation_mae", total / sum(n for _, n in self._errors))
        self._errors = []

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
        device = self.trainer.strategy.root_device
        if device.type == "cuda":
            checkpoint["device_random_state"] = torch.cuda.get_rng_state(device)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the state of the random numbers."""
        torch.set_rng_state(checkpoint["random_state"].cpu())
        device = self.trainer.strategy.root_device
        if device.type == "cuda" and "device_random_state" in checkpoint:
            torch.cuda.set_rng_state(checkpoint["device_random_state"].cpu(), device)
