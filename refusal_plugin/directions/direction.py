"""The refusal direction: difference in means per layer and position, with where it came from.

    r[p, l] = mean over harmful of h[p, l]  -  mean over benign of h[p, l]       (Arditi et al. 2024, arXiv 2406.11717)

`h` is `resid_post`: the stream behind block `l` at token position `p` (-1 is the last prompt token). The reference
code reads block inputs; the site is stored with the vector so that the two conventions never mix. `r` points TOWARDS
refusal.

`fit_direction` gives one candidate per layer and position; `select_direction` chooses among them on a validation split.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from ..errors import DirectionError
from ..inference.edits import Edit, When, Where, ablation, addition, attenuation
from ..inference.streaming import collect_moments
from ..models import anatomy
from ..models.provenance import Artefact, provenance
from ..progress import Progress
from ..prompts import Prompt, PromptSet, batches
from ..report.shown import Shown

SAME = 1e-6
"""Means closer than this share of their norm are equal in float32: there is no direction between them."""


@dataclass(frozen=True)
class Candidates(Shown):
    """Difference-in-means directions of every layer and position.

    Attributes:
        harmful, benign: (position, layer, d_model) float32 group means of `resid_post`.
        positions: negative offsets from the prompt's end.
        n_harmful, n_benign: prompts behind the means.
        provenance: model, template, data and package versions.
    """

    harmful: Float[Tensor, "position layer d_model"]
    benign: Float[Tensor, "position layer d_model"]
    positions: tuple[int, ...]
    n_harmful: int
    n_benign: int
    provenance: Mapping[str, Any]

    @property
    def vectors(self) -> Float[Tensor, "position layer d_model"]:
        """`harmful - benign`, pointing towards refusal, in the units of the residual stream."""
        return self.harmful - self.benign

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return int(self.harmful.shape[1])

    def finding(self) -> str:
        counts = f"{self.n_harmful} harmful, {self.n_benign} benign prompts"
        return f"{self.n_layers} layers x {len(self.positions)} positions, from {counts}"

    def caveats(self) -> Sequence[str]:
        return ("candidates only: select_direction chooses one on validation prompts, .at(layer) takes one by hand.",)

    def records(self) -> Iterable[Mapping[str, Any]]:
        """One row per candidate: how long it is, and which share of the harmful mean that is."""
        for p, position in enumerate(self.positions):
            norms, scale = self.vectors[p].norm(dim=-1).tolist(), self.harmful[p].norm(dim=-1).tolist()
            for layer, (norm, whole) in enumerate(zip(norms, scale, strict=True)):
                yield {"layer": layer, "position": position, "norm": norm, "share": norm / max(whole, 1e-30)}

    def at(self, layer: int, position: int = -1) -> "Direction":
        """The candidate of one layer and position as a `Direction`.

        Raises:
            DirectionError: an unknown layer or position.
        """
        if not 0 <= layer < self.n_layers or position not in self.positions:
            raise DirectionError(
                f"candidate at layer {layer}, position {position}",
                f"there are layers 0 to {self.n_layers - 1} and positions {list(self.positions)}",
                "choose among these",
            )
        p = self.positions.index(position)
        return Direction(layer, position, self.harmful[p], self.benign[p], provenance=dict(self.provenance))


@dataclass(frozen=True)
class Direction(Artefact):
    """A refusal direction at one layer and position, with the means of all layers behind it.

    Attributes:
        layer: block whose `resid_post` it belongs to.
        position: token position at which it was read, -1 = last prompt token.
        harmful, benign: (layer, d_model) group means at that position.
        strength: strength chosen at selection, in multiples of the full vector; 1 if none was chosen.
        site: "resid_post".
        method: how the vector was made.
        objective: what it was selected for ("causal", "defence" or "" if it was not selected).
        table: the whole selection table, one dict per candidate.
        provenance: model, template, data and package versions.
        price: what its strength was priced at, see `at_price`: "target_kl", "tokens", and "kl" by modality; empty where
            it was not.
    """

    FORMAT: ClassVar[str] = "refusal_plugin.direction.v1"

    layer: int
    position: int
    harmful: Float[Tensor, "layer d_model"]
    benign: Float[Tensor, "layer d_model"]
    strength: float = 1.0
    site: str = "resid_post"
    method: str = "difference_in_means"
    objective: str = ""
    selection: str = ""
    table: tuple[Mapping[str, Any], ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    price: Mapping[str, Any] = field(default_factory=dict)

    @property
    def vector(self) -> Float[Tensor, "d_model"]:
        """The direction at its own layer, not normalised, towards refusal."""
        return self.harmful[self.layer] - self.benign[self.layer]

    @property
    def unit(self) -> Float[Tensor, "d_model"]:
        """The direction at its own layer with norm one."""
        scaled: Tensor = self.vector / self.vector.norm()
        return scaled

    @property
    def by_layer(self) -> Float[Tensor, "layer d_model"]:
        """The directions of every layer at the same position."""
        return self.harmful - self.benign

    def coordinates(self, x: Float[Tensor, "... layer d_model"]) -> Float[Tensor, "... layer"]:
        """Where activations lie along each layer's direction: 0 = mean benign text, 1 = mean harmful text.

        Args:
            x: `resid_post` of all layers.
        """
        r = self.by_layer
        place: Tensor = ((x - self.benign) * r).sum(-1) / r.square().sum(-1)
        return place

    def addition(self, strength: float | None = None, *, where: Where = "all", when: When = "every_step") -> Edit:
        """Addition of `strength * vector` at its own layer; the stored strength by default."""
        strength = self.strength if strength is None else strength
        return addition({self.layer: self.vector}, strength=strength, where=where, when=when)

    def ablation(self) -> Edit:
        """Project the direction out of every layer and position: the reference's causal test."""
        return ablation(self.unit, range(self.harmful.shape[0]))

    def set_to_benign_mean(self) -> Edit:
        """Set the last prompt token's coordinate along the direction to its benign mean, in every layer.

        The sharper causal test: a model that refuses because of this coordinate stops refusing, and whatever it does on
        benign prompts stays as it is. Prefill only.

        Raises:
            DirectionError: the direction was read at another position, so that its means do not belong to that token.
        """
        self._need_last("set the coordinate to its benign mean")
        return attenuation(self.unit.expand_as(self.benign), self.benign, keep=0.0, name="neutral")

    def attenuated(self, keep: float = 0.5) -> Edit:
        """Move the coordinate along every layer's own direction part of the way to its benign mean.

        Text in which harm is only half represented, as it is in media: a stand-in made from text alone. Prefill only. A
        layer whose means are equal has no direction, and nothing is changed there.

        Raises:
            DirectionError: the direction was read at another position.
        """
        self._need_last("make harm faint")
        return attenuation(normalize(self.by_layer, dim=-1), self.benign, keep=keep, name="faint")

    def _need_last(self, asked: str) -> None:
        if self.position != -1:
            raise DirectionError(asked, f"the direction was read at position {self.position}", "use one read at -1")

    def problem(self) -> str:
        """What is wrong with a file's content."""
        return "" if self.layer in range(len(self.harmful)) else f"layer {self.layer} of {len(self.harmful)}"

    def finding(self) -> str:
        name, chosen = self.provenance.get("model", "?"), f"selected for {self.objective}" if self.objective else "-"
        return (
            f"{name}, layer {self.layer} of {len(self.harmful)}, position {self.position}, "
            f"norm {float(self.vector.norm()):.3g}, strength {self.strength:.3g} ({self._priced()}), {chosen}"
        )

    def caveats(self) -> Sequence[str]:
        by_hand = "its layer was taken by hand, not selected, and its strength is no more than a first guess."
        unpriced = "its strength is not priced: at_price(direction, model, harmless) sets one, and says what it costs."
        return [by_hand] * (not self.objective) + [unpriced] * (not self.price)

    def records(self) -> Iterable[Mapping[str, Any]]:
        """The selection table, one row per candidate."""
        return self.table

    def _priced(self) -> str:
        """What the strength costs, in words."""
        if not self.price:
            return "not priced"
        costs = ", ".join(f"{modality} {nats:.2g}" for modality, nats in self.price["kl"].items())
        return f"costs {costs} nats"


def template_positions(model: Any, prompts: Iterable[Prompt]) -> tuple[int, ...]:
    """Every token of the template behind the instruction, as negative offsets: the candidate positions.

    The template is the same for every prompt, so the first prompt tells.
    """
    _, batch = next(iter(batches(model, list(prompts)[:1])))
    n = int(batch.roles["post_instruction"][0].flip(0).long().cumprod(0).sum())  # none behind a given beginning
    return tuple(range(-max(n, 1), 0))


def fit_direction(
    model: Any,
    prompts: PromptSet,
    *,
    positions: tuple[int, ...] = (-1,),
    keep: Callable[[Prompt], bool] | None = None,
    remote: bool | str = False,
    progress: Progress = None,
) -> Candidates:
    """Difference in means of every layer and position, in one pass over the prompts.

    Args:
        model: a loaded model.
        prompts: harmful and benign prompts (near misses are left out: they belong to the test of the direction, not to
            its definition).
        positions: negative offsets from the prompt's end; the last prompt token by default. `template_positions` gives
            every token of the template behind the instruction, the reference's candidates.
        keep: optional filter, e.g. harmful prompts that the model refuses and benign ones that it answers.
        remote: run on NDIF: one request, or several where one would exceed `remote.Settings.max_tokens`.
        progress: None shows a bar where somebody can see it.

    Raises:
        PromptError: fewer than two prompts of a role, or texts without roles.
        DirectionError: the two means are equal at every layer and position.
        DataError: NaN activations.
    """
    asked = "fit a refusal direction"
    used = PromptSet.of(prompts, asked).filter(role=("harmful", "benign"))
    if keep is not None:
        used = used.where(keep)
    used.require(at_least=2, asked=asked)  # the mean of one prompt is that prompt
    moments = collect_moments(model, used, positions=positions, remote=remote, progress=progress)
    harmful, benign = moments["harmful"], moments["benign"]
    difference = (harmful.mean - benign.mean).norm(dim=-1)
    scale = harmful.mean.norm(dim=-1).clamp_min(1e-30)
    if float((difference / scale).max()) <= SAME:
        raise DirectionError(
            f"fit a refusal direction on {anatomy(model).name}",
            "harmful and benign activations have the same mean",
            "check the prompts and the model",
        )
    return Candidates(
        harmful.mean.float(), benign.mean.float(), positions, harmful.n, benign.n, provenance(model, used)
    )
