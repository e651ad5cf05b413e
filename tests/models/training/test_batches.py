from __future__ import annotations

from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from models.architectures.parts.kernel_regression import KernelRegression
from models.architectures.registry import build_model, config_for
from models.data.dataset import SpectrumDataset
from models.data.splits import split_dataset
from models.spectra.band_labels import BandLabels
from models.spectra.settings import SETTINGS
from models.training import callbacks
from models.training.batches import GraphLoader, KeptBatches, home_of, moved
from models.training.callbacks import ProgressBar
from models.training.config import TrainingConfig
from models.training.fit import train_setting
from tests.models.model_examples import SMALL_GRID, small_dataset

GPU = torch.device("cuda")


def with_bands(n: int) -> SpectrumDataset:
    gap = torch.arange(float(n))
    return replace(small_dataset(n), bands=BandLabels(gap, gap[:, None].expand(-1, 61)))


def test_a_batch_is_what_collating_its_materials_gives() -> None:
    dataset = with_bands(10)
    generator = torch.Generator().manual_seed(3 * 1_000_003 + 2)
    order = torch.randperm(10, generator=generator)
    loader = GraphLoader(dataset, 4, seed=3, epoch=lambda: 2)
    for index, batch in zip(order.split(4), loader, strict=True):
        graphs, spectra, bands = moved(batch, torch.device("cpu"))
        assert torch.equal(spectra, dataset.spectra[index])
        assert torch.equal(bands.gap, index.float())
        expected = dataset.graphs.select(index)
        for field in fields(expected):
            assert torch.equal(getattr(graphs, field.name), getattr(expected, field.name))


def test_batches_that_never_change_are_made_once() -> None:
    kept = KeptBatches(GraphLoader(small_dataset(10), 4))
    assert len(kept) == 3
    assert all(one is again for one, again in zip(kept, kept, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "setting_name"),
    [
        ("mat2spec", "sumnorm-kl"),
        ("mat2spec", "maxnorm-mse"),
        ("mat2spec+", "sumnorm-kl"),
        ("mat2spec+", "standard-mae"),
        ("gatgnn", "sumnorm-wd"),
        ("e3nn", "sumnorm-kl"),
    ],
)
def test_no_step_waits_for_the_device(
    monkeypatch: pytest.MonkeyPatch, architecture: str, setting_name: str
) -> None:
    """Tensors without values: whatever asked for one, as a GPU would be waited for, fails."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    dataset, setting = small_dataset(6), SETTINGS[setting_name](SMALL_GRID.size).to("meta")
    config = config_for(architecture, {}, setting, SMALL_GRID)
    model = build_model(architecture, SMALL_GRID.size, config).to("meta")
    loader = GraphLoader(dataset, 4, seed=0)
    loader.dataset = dataset.to("meta")
    for graphs, spectra in loader:
        target = setting.target(spectra, graphs.n_atoms)
        model.losses(graphs, target, setting, spectra)["total"].backward()
    with pytest.raises(RuntimeError, match="meta"):
        model.losses(graphs, target, setting, spectra)["total"].item()


@pytest.mark.parametrize("room", [3.9, 4.1])
def test_a_data_set_is_on_a_gpu_that_has_room_for_it(
    monkeypatch: pytest.MonkeyPatch, room: float
) -> None:
    dataset, lines = with_bands(10), []
    size = sum(t.nbytes for t in dataset.tensors)
    graphs = (getattr(dataset.graphs, f.name) for f in fields(dataset.graphs))
    parts = (dataset.spectra, dataset.bands.gap, dataset.bands.occupied, *graphs)
    assert size == sum(tensor.nbytes for tensor in parts)
    # Of what torch has reserved, half a size is not in use.
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int((room - 0.5) * size), 99 * size))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: size)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: size // 2)
    home = home_of(GPU, dataset, announce=lines.append)
    assert home == (GPU if room > 4 else torch.device("cpu"))
    assert ["too large for the GPU" in line for line in lines] == ([] if room > 4 else [True])
    assert home_of(torch.device("cpu"), dataset, announce=lines.append).type == "cpu"


def test_the_kernels_of_the_validation_materials_are_computed_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset, calls, forward = small_dataset(40), [], KernelRegression.forward

    def counted(self: KernelRegression, features: torch.Tensor) -> torch.Tensor:
        calls.append(len(features))
        return forward(self, features)

    monkeypatch.setattr(KernelRegression, "forward", counted)
    split = split_dataset(dataset.material_ids, 0)
    config = TrainingConfig(
        name="x",
        labels=(Path("none.parquet"),),
        architecture="mat2spec+",
        model={"members": 1, "layers": 1, "width": 8},
        epochs=3,
        batch_size=2,
    )
    trained = train_setting(config, "sumnorm-kl", dataset, split)
    assert sum(calls) == len(split.validation) > 2
    validation = dataset.subset(split.validation)
    model, setting = trained.checkpoint.model, trained.checkpoint.setting
    with torch.inference_mode():
        predicted = setting.activate(model(validation.graphs))
        target = setting.target(validation.spectra, validation.graphs.n_atoms)
    error = (predicted - target).abs().mean().item()
    assert trained.validation_mae == pytest.approx(error, rel=1e-5)


def test_the_bar_reads_the_loss_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now)
    bar, seen = ProgressBar(), []
    trainer = SimpleNamespace(callback_metrics={"validation_mae": torch.tensor(0.5)})
    for loss in (1.0, 2.0, 3.0):
        seen.append(bar.get_metrics(trainer, SimpleNamespace(last_loss=torch.tensor(loss))))
        now += 0.6
    assert seen[0] == seen[1] == {"loss": 1.0, "validation_mae": 0.5}
    assert seen[2] == {"loss": 3.0, "validation_mae": 0.5}


def test_a_training_with_a_bar_shows_loss_and_error(capsys: pytest.CaptureFixture[str]) -> None:
    dataset = small_dataset()
    config = TrainingConfig(name="x", labels=(Path("none.parquet"),), epochs=2, batch_size=8)
    small = {"encoder": {"layers": 1, "width": 8}, "latent": 4, "components": 2, "embedding": 8}
    config = config.model_copy(update={"model": small})
    split = split_dataset(dataset.material_ids, 0)
    train_setting(config, "sumnorm-kl", dataset, split, progress=True)
    assert "Epoch 1/1" in capsys.readouterr().out
