from __future__ import annotations

from typing import ClassVar

import pytest
import torch
import yaml

from models.architectures.mat2spec.losses import alignment_loss, contrastive_loss
from models.architectures.mat2spec.model import LossWeights, Mat2Spec, Mat2SpecConfig, sample
from models.architectures.registry import build_model
from models.errors import ModelError
from models.spectra.settings import SETTINGS
from models.zoo import ZOO
from tests.models.architectures.battery import ArchitectureBattery
from tests.models.model_examples import batch_of, random_crystals, random_spectra


class TestMat2Spec(ArchitectureBattery):
    name = "mat2spec"
    small: ClassVar = {
        "encoder": {"layers": 2, "width": 32},
        "latent": 16,
        "components": 10,
        "embedding": 128,
        "projection": 48,
        "dropout": 0.0,
    }
    seed, learning_rate, steps = 3, 5e-3, 200  # both branches learn, from noisy latents

    def test_the_label_branch_learns_from_the_labels(self) -> None:
        """With eq. 10's alignment and the graph beside the latent, both losses are the same."""
        _, setting, batch, target = self.prepared("sumnorm-kl")
        model = self.trained()
        with torch.inference_mode():
            true, shuffled = (
                setting.loss(model.label_logits(batch, target.roll(n, 0)), target).item()
                for n in (0, 4)
            )
        assert shuffled > 5 * true


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


def test_the_sizes_are_the_papers() -> None:
    paper = Mat2Spec(128)
    assert paper.features.gaussians.shape == (10, 128)
    assert paper.labels.gaussians.shape == (1, 128)
    assert paper.translator[2].out_features == 512
    assert linear_sizes(paper.projector)[-1] == 1024
    assert linear_sizes(paper.features.body) == [256, 512, 256]


def linear_sizes(module: torch.nn.Module) -> list[int]:
    return [m.out_features for m in module.modules() if isinstance(m, torch.nn.Linear)]


def test_the_weights_of_the_losses_are_those_of_equation_10_and_of_the_code() -> None:
    """Not the alignment's and the contrastive loss's exchanged."""
    text, code = (
        Mat2SpecConfig.model_validate(yaml.safe_load((ZOO / f"{name}.yaml").read_text())["model"])
        for name in ("paper", "authors")
    )
    assert text.loss_weights == LossWeights(prediction=1, alignment=1.1, contrastive=1)
    assert code.loss_weights == LossWeights(prediction=2, alignment=1.1, contrastive=0.1)
    assert (text.alignment, code.alignment) == ("feature-to-label", "symmetric")


def test_the_bound_vanishes_only_where_all_components_are_one() -> None:
    """So a heavy alignment makes the latent of a label the same for all labels."""
    alpha, beta = torch.rand(4, SIZE).softmax(-1), torch.rand(4, 3).softmax(-1)
    label = torch.zeros(SIZE, 8), torch.zeros(SIZE, 8)
    feature = torch.zeros(4, 3, 8), torch.zeros(4, 3, 8)
    assert alignment_loss(alpha, label, beta, feature).abs() < 1e-6
    label[0][0] += 0.1
    assert alignment_loss(alpha, label, beta, feature) > 1e-4


def test_the_total_is_the_weighted_sum() -> None:
    weights = {"prediction": 2.0, "alignment": 0.3, "contrastive": 0.7}
    batch, target, setting = example()
    losses = model(loss_weights=weights).losses(batch, target, setting)
    expected = sum(weight * losses[name] for name, weight in weights.items())
    torch.testing.assert_close(losses["total"], expected)


@pytest.mark.parametrize("direction", ["feature-to-label", "label-to-feature", "symmetric"])
def test_each_loss_is_that_of_its_branches(direction: str) -> None:
    """In evaluation mode, where the latent Gaussians are their means."""
    batch, target, setting = example()
    m = model(alignment=direction, graph_beside_latent="both").eval()
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
    alignment = alignment_loss(alpha, label, beta, feature, direction)
    torch.testing.assert_close(losses["alignment"], alignment)
    torch.testing.assert_close(m.label_logits(batch, target), m.predictor(by_y))
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


def total_variation(alpha: torch.Tensor) -> float:
    """Mean over pairs of materials, between 0 and 1."""
    n = len(alpha)
    return (alpha[:, None] - alpha[None]).abs().sum().item() / 2 / (n * (n - 1))


def test_the_label_encoder_sees_labels_that_differ_between_materials() -> None:
    """SumNorm labels have the mean 1/K': as they are, all get the same mixing weights."""
    spectra = random_spectra(50, 128)
    target = SETTINGS["sumnorm-kl"](128).target(spectra, torch.ones(50))
    variation = {}
    for seen in ("target", "unit-mean", "standardised"):
        torch.manual_seed(0)
        m = Mat2Spec(128, Mat2SpecConfig.model_validate(SMALL | {"label_input": seen})).eval()
        m.fit(batch_of(random_crystals(5)), target)
        variation[seen] = total_variation(m.labels(target)[0])
    assert variation["target"] < 0.005
    assert variation["unit-mean"] > 0.05
    assert variation["standardised"] > 0.05


def test_standardised_labels_have_mean_0_and_variance_1_over_the_training_set() -> None:
    target = random_spectra(200, SIZE)
    m = model(label_input="standardised")
    m.fit(batch_of(random_crystals(5)), target)
    given: list[torch.Tensor] = []
    m.labels.weight.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    m.labels(target)
    torch.testing.assert_close(given[0].mean(0), torch.zeros(SIZE), atol=1e-5, rtol=0)
    torch.testing.assert_close(given[0].var(0), torch.ones(SIZE), atol=1e-2, rtol=0)
    m.labels.load_state_dict(m.labels.state_dict())
    again = model(label_input="standardised")
    again.load_state_dict(m.state_dict())
    torch.testing.assert_close(again.eval().labels(target)[0], m.eval().labels(target)[0])


def test_the_labels_before_scaling_can_be_seen() -> None:
    batch, target, setting = example()
    m = model(label_input="spectrum").eval()
    spectra = 7 * random_spectra(5, SIZE)
    expected = m.predictor(m._label_embedding(m.encoder(batch), *m.labels(spectra)))
    torch.testing.assert_close(m.label_logits(batch, target, spectra), expected)
    losses = [m.losses(batch, target, setting, s)["total"] for s in (spectra, 2 * spectra)]
    assert losses[0] != losses[1]


def test_a_temperature_sharpens_the_mixing_weights() -> None:
    _, target, _ = example()
    m = model(label_temperature=0.5).eval()
    score = m.labels.weight(m.labels._scaled(target))
    torch.testing.assert_close(m.labels(target)[0], (2 * score).softmax(-1))


@pytest.mark.parametrize("beside", ["feature", "neither"])
def test_a_label_branch_without_the_graph_knows_only_the_label(beside: str) -> None:
    target = random_spectra(5, SIZE)
    one, other = (batch_of(random_crystals(5, seed)) for seed in (0, 1))
    m = model(graph_beside_latent=beside).eval()
    torch.testing.assert_close(m.label_logits(one, target), m.label_logits(other, target))
    assert (m.label_logits(one, target) - m.label_logits(one, target.flip(0))).abs().max() > 1e-5
    assert (m(one) - m(other)).abs().max() > 1e-5
    with_graph = model(graph_beside_latent="both").eval()
    difference = with_graph.label_logits(one, target) - with_graph.label_logits(other, target)
    assert difference.abs().max() > 1e-4


def test_without_the_graph_beside_it_the_latent_is_all_that_the_translator_gets() -> None:
    batch, _, _ = example()
    m = model(graph_beside_latent="neither").eval()
    beta, (mean, _) = m.features(m.encoder(batch))
    latent = (beta[:, :, None] * mean).sum(1)
    torch.testing.assert_close(m(batch), m.predictor(m.translator(latent)))


def test_an_alignment_with_detached_labels_moves_the_features_only() -> None:
    batch, target, setting = example()
    gradients = {}
    for detach in (True, False):
        m = model(detach_labels=detach)
        m.losses(batch, target, setting)["alignment"].backward()
        assert m.features.gaussians.mean.weight.grad.abs().max() > 0
        gradients[detach] = m.labels.gaussians.mean.weight.grad
    assert gradients[True] is None
    assert gradients[False].abs().max() > 0


@pytest.mark.parametrize("layers", [1, 2])
def test_predictor_and_projector_have_the_layers_asked_for(layers: int) -> None:
    m = model(predictor_layers=layers, projector_layers=layers)
    assert linear_sizes(m.predictor) == [16] * layers
    assert linear_sizes(m.projector) == [16] * (layers - 1) + [24]
    assert linear_sizes(m.translator) == [512, 16]


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
