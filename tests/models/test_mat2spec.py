from __future__ import annotations

import pytest
import torch
from model_examples import batch_of, random_crystals, random_spectra

from models.architectures import build_model
from models.errors import ModelError
from models.losses import SETTINGS, alignment_loss, contrastive_loss
from models.mat2spec import Mat2Spec, Mat2SpecConfig, sample

SIZE = 16
SMALL = {
    "encoder": {"layers": 1, "width": 16},
    "latent": 8,
    "components": 3,
    "embedding": 16,
    "projection": 24,
}


def model(**changes: object) -> Mat2Spec:
    return Mat2Spec(SIZE, Mat2SpecConfig.model_validate(SMALL | changes))


def example() -> tuple:
    batch = batch_of(random_crystals(5))
    setting = SETTINGS["sumnorm-kl"](SIZE)
    return batch, setting.target(random_spectra(5, SIZE), batch.n_atoms), setting


def test_the_default_is_the_papers() -> None:
    paper = Mat2Spec(128)
    assert paper.features.gaussians.shape == (10, 128)
    assert paper.labels.gaussians.shape == (1, 128)
    assert paper.translator[2].out_features == 512
    assert paper.projector.out_features == 1024
    assert [m.out_features for m in paper.features.body if isinstance(m, torch.nn.Linear)] == [
        256,
        512,
        256,
    ]


def test_the_total_is_the_weighted_sum() -> None:
    weights = {"prediction": 2.0, "alignment": 0.3, "contrastive": 0.7}
    batch, target, setting = example()
    losses = model(loss_weights=weights).losses(batch, target, setting)
    expected = sum(weight * losses[name] for name, weight in weights.items())
    torch.testing.assert_close(losses["total"], expected)


def test_each_loss_is_that_of_its_branches() -> None:
    """In evaluation mode, where the latent Gaussians are their means."""
    batch, target, setting = example()
    m = model().eval()
    losses = m.losses(batch, target, setting)
    embedding = m.encoder(batch)
    beta, feature = m.features(embedding)
    alpha, label = m.labels(target)
    latent_x = (beta[:, :, None] * feature[0]).sum(1)
    latent_y = alpha @ label[0]
    by_x = m.translator(torch.cat([embedding, latent_x], 1))
    by_y = m.translator(torch.cat([embedding, latent_y], 1))
    prediction = setting.loss(m.predictor(by_x), target) + setting.loss(m.predictor(by_y), target)
    torch.testing.assert_close(losses["prediction"], prediction / 2)
    torch.testing.assert_close(losses["alignment"], alignment_loss(alpha, label, beta, feature))
    torch.testing.assert_close(
        losses["contrastive"], contrastive_loss(m.projector(by_y), m.projector(by_x))
    )
    torch.testing.assert_close(m(batch), m.predictor(by_x))


def test_mixing_weights_sum_to_one() -> None:
    batch, target, _ = example()
    m = model()
    alpha, label = m.labels(target)
    beta, feature = m.features(m.encoder(batch))
    torch.testing.assert_close(alpha.sum(1), torch.ones(5))
    torch.testing.assert_close(beta.sum(1), torch.ones(5))
    assert label[0].shape == label[1].shape == (SIZE, 8)
    assert feature[0].shape == feature[1].shape == (5, 3, 8)


def test_samples_have_the_mean_and_the_variance() -> None:
    mean, logvar = torch.tensor([1.0, -2.0]), torch.tensor([0.0, 1.0])
    drawn = sample(mean.expand(200_000, 2), logvar.expand(200_000, 2))
    torch.testing.assert_close(drawn.mean(0), mean, atol=0.03, rtol=0)
    torch.testing.assert_close(drawn.var(0), logvar.exp(), atol=0.05, rtol=0)


def test_training_draws_and_evaluation_does_not() -> None:
    batch, _, _ = example()
    m = model(dropout=0.0)
    assert not torch.equal(m(batch), m(batch))
    m.eval()
    assert torch.equal(m(batch), m(batch))


def test_without_label_embedding_only_the_prediction_is_left() -> None:
    batch, target, setting = example()
    m = model(label_embedding=False)
    assert set(m.losses(batch, target, setting)) == {"total", "prediction"}
    assert not any(name.startswith(("labels", "projector")) for name, _ in m.named_parameters())


def test_without_projector_the_embeddings_are_contrasted() -> None:
    batch, target, setting = example()
    m = model(projector=False)
    assert not hasattr(m, "projector")
    assert m.losses(batch, target, setting)["contrastive"].isfinite()


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"dropout": 1.0}, "dropout"),
        ({"encoder": {"layers": 0}}, "encoder.layers"),
        ({"loss_weights": {"alignment": -1}}, "loss_weights.alignment"),
    ],
)
def test_wrong_fields_are_named(config: dict, field: str) -> None:
    with pytest.raises(ModelError, match=f"mat2spec configuration, {field}: "):
        build_model("mat2spec", SIZE, config)
