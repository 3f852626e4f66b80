"""The losses of the two halves of a bilevel search. B images of the joint batch of all processes."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from dcs_nas.config import Config, SearchConfig
from dcs_nas.data.datamodule import HALVES, Batch, Images, file_names
from dcs_nas.losses import Objective, PrototypeMemory
from dcs_nas.losses.cost import cost_term
from dcs_nas.models.build import build_cost
from dcs_nas.models.heads import Embedding, ReidNetwork
from dcs_nas.models.supernet import Supernet
from dcs_nas.processes import get_rank, get_world_size
from dcs_nas.seeds import seed_everything
from dcs_nas.training.joint_batch import joint, joint_embedding
from dcs_nas.training.nonfinite import require_finite
from dcs_nas.training.objective import batch_terms, ib_inputs


class SearchLoss:
    """Named loss terms of a batch, for the weights and for the architecture.

    The architecture's: identity, triplet and IB as in training, the cost of the mixture, the relaxation's regulariser.
    ``memories`` by half: with one, the half's identities need no classifier, and the prototype loss takes the place of
    the identity term.
    """

    def __init__(
        self,
        network: ReidNetwork,
        objective: Objective,
        memories: Mapping[str, PrototypeMemory | None],
        config: Config,
        *,
        halves: Mapping[str, Images],
    ) -> None:
        self.network, self.objective, self.config, self.halves = network, objective, config, halves
        self.memories = memories
        self.settings: SearchConfig = config.section("search")
        self.cost = build_cost(self.settings.cost, self.supernet)

    @property
    def supernet(self) -> Supernet:
        return self.network.backbone  # type: ignore[return-value]

    def terms(self, half: str, embedding: Embedding, labels: Tensor, inputs: Tensor | None) -> dict[str, Tensor]:
        """Return terms of the joint batch; ``loss`` is what to minimize."""
        memory = self.memories[half]
        if memory is None:
            terms = batch_terms(self.objective, embedding, labels, inputs)
        else:
            own = embedding._replace(logits=None)
            learns = half == "weights"  # the centres of identities that only move alphas do not learn
            terms = batch_terms(self.objective, own, labels, inputs, partial=True, centers=learns)
            terms["prototype"] = memory(embedding.features, labels)
            terms["loss"] = terms["loss"] + self.config.loss.identity_weight * terms["prototype"]
        return terms if half == "weights" else self._with_cost(terms)

    def _with_cost(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        loss = terms["loss"]
        if self.cost is not None:
            s = self.settings.cost
            terms["cost"] = self.cost(self.supernet.compute_expected_weights())
            loss = loss + cost_term(loss, terms["cost"], form=s.form, weight=s.weight, target=s.target, beta=s.beta)
        if (penalty := self.supernet.penalty()) is not None:
            terms["penalty"] = penalty
            loss = loss + terms["penalty"]
        return {**terms, "loss": loss}


class Pass:
    """A batch of one half, whose loss can be computed again and again with the same random draws.

    Args:
        loss: of the search.
        half: ``weights`` or ``architecture``.
        batch: of this process.
        images: the batch's, augmented.
        key: seed, epoch and step.
        place: where that is, for messages.
    """

    terms: dict[str, Tensor]
    features: Tensor

    def __init__(
        self, loss: SearchLoss, half: str, batch: Batch, images: Tensor, *, key: tuple[int, int, int], place: str
    ) -> None:
        self._loss, self.half, self.batch, self.images, self._key, self.place = loss, half, batch, images, key, place
        self.labels = joint(batch["labels"])
        self.inputs = joint(images) if loss.objective.needs_images else None

    @property
    def files(self) -> list[str]:
        """The batch's image files."""
        return file_names(self._loss.halves[self.half], self.batch["indices"])

    def first(self, count: int) -> Pass:
        """Return the same with the first ``count`` images of this process."""
        batch = {name: values[:count] for name, values in self.batch.items()}
        return Pass(self._loss, self.half, batch, self.images[:count], key=self._key, place=self.place)

    def loss(self, *, expected: bool = False) -> Tensor:
        """Return the loss of the joint batch over the number of processes; its terms and features are kept.

        ``expected``: by the mixture weights that the alphas stand for, not by a draw of them.
        """
        parts, half = self._loss, HALVES.index(self.half) + 1
        seed_everything(*self._key, half)
        with parts.supernet.hold_draw(expected=expected):  # the same in every process, unlike the noise inside blocks
            seed_everything(*self._key, half, get_rank())
            embedding = joint_embedding(parts.network(self.images))
        self.features = embedding.features.detach()
        self.inputs = ib_inputs(parts.objective, embedding, self.inputs)
        self.terms = parts.terms(self.half, embedding, self.labels, self.inputs)
        require_finite(self.terms, where=self.place, files=self.files)
        return self.terms["loss"] / get_world_size()
