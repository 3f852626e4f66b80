"""Pooling, margin softmax and metric losses against fast-reid's reference values and against slow loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dcs_nas.config import EvaluateConfig, HeadConfig, LossConfig
from dcs_nas.errors import InputError
from dcs_nas.losses import Objective
from dcs_nas.losses.margin_softmax import margin_logits
from dcs_nas.losses.reid import circle_loss, triplet_loss, weighted_triplet_loss
from dcs_nas.models.backbones import BACKBONES
from dcs_nas.models.backbones.msinet import INTERACTIONS, MSINet, MSITrunk, PublishedMSINet
from dcs_nas.models.backbones.transreid import PublishedTransReID, TransReID
from dcs_nas.models.heads import CosineClassifier, ReidNetwork, record_outputs
from dcs_nas.models.pooling import POOLS
from dcs_nas.training.evaluate import evaluate_run
from dcs_nas.training.objective import build_objective
from dcs_nas.training.retrain_job import run_retraining
from tests.run_folders import config

Golden = dict[str, Tensor]


@pytest.fixture
def heads(golden: Callable[[str], dict[str, np.ndarray]]) -> Golden:
    return {name: torch.as_tensor(values) for name, values in golden("reid_heads").items()}


def near(found: Tensor, expected: Tensor) -> None:
    """Equal to 1e-5 of the largest value."""
    torch.testing.assert_close(
        found, expected.to(found.dtype), rtol=1e-5, atol=1e-5 * float(expected.detach().abs().max())
    )


@pytest.mark.parametrize("kind", ["cosface", "arcface", "circle"])
def test_a_margin_softmax_equals_the_published_one(heads: Golden, kind: str) -> None:
    features, classifier = heads["features"].requires_grad_(), heads["classifier"].requires_grad_()
    cosines = F.normalize(features) @ F.normalize(classifier).T
    scale, margin = float(heads[f"{kind}_scale"]), float(heads[f"{kind}_margin"])
    logits = margin_logits(kind, cosines, heads["labels"], scale=scale, margin=margin)
    loss = F.cross_entropy(logits, heads["labels"])
    loss.backward()
    near(logits, heads[f"{kind}_logits"])
    near(loss, heads[f"{kind}_loss"])
    near(features.grad, heads[f"{kind}_grad_features"])
    near(classifier.grad, heads[f"{kind}_grad_classifier"])


def test_margin_logits_equal_a_slow_loop() -> None:
    cosines, labels = torch.rand(5, 4, dtype=torch.float64) * 2 - 1, torch.tensor([0, 3, 1, 1, 2])
    s, m = 16.0, 0.3
    expected: dict[str, list[list[float]]] = {"cosface": [], "arcface": [], "circle": []}
    for row, y in zip(cosines.tolist(), labels.tolist()):
        expected["cosface"].append([s * (c - m * (j == y)) for j, c in enumerate(row)])
        expected["arcface"].append([s * math.cos(math.acos(c) + m * (j == y)) for j, c in enumerate(row)])
        positive = [s * max(0, 1 + m - c) * (c - 1 + m) for c in row]
        negative = [s * max(0, c + m) * (c - m) for c in row]
        expected["circle"].append([positive[j] if j == y else negative[j] for j in range(4)])
    for kind, rows in expected.items():
        found = margin_logits(kind, cosines, labels, scale=s, margin=m)
        torch.testing.assert_close(found, torch.tensor(rows, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["cosface", "arcface", "circle"])
def test_cosines_of_exactly_one_have_finite_gradients(kind: str) -> None:
    cosines = torch.eye(3, requires_grad=True)
    margin_logits(kind, cosines, torch.arange(3), scale=64, margin=0.35).sum().backward()
    assert torch.isfinite(cosines.grad).all()


def test_an_unknown_margin_softmax_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="unknown margin softmax 'sphereface'.*cosface"):
        margin_logits("sphereface", torch.zeros(1, 2), torch.tensor([0]), scale=1, margin=0)


def test_generalized_mean_pooling_equals_the_published_one(heads: Golden) -> None:
    pool, x = POOLS["gem"](), heads["gem_map"].requires_grad_()
    out = pool(x)
    out.square().sum().backward()
    near(out, heads["gem_out"])
    near(x.grad, heads["gem_grad_map"])
    near(pool.p.grad, heads["gem_grad_p"])


def test_large_powers_of_a_silent_channel_have_finite_gradients() -> None:
    pool = POOLS["gem"]()
    with torch.no_grad():
        pool.p.fill_(9.0)
    x = torch.rand(2, 3, 4, 2)
    x[:, 1] = 0
    pool(x).sum().backward()
    assert pool.p.grad is not None
    assert pool.p.grad.isfinite().all()


def test_pools_and_cosines_are_in_float32_under_autocast() -> None:
    x, cosine = 50 * torch.rand(2, 3, 4, 2), CosineClassifier(3, 5, bias=False)
    with torch.autocast("cpu", torch.bfloat16):
        pooled, logits = POOLS["gem"]()(x.bfloat16()), cosine(x[:, :, 0, 0])
    assert (pooled.dtype, logits.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(pooled, POOLS["gem"]()(x.bfloat16().float()))
    torch.testing.assert_close(logits, cosine(x[:, :, 0, 0]))


def test_poolings_equal_slow_loops() -> None:
    x = torch.rand(2, 3, 4, 2, dtype=torch.float64)
    for name, slow in {
        "avg": lambda v: sum(v) / len(v),
        "max": max,
        "avg_max": lambda v: sum(v) / len(v) + max(v),
        "gem": lambda v: (sum(e**3 for e in v) / len(v)) ** (1 / 3),
        "gem_fixed": lambda v: (sum(e**3 for e in v) / len(v)) ** (1 / 3),
    }.items():
        expected = [[slow(place.flatten().tolist()) for place in image] for image in x]
        torch.testing.assert_close(POOLS[name]()(x), torch.tensor(expected, dtype=torch.float64))
    assert [p.requires_grad for p in POOLS["gem_fixed"]().parameters()] == [False]


@pytest.mark.parametrize("margin", [None, 0.3])
def test_the_weighted_triplet_loss_equals_the_published_one(heads: Golden, margin: float | None) -> None:
    name = "triplet_soft_margin_weighted" if margin is None else "triplet_margin_weighted"
    features = heads["features"].requires_grad_()
    loss = weighted_triplet_loss(features, heads["labels"], margin=margin)
    loss.backward()
    near(loss, heads[name])
    near(features.grad, heads[f"{name}_grad"])


def test_the_soft_margin_of_hardest_pairs_equals_the_published_one(heads: Golden) -> None:
    features = heads["features"].requires_grad_()
    loss = triplet_loss(features, heads["labels"], margin=None)
    loss.backward()
    near(loss, heads["triplet_soft_margin_hard"])
    near(features.grad, heads["triplet_soft_margin_hard_grad"])


def test_the_weighted_triplet_loss_equals_a_slow_loop() -> None:
    features, labels = torch.randn(6, 3, dtype=torch.float64), [0, 0, 1, 1, 1, 2]
    points, gaps = features.tolist(), []
    for a, anchor in enumerate(points):
        distance = [math.dist(anchor, other) for other in points]
        means = []
        for sign, chosen in ((1, True), (-1, False)):
            kept = [d for d, label in zip(distance, labels) if (label == labels[a]) == chosen]
            weights = [math.exp(sign * d) for d in kept]
            means.append(sum(d * w for d, w in zip(kept, weights)) / sum(weights))
        gaps.append(math.log1p(math.exp(means[0] - means[1])))
    found = weighted_triplet_loss(features, torch.tensor(labels))
    assert float(found) == pytest.approx(sum(gaps) / len(gaps), rel=1e-4)  # 1e-6 is added to sums of weights


def test_a_batch_of_one_identity_has_no_weighted_triplet() -> None:
    features = torch.randn(4, 3, requires_grad=True)
    weighted_triplet_loss(features, torch.zeros(4, dtype=torch.int64)).backward()
    assert features.grad is not None
    assert not features.grad.any()


def test_the_circle_loss_of_pairs_equals_the_published_one(heads: Golden) -> None:
    features = heads["features"].requires_grad_()
    margin, scale = float(heads["pairwise_circle_margin"]), float(heads["pairwise_circle_gamma"])
    loss = circle_loss(features, heads["labels"], margin=margin, scale=scale)
    loss.backward()
    near(loss, heads["pairwise_circle"])
    near(features.grad, heads["pairwise_circle_grad"])


def _network(**head: object) -> ReidNetwork:
    backbone = BACKBONES["resnet10_small"](height=32, width=16)
    return ReidNetwork(backbone, 5, height=32, width=16, head=HeadConfig(**head))  # type: ignore[arg-type]


def test_a_head_pools_norms_and_scores_as_it_is_told() -> None:
    images = torch.rand(4, 3, 32, 16)
    network = _network(pool="avg_max", classifier="circle").train()
    embedding = network(images)
    maps = network.backbone(images)
    torch.testing.assert_close(embedding.features, maps.mean((2, 3)) + maps.amax((2, 3)))
    assert embedding.logits is not None
    assert float(embedding.logits[0].detach().abs().max()) <= 1 + 1e-6  # cosines
    weights = network.heads[0].classifier.weight
    normed = network.heads[0].neck(embedding.features)
    torch.testing.assert_close(embedding.logits[0], F.normalize(normed) @ F.normalize(weights).T)


def test_without_a_neck_the_classifier_reads_the_feature_itself() -> None:
    network = _network(neck=False, classifier="biased")
    embedding = network.train()(torch.rand(4, 3, 32, 16))
    classifier = network.heads[0].classifier
    assert classifier.bias is not None
    assert not classifier.bias.any()
    assert 0.005 < classifier.weight.std() < 0.02
    assert embedding.logits is not None
    torch.testing.assert_close(embedding.logits[0], classifier(embedding.features))


def test_the_tested_feature_is_the_one_after_or_before_the_neck() -> None:
    network, images = _network().eval(), torch.rand(2, 3, 32, 16)
    network.heads[0].neck.running_mean.fill_(3.0)
    after = network(images)
    network.test_neck = "before"
    torch.testing.assert_close(network.heads[0].neck(network(images)), after)


def test_metric_losses_compare_features_before_or_after_the_neck() -> None:
    images = torch.rand(4, 3, 32, 16)
    before, after = _network().train(), _network(loss_features="after").train()
    after.load_state_dict(before.state_dict())
    embeddings = before(images), after(images)
    torch.testing.assert_close(before.heads[0](embeddings[0].features), embeddings[1].features)
    torch.testing.assert_close(embeddings[0].logits, embeddings[1].logits)


def test_a_square_head_on_msinet_is_the_published_one() -> None:
    settings = HeadConfig(square=True, classifier="biased", test_weights=(1, 1))
    backbone, published = MSINet(), PublishedMSINet(5)
    network = ReidNetwork(backbone, 5, height=64, width=32, head=settings).eval()
    backbone.load_state_dict(published.state_dict(), strict=False)
    for head, prefix in zip(network.heads, ("", "f_")):
        parts = {"square": f"{prefix}fc", "neck": f"{prefix}head", "classifier": f"{prefix}classifier"}
        for ours, theirs in parts.items():
            head.get_submodule(ours).load_state_dict(published.get_submodule(theirs).state_dict())
    images = torch.rand(4, 3, 64, 32)
    for neck, after in (("before", False), ("after", True)):
        network.test_neck, published.after_neck = neck, after  # type: ignore[assignment]
        torch.testing.assert_close(network(images), published.eval()(images))
    expected = published.train()(images)
    torch.testing.assert_close(network.train()(images)[:2], expected[:2])


def test_weighted_vectors_on_transreid_are_the_published_feature() -> None:
    size = {"height": 64, "width": 32, "embedding": 24, "depth": 2, "heads": 2}
    backbone, published = TransReID(**size), PublishedTransReID(5, **size).eval()
    settings = HeadConfig(test_weights=(1, 0.25, 0.25, 0.25, 0.25))
    network = ReidNetwork(backbone, 5, height=64, width=32, head=settings).eval()
    backbone.load_state_dict(published.state_dict(), strict=False)
    network.test_neck, images = "before", torch.rand(2, 3, 64, 32)
    torch.testing.assert_close(network(images), published(images))


def test_a_vector_of_test_weight_zero_is_left_out() -> None:
    backbone = MSINet()
    whole, half = (
        ReidNetwork(backbone, 5, height=64, width=32, head=HeadConfig(test_weights=weights)).eval()
        for weights in ((1.0, 1.0), (0.5, 0.0))
    )
    images = torch.rand(2, 3, 64, 32)
    assert (whole.test_features, half.test_features) == (768, 512)
    whole.test_neck = half.test_neck = "before"
    torch.testing.assert_close(half(images), 0.5 * whole(images)[:, :512])


@pytest.mark.parametrize("mining", ["hard", "weighted"])
def test_terms_of_branches_equal_a_loop_over_the_vectors(mining: str) -> None:
    features, labels = torch.randn(8, 5), torch.arange(8) // 2
    logits = [torch.randn(8, 4), torch.randn(8, 4)]
    weights = {"identity_branches": (0.5, 2.0), "triplet_branches": (0.0, 0.25)}
    settings = LossConfig(triplet_mining=mining, triplet_normalize=True, **weights)  # type: ignore[arg-type]
    terms = Objective(settings, num_classes=4, feature_dim=5, widths=(2, 3))(logits, features, labels)
    triplet = triplet_loss if mining == "hard" else weighted_triplet_loss
    vector = features[:, 2:] / features[:, 2:].square().sum(1, keepdim=True).sqrt()
    expected = sum(w * F.cross_entropy(x, labels, label_smoothing=0.1) for w, x in zip((0.5, 2.0), logits))
    torch.testing.assert_close(terms["identity"], expected)
    torch.testing.assert_close(terms["triplet"], 0.25 * triplet(vector, labels, margin=0.3))


@pytest.mark.parametrize(
    ("settings", "unread"),
    [({}, set()), ({"identity_branches": (0, 2)}, {0}), ({"identity_weight": 0}, {0, 1})],
)
def test_scores_that_no_loss_reads_carry_no_gradient(settings: dict[str, Any], unread: set[int]) -> None:
    network = ReidNetwork(MSINet(), 5, height=64, width=32)
    losses = LossConfig(**settings)
    objective = build_objective(losses, num_identities=5, features=network.num_features, network=network)
    embedding = network.embed(torch.rand(4, 3, 64, 32))
    assert {n for n, x in enumerate(embedding.logits or []) if not x.requires_grad} == unread
    labels = torch.arange(4) // 2
    objective(embedding.logits, embedding.features, labels)["loss"].backward()
    assert {n for n, head in enumerate(network.heads) if head.classifier.weight.grad is None} == unread


@pytest.mark.parametrize("name", ["identity_branches", "triplet_branches"])
def test_weights_of_branches_are_one_for_each_vector_and_not_all_zero(name: str) -> None:
    with pytest.raises(
        InputError, match=f"loss.{name} has 1 weight, but the network returns 2 vectors; give one weight"
    ):
        Objective(LossConfig(**{name: (1,)}), num_classes=4, feature_dim=5, widths=(2, 3))
    with pytest.raises(ValueError, match=f"{name} are all 0; give one vector a weight"):
        LossConfig(**{name: (0, 0)})
    with pytest.raises(ValueError, match="all are 0, which leaves no feature"):
        HeadConfig(test_weights=(0,))


def test_a_pooling_for_a_backbone_that_gives_vectors_is_refused() -> None:
    backbone = BACKBONES["hacnn"](height=160, width=64)
    with pytest.raises(InputError, match=r"retrain.head.pool is 'gem', but HACNN returns vectors"):
        ReidNetwork(backbone, 5, height=160, width=64, head=HeadConfig(pool="gem"))


def test_the_head_of_stripes_equals_the_published_one_of_both_halves(
    golden: Callable[[str], dict[str, np.ndarray]],
) -> None:
    """On the network of the published genotype: both vectors side by side, and the scores of the second one."""
    values = golden("msinet")
    state = {name.removeprefix("state/"): torch.as_tensor(v) for name, v in values.items() if name.startswith("state/")}
    names, channels = values["genotype"].tolist(), values["channels"].tolist()
    backbone = MSITrunk([INTERACTIONS[name] for name in names], channels)
    backbone.load_state_dict({name: state[name] for name in backbone.state_dict()})
    x, identities = torch.as_tensor(values["x"]), len(state["classifier.weight"])
    head = HeadConfig(parts=2, parts_from="cells.5", classifier="biased", square=True, test_weights=(1, 1))
    network = ReidNetwork(backbone, identities, height=x.shape[2], width=x.shape[3], head=head)
    layers = {"square": "fc", "neck": "head", "classifier": "classifier"}
    published = {f"heads.0.{ours}.": f"{theirs}." for ours, theirs in layers.items()}
    published |= {f"heads.1.{ours}.": f"f_{theirs}." for ours, theirs in layers.items()}
    published |= {"heads.1.pool.reduce.": "f_conv.", "backbone.": ""}
    network.load_state_dict(
        {
            name: state[name.replace(ours, theirs)]
            for name in network.state_dict()
            for ours, theirs in published.items()
            if name.startswith(ours)
        }
    )
    network.eval()
    near(network(x), torch.as_tensor(values["feature_eval_after_neck"]))
    network.test_neck = "before"
    near(network(x), torch.as_tensor(values["feature_eval"]))
    embedding = network.train()(x)
    assert embedding.logits is not None
    found = {"feature_train": embedding.features, "logits_train": torch.stack(embedding.logits)}
    for name, tensor in found.items():  # rounding that batch statistics amplify: tests/test_published_backbones.py
        expected = torch.as_tensor(values[name])
        torch.testing.assert_close(tensor, expected, rtol=0, atol=5e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(("name", "parts", "part", "pool"), [
    ("resnet10_small", 2, None, "gem"), ("resnet10_small", 3, "layer2", "max"), ("osnet_x0_25", 2, "conv3", "avg"),
])  # fmt: skip
def test_the_head_of_stripes_equals_a_slow_loop(name: str, parts: int, part: str | None, pool: str) -> None:
    backbone = BACKBONES[name](height=80, width=48)
    head = HeadConfig(parts=parts, parts_channels=5, parts_from=part, pool=pool)
    network = ReidNetwork(backbone, 4, height=80, width=48, head=head).eval()
    images = torch.rand(2, 3, 80, 48)
    maps: list[Tensor] = []
    read = backbone if part is None else backbone.get_submodule(part)
    read = read[-1] if part == "layer2" else read  # type: ignore[operator, assignment]
    handle = read.register_forward_hook(lambda _m, _i, y: maps.append(y))
    found = network.embed(images)
    handle.remove()
    whole, stripes = network.heads
    weight, bias = stripes.pool.reduce.weight[:, :, 0, 0], stripes.pool.reduce.bias
    (x,) = maps
    rows = x.shape[2]
    expected = []
    for n in range(parts):
        top, bottom = n * rows // parts, (n + 1) * rows // parts
        places = [
            weight @ x[:, :, i, j].T + bias[:, None] for i in range(top, bottom) for j in range(x.shape[3])
        ]  # fmt: skip
        stack = torch.stack(places)
        if pool == "avg":
            expected.append(sum(places) / len(places))
        else:
            expected.append(stack.amax(0) if pool == "max" else stack.clamp(min=1e-6).pow(3).mean(0).pow(1 / 3))
    vector = torch.cat(expected).T
    near(found.features[:, network.widths[0] :], vector)
    assert found.logits is not None
    near(found.logits[1], stripes.classifier(stripes.neck(vector)))
    both = [F.normalize(h(v)) for h, v in zip((whole, stripes), found.features.split(network.widths, dim=1))]
    near(network(images), torch.cat(both, dim=1))
    assert network.num_features == network.widths[0] + 5 * parts


@pytest.mark.parametrize("name", ["vit_small", "dinov2_vit_small"])
def test_stripes_of_a_transformer_are_rows_of_its_patches(name: str) -> None:
    size = 14 if name.startswith("dinov2") else 16
    options = {"registers": 4} if name.startswith("dinov2") else {}
    backbone = BACKBONES[name](height=4 * size, width=2 * size, **options)
    head = HeadConfig(parts=2, parts_channels=3, parts_from="blocks")
    network = ReidNetwork(backbone, 5, height=4 * size, width=2 * size, head=head).eval()
    images = torch.rand(2, 3, 4 * size, 2 * size)
    with record_outputs(backbone.blocks[-1]) as seen, torch.no_grad():
        vector = network(images)[:, backbone.num_features :]
    stripes = network.heads[1]
    rows = seen[0][:, -8:].reshape(2, 4, 2, -1)  # 4 x 2 patches, the last tokens
    reduced = rows @ stripes.pool.reduce.weight[:, :, 0, 0].T + stripes.pool.reduce.bias
    expected = torch.cat([reduced[:, :2].mean((1, 2)), reduced[:, 2:].mean((1, 2))], dim=1)
    near(vector, F.normalize(stripes.neck(expected)))


@pytest.mark.parametrize(
    ("name", "head", "message"),
    [
        ("vit_small", {"parts": 2}, "parts is 2, but the output of VisionTransformer is no map"),
        ("hacnn", {"parts": 2}, "parts is 2, but the output of HACNN is no map"),
        ("resnet10_small", {"parts": 16}, "parts is 16, but .* has 10 rows for images of 80 x 32"),
        ("resnet10_small", {"parts": 2, "parts_from": "layer9"}, "'layer9'.*did you mean layer"),
        (
            "resnet10_small",
            {"parts": 2, "parts_from": "tail"},
            "is 'tail', no part of ResNet; known: .*layer2",
        ),
    ],
)
def test_stripes_that_cannot_be_cut_are_refused_in_one_line(name: str, head: dict[str, Any], message: str) -> None:
    height, width = (160, 64) if name == "hacnn" else (80, 32)
    backbone = BACKBONES[name](height=height, width=width)
    with pytest.raises(InputError, match=message) as refusal:
        ReidNetwork(backbone, 5, height=height, width=width, head=HeadConfig(**head))
    assert "\n" not in str(refusal.value)


def test_a_single_stripe_is_refused() -> None:
    with pytest.raises(ValueError, match="parts is 1, which is the whole map"):
        HeadConfig(parts=1)


@pytest.mark.parametrize(
    ("head", "loss"),
    [
        ({"pool": "gem", "classifier": "circle"}, {"triplet_margin": None}),
        ({"pool": "gem_fixed", "classifier": "cosface", "scale": 30}, {"triplet_mining": "weighted"}),
        ({"pool": "max", "classifier": "arcface", "margin": 0.5}, {"triplet_weight": 0, "circle_weight": 0.1}),
        ({"neck": False, "classifier": "biased"}, {"triplet_weight": 0}),
        ({"parts": 2, "parts_from": "layer2", "pool": "gem"}, {}),
        (
            {"square": True, "classifier": "biased", "test_weights": [1]},
            {"triplet_normalize": True, "identity_branches": [2], "triplet_branches": [1]},
        ),
        ({"loss_features": "after"}, {"triplet_margin": None}),
    ],
    ids=["sbs", "agw", "arcface", "hacnn", "stripes", "msinet", "after_neck"],
)
def test_a_published_head_trains_and_is_evaluated(head: dict, loss: dict, people: Path, tmp_path: Path) -> None:
    retrain = {"backbone": "resnet10_small", "head": head, "epochs": 1, "warmup_epochs": 0}
    job = config(people, retrain=retrain, loss=loss, evaluate=EvaluateConfig(neck="before"))
    job = job.model_copy(update={"data": job.data.model_copy(update={"identities_per_batch": 8})})
    run_retraining(job, tmp_path / "run")
    before, after = (evaluate_run(tmp_path / "run", **changes) for changes in ({}, {"neck": "after"}))
    assert 0 < before.result.mAP <= 1
    same = np.allclose(before.features.query_features, after.features.query_features)
    assert same == (head.get("neck") is False)


def test_an_objective_with_a_margin_adds_it_to_every_branch() -> None:
    labels, cosines = torch.tensor([0, 1]), torch.tensor([[0.5, -0.5], [0.1, 0.2]])

    def softmax(logits: Tensor, classes: Tensor) -> Tensor:
        return margin_logits("cosface", logits, classes, scale=10, margin=0.2)

    objective = Objective(
        LossConfig(triplet_weight=0, label_smoothing=0), num_classes=2, feature_dim=3, softmax=softmax
    )
    terms = objective([cosines, cosines], torch.randn(2, 3), labels)
    expected = F.cross_entropy(torch.tensor([[3.0, -5.0], [1.0, 0.0]]), labels)
    torch.testing.assert_close(terms["identity"], expected)
