"""The top of the page: the question, the finding in words, and one card per modality."""

from collections.abc import Mapping
from typing import Any

from .icons import change_bar
from .markup import Markup
from .numbers_in_words import DASH, NOT_MEASURED, decimal, percent, points, sample, scalar
from .palette import modality_order
from .records import Rate, at_layer, by_layer, finite, mapping
from .table import pairs_table, scroll

SPOKEN = {"image": "images", "video": "video", "audio": "speech"}


def question(results: Mapping[str, Any]) -> str:
    """The question in plain words; a model that reads text alone gets the question that fits it."""
    order = [m.split("+") for m in modality_order(mapping(results, "modalities")) if m != "text"]
    said = [" with ".join(SPOKEN.get(kind, kind) for kind in kinds) for kinds in order]
    if not said:
        return "Where does this model keep its refusal of harmful text?"
    listed = said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"
    return f"Does refusal learned in text reach {listed}?"


def regime(results: Mapping[str, Any]) -> dict[str, object]:
    """The regime's name, its words, and its evidence as a table."""
    found = mapping(results, "regime")
    rows = [(key.replace("_", " "), _evidence(value)) for key, value in mapping(found, "evidence").items()]
    evidence = scroll(pairs_table(rows), "Evidence") if rows else None
    return {"name": str(found.get("name") or "undetermined"), "words": found.get("words"), "evidence": evidence}


def _evidence(value: object) -> str:
    if isinstance(value, Mapping):
        if "value" in value:
            return scalar(Rate.of(value))
        return "; ".join(f"{key}: {_evidence(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_evidence, value))
    return decimal(finite(value), 3) if isinstance(value, float) and finite(value) is not None else str(value)


def cards(results: Mapping[str, Any]) -> list[dict[str, object]]:
    """What the card of every modality shows: refused before and after, read back, harm visible, over-refusal."""
    modalities, layer = mapping(results, "modalities"), finite(results, "direction", "layer")
    return [_card(name, mapping(modalities, name), layer) for name in modality_order(modalities)]


def _card(name: str, found: Mapping[str, Any], layer: float | None) -> dict[str, object]:
    before, after = (Rate.of(found, "defences", arm, "harmful_refusal") for arm in ("none", "addition"))
    over = Rate.of(found, "defences", "addition", "over_refusal")
    short = points(Rate(over.value)).replace(" points", " pts")
    return {
        "name": name,
        "big": _change(before.value, after.value),
        "n": sample((before, after)),
        "bar": change_bar(before, after, name),
        "read": Rate.of(found, "read_back"),
        "seen": at_layer(by_layer(found, "auroc_by_layer"), layer),
        "over": over,
        "over_short": DASH if over.value is None else short,
    }


def _change(before: float | None, after: float | None) -> Markup | str:
    if before is not None and after is not None:
        return Markup("<small>{} \u2192 </small>{}").format(percent(before), percent(after))
    return NOT_MEASURED if before is None and after is None else percent(before if after is None else after)
