"""From cells to the sections of compare.json."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..evaluation import Agreement, Outcomes, Power, mcnemar, refusal_rates
from ..report.shown import Shown
from .cells import SAFE, Measurement, Record, change, matched_row, p_value, row
from .claims import AT_STRENGTH_OF, Claim, claims


@dataclass(frozen=True)
class Measured:
    """Everything that was answered.

    Attributes:
        undefended: outcomes of the model as it is, by modality.
        powers: what its test sets can show, by modality.
        cells: every defence, seed, modality and strength.
        agreement: of the two judges on the answers behind the rates, by modality; empty without a second one.
    """

    undefended: Mapping[str, Outcomes]
    powers: Mapping[str, Power]
    cells: Sequence[Measurement]
    agreement: Mapping[str, Agreement] = field(default_factory=dict)

    def arms(self, kind: str) -> dict[tuple[str, str], list[Measurement]]:
        """Cells of one kind, all seeds of a defence and modality together."""
        found: dict[tuple[str, str], list[Measurement]] = {}
        for cell in self.cells:
            if cell.kind == kind:
                found.setdefault((cell.defence, cell.modality), []).append(cell)
        return found


class Comparison(Shown, dict[str, Any]):
    """The content of compare.json, which shows itself."""

    def finding(self) -> str:
        lines = [f"{self['model']}: {len(self['methods'])} methods at {self['target_kl']} nats per harmless prompt"]
        for line in self["verdicts"]:
            said = [f"{how} in {', '.join(line[how])}" for how in ("held", "failed", "underpowered") if line[how]]
            lines.append(f"{line['words']}: {'; '.join(said)}")
        return "\n".join(lines)

    def caveats(self) -> Sequence[str]:
        return list(self["warnings"])

    def records(self) -> Iterable[Mapping[str, Any]]:
        """One row per defence and modality at the price: what it gains beside what it costs."""
        shares = ("harmful_refusal", "near_miss_refusal", "benign_refusal", "utility", "brr")
        for one in self["matched"]:
            named = {name: one[name] for name in ("modality", "defence", "kl")}
            yield {**named, **{name: one[name]["value"] for name in shares}}


def assemble(
    measured: Measured, target_kl: float, refused: Mapping[str, str], control: Mapping[str, Any] | None
) -> Record:
    """`undefended`, `rows`, `matched`, `same_strength`, `claims`, `control` and `warnings` of compare.json.

    Args:
        measured: the cells.
        target_kl: the price.
        refused: methods that could not be fitted, and why.
        control: compare.json of the control model.
    """
    arms = measured.arms("matched")
    matched = [
        matched_row(cells, measured.undefended[m], measured.powers[m], target_kl) for (_, m), cells in arms.items()
    ]
    same = [
        _without_price(matched_row(cells, measured.undefended[m], measured.powers[m], target_kl))
        for (_, m), cells in measured.arms("same_strength").items()
    ]
    rows = None if control is None else {f"{r['defence']}/{r['modality']}": r for r in control["matched"]}
    found = claims(arms, measured.arms("same_strength"), measured.undefended, measured.powers, rows)
    return {
        "undefended": {
            m: {**refusal_rates(o).to_json(), "power": _power(measured.powers[m]), **_counts(o)}
            for m, o in measured.undefended.items()
        },
        "rows": [row(cell) for cell in measured.cells],
        "matched": matched,
        "same_strength": same,
        "between": between(arms),
        "claims": [claim.to_json() for claim in found],
        "verdicts": verdicts(found),
        "control": None if control is None else {"model": control["model"], "matched": control["matched"]},
        "not_fitted": dict(refused),
        "warnings": warnings(measured, matched, refused),
    }


def _without_price(found: Record) -> Record:
    """A row at another method's strength: what was measured at its own price does not belong to it."""
    priced = ("kl", "target_kl", "at_bound", "edit_norm", "edit_norm_by_layer", "edit_norm_harmless_by_layer")
    return {"of": AT_STRENGTH_OF[found["defence"]], **{k: v for k, v in found.items() if k not in priced}}


def between(arms: Mapping[tuple[str, str], Sequence[Measurement]], seed: int = 0) -> list[Record]:
    """The central methods against each other and against plain addition, on the same items at the same price.

    The difference and the permutation test take all fit seeds; McNemar's exact test takes the first one, where an item
    occurs once, and treats items as independent.
    """
    found = []
    for first, second in (("sarsteer", "mars"), ("sarsteer", "addition"), ("mars", "addition")):
        for m in dict.fromkeys(modality for _, modality in arms):
            one, two = arms.get((first, m)), arms.get((second, m))
            if not one or not two:
                continue
            a, b = one[0].outcomes.refused("harmful")[0], two[0].outcomes.refused("harmful")[0]
            only = [sum(x and not y for x, y in pairs) for pairs in (zip(a, b, strict=True), zip(b, a, strict=True))]
            found.append(
                {
                    "first": first,
                    "second": second,
                    "modality": m,
                    "harmful": change(one, two, "harmful", seed=seed).to_json(),
                    "over_refusal": change(one, two, *SAFE, seed=seed).to_json(),
                    "p_permutation": p_value(one, two, "harmful", seed=seed),
                    "only_first": only[0],
                    "only_second": only[1],
                    "p_mcnemar": mcnemar(*only),
                }
            )
    return found


def verdicts(found: Sequence[Claim]) -> list[Record]:
    """One line per claim: in how many modalities it held, failed or could not be decided."""
    lines: dict[str, Record] = {}
    for claim in found:
        line = lines.setdefault(
            claim.id, {"id": claim.id, "words": claim.words, "held": [], "failed": [], "underpowered": []}
        )
        line[claim.verdict].append(claim.modality)
    return list(lines.values())


def _power(found: Power) -> Record:
    return {
        "attack_success": None if found.pairs == 0 else found.attacked,
        "pairs": found.pairs,
        "detectable": found.detectable,
        "headroom": found.headroom,
        "words": found.words,
    }


def _counts(found: Outcomes) -> Record:
    return {f"n_{role}": len(found.prompts.filter(role=role)) for role in ("harmful", "benign", "near_miss")}


def warnings(measured: Measured, matched: Sequence[Record], refused: Mapping[str, str]) -> list[str]:
    """What a reader must know before quoting a figure."""
    found = [f"{name} was not fitted: {why}" for name, why in refused.items()]
    found += [f"{m}: {p.words}." for m, p in measured.powers.items() if p.words]
    weak = sorted({r["defence"] for r in matched if r["at_bound"] and r["kl"] < 0.5 * r["target_kl"]})
    if weak:
        found.append(
            f"Cheaper than the price even at the largest allowed strength in some modality: {', '.join(weak)}. Their "
            "rows are not at matched cost but below it."
        )
    dear = sorted({r["defence"] for r in matched if r["kl"] > 1.5 * r["target_kl"]})
    if dear:
        found.append(f"Dearer than the price and without a strength to lower it: {', '.join(dear)}.")
    broken = sorted(
        {f"{r['defence']} ({r['modality']})" for r in matched if (r["utility_change"]["value"] or 0.0) < -0.1}
    )
    if broken:
        found.append(
            "The price counts the first answer token only; these lose more than 10 points of exact harmless answers "
            f"behind it: {', '.join(broken)}."
        )
    zero = sorted({f"{r['defence']} ({r['modality']})" for r in matched if any(s["strength"] == 0 for s in r["seeds"])})
    if zero:
        found.append(f"Too dear at every strength tried, so strength 0 in some fit: {', '.join(zero)}.")
    return found
