"""Batches of a data set, put together on the device that trains: no step waits for the host."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from models.data.dataset import SpectrumDataset
from models.graphs.graph import GraphBatch
from models.spectra.band_labels import BandLabels

Batch = tuple[GraphBatch, Tensor] | tuple[GraphBatch, Tensor, BandLabels]
RESIDENT_SHARE = 0.25  # of a GPU's free memory that data sets may take; the rest is for steps


class GraphLoader:
    """Batches of a data set that is in memory.

    Parameters
    ----------
    dataset : SpectrumDataset
        Its batches are on the same device.
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
        graphs = dataset.graphs
        self._sizes = torch.stack([graphs.n_nodes, graphs.n_edges], 1).cpu()

    def __len__(self) -> int:
        per_process = -(-len(self.dataset) // self.world_size)
        return -(-per_process // self.share)

    def __iter__(self) -> Iterator[Batch]:
        data, order = self.dataset, self._order()
        # The host knows how large each batch is, so that it need not ask the device.
        totals = [self._sizes[index].sum(0).tolist() for index in order.split(self.share)]
        rows = order.to(data.spectra.device).split(self.share)
        for index, (n_nodes, n_edges) in zip(rows, totals, strict=True):
            graphs, spectra = data.graphs.select(index, (n_nodes, n_edges)), data.spectra[index]
            bands = data.bands
            yield (graphs, spectra) if bands is None else (graphs, spectra, bands.select(index))

    def _order(self) -> Tensor:
        order = torch.arange(len(self.dataset))
        if self.seed is not None:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch())
            order = torch.randperm(len(self.dataset), generator=generator)
        missing = -len(order) % self.world_size
        return torch.cat([order, order[:missing]])[self.rank :: self.world_size]


class KeptBatches:
    """Batches that are the same in each epoch, made once."""

    def __init__(self, loader: GraphLoader) -> None:
        self.batches = list(loader)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


def moved(batch: Batch, device: torch.device) -> Batch:
    """A batch on a device; to a GPU through pinned memory, so that the host can go on.

    Parameters
    ----------
    batch : Batch
    device : torch.device
    """
    if device.type == "cuda" and batch[1].device.type == "cpu":
        batch = tuple(part.pin_memory() for part in batch)  # type: ignore[assignment]
    return tuple(part.to(device, non_blocking=True) for part in batch)  # type: ignore[return-value]


def home_of(
    device: torch.device, *datasets: SpectrumDataset, announce: Callable[[str], None]
) -> torch.device:
    """Where data sets are kept: on a GPU that has room for them beside the steps, else the host.

    Parameters
    ----------
    device : torch.device
        That trains.
    *datasets : SpectrumDataset
    announce : callable
        Gets a line if they are too large for the GPU.
    """
    host = torch.device("cpu")
    if device.type != "cuda":
        return host
    gc.collect()  # the data sets of the training before
    size = sum(tensor.nbytes for dataset in datasets for tensor in dataset.tensors)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if size <= RESIDENT_SHARE * (torch.cuda.mem_get_info(device)[0] + unused):
        return device
    announce(f"the data set ({size / 1e9:.1f} GB) is too large for the GPU: it stays on the host")
    return host
