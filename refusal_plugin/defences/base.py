"""What every defence is: a frozen record of tensors and switches that turns a strength into an `Edit`.

    fit(model, data, seed=..., **switches) -> Defence         local, may look at whatever it declares
    defence.edit(strength, modality=...)   -> Edit            functions of `traced` and plain tensors, nothing else

A strength is one number, or a tensor (row,) with one strength per row of the batch, so that many strengths run in one
pass. A method file registers its fit function with `@method("name", sees="text")`; a file outside this package can do
the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeAlias, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import DirectionError
from ..inference.edits import Edit, SiteEdit, When, Where, require_strength
from ..models import Anatomy, hf_module
from ..models.provenance import Artefact
from ..prompts import EVERY_MODALITY, Modality

Strength: TypeAlias = float | Float[Tensor, " row"] | None
Modalities: TypeAlias = Modality | Sequence[Modality]
Own = TypeVar("Own", bound="Defence")


@dataclass(frozen=True, kw_only=True)
class Defence(Artefact):
    """A fitted defence.

    Attributes:
        name: as in `REGISTRY`.
        strength: what `edit()` uses when it is given none; `dataclasses.replace` sets a calibrated one.
        bounds: strengths between which a calibration should search; 0 leaves the model as it is.
        system: system text of a prompt defence; None for all others.
        when: "every_step" (prefill and each decode step) or "prefill".
        where: "last" (newest token of each row) or "all" positions.
        switches: how it was fitted.
        provenance: model, template, data and package versions; see `refusal_plugin.provenance`.
    """

    FORMAT: ClassVar[str] = "refusal_plugin.defence.v1"

    name: str
    strength: float = 1.0
    bounds: tuple[float, float] = (0.0, 2.0)
    system: str | None = None
    when: When = "every_step"
    where: Where = "last"
    switches: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def edit(self, strength: Strength = None, *, modality: Modalities = "text") -> Edit | None:
        """The edit at a strength, or None if this defence edits nothing (a prompt defence).

        Args:
            strength: a number; (row,) for one per row of the batch; None for the stored one.
            modality: of the prompts; one for all rows, or one per row where a method keeps tensors per modality.

        Raises:
            DirectionError: a strength that is not finite, or a modality it was not fitted for.
        """
        c = self._strength(strength)
        rows = self._modalities(modality, c)
        parts = tuple(self.parts(c, rows))
        return Edit(self.name, parts, self.when) if parts else None

    def parts(self, strength: Any, modality: Modalities) -> Iterator[SiteEdit]:
        """The edits of single blocks.

        Args:
            strength: a float, or (row, 1, 1).
            modality: one, or a tuple with one per row.
        """
        raise NotImplementedError

    def diagnostics(self) -> dict[str, Any]:
        """What a reader should look at before believing this defence: JSON-able figures and curves."""
        return {"name": self.name, "strength": self.strength, **dict(self.switches)}

    def at(self: Own, strength: float) -> Own:
        """The same defence with another stored strength.

        Raises:
            DirectionError: a strength that is not finite.
        """
        self._strength(strength)
        return replace(self, strength=float(strength))

    @contextmanager
    def attached(
        self,
        model: Any,
        *,
        strength: Strength = None,
        modality: Modalities = "text",
        facts: Anatomy | None = None,
    ) -> Iterator[nn.Module]:
        """Run the defence in plain torch hooks, no tracing in the loop; see `Edit.attached`.

        A prompt defence hooks nothing: render the prompts with `system=defence.system`.
        """
        edit = self.edit(strength, modality=modality)
        if edit is None:
            yield model if isinstance(model, nn.Module) else hf_module(model)
        else:
            with edit.attached(model, facts) as module:
                yield module

    # -- for subclasses ------------------------------------------------------------------------------------------------
    def _strength(self, strength: Strength) -> Any:
        """A float, or (row, 1, 1)."""
        c = require_strength(self.strength if strength is None else strength, f"use defence '{self.name}'")
        return c.reshape(-1, 1, 1).float() if isinstance(c, Tensor) else float(c)

    def _modalities(self, modality: Modalities, strength: Any) -> Modalities:
        """One modality, or a tuple with one per row that fits the strengths."""
        given = (modality,) if isinstance(modality, str) else tuple(modality)
        for one in given:
            if one not in EVERY_MODALITY:
                raise DirectionError(
                    f"use defence '{self.name}' on modality {one!r}",
                    "no such modality",
                    f"use one of {', '.join(EVERY_MODALITY)}",
                )
        if not given:
            raise DirectionError(f"use defence '{self.name}'", "0 modalities", "give one, or one per row")
        if isinstance(modality, str) or len(set(given)) == 1:
            return given[0]
        if isinstance(strength, Tensor) and len(strength) not in (1, len(given)):
            raise DirectionError(
                f"use defence '{self.name}'",
                f"{len(strength)} strengths and {len(given)} modalities",
                "give one of each per row",
            )
        return given

    def _pick(self, table: Mapping[str, Tensor], modality: Modalities, what: str) -> Tensor:
        """The tensor of a modality, or (row, 1, ...) with one per row."""
        given = (modality,) if isinstance(modality, str) else tuple(modality)
        missing = [one for one in given if one not in table]
        if missing:
            raise DirectionError(
                f"use defence '{self.name}' on {missing[0]}",
                f"it has {what} for {', '.join(table) or 'no modality'} only",
                f"fit it with {missing[0]} prompts",
            )
        if isinstance(modality, str):
            return table[modality]
        return torch.stack([table[one] for one in given]).unsqueeze(1)
