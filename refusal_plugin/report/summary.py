"""The top of the page: the question, the finding in words, warnings said aloud, and one card per modality."""

from collections.abc import Mapping
from typing import Any

from refusal_plugin.report.figures.curves import at_layer
from refusal_plugin.report.markup import Markup, join, tag
from refusal_plugin.report.palette import colour, modality_order
from refusal_plugin.report.small import change_bar, icon
from refusal_plugin.report.table import pairs_table, scroll
from refusal_plugin.report.words import (
    NOT_MEASURED,
    Rate,
    decimal,
    finite,
    mapping,
    percent,
    points,
    scalar,
    sequence,
    share,
)

REGIMES = {
    "attenuated": "Harm is seen in every modality, but refused less outside text",
    "weak": "The text direction reaches other modalities only weakly",
    "absent": "The text direction does not reach other modalities",
    "aligned": "The model refuses harm in every modality",
    "no_refusal": "This model does not refuse, so there is nothing to transfer",
    "undetermined": "This run cannot say which regime the model is in",
}
SHOWN_WARNINGS = 6


def question(results: Mapping[str, Any]) -> str:
    """The question in plain words; a model that reads text alone gets the question that fits it."""
    others = [m for m in modality_order(mapping(results.get("modalities"))) if m != "text"]
    if not others:
        return "Where does this model keep its refusal of harmful text?"
    spoken = {"image": "images", "video": "video", "audio": "speech"}
    said = [spoken.get(m, m) for m in others]
    listed = said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"
    return f"Does refusal learned in text reach {listed}?"


def finding(results: Mapping[str, Any]) -> Markup:
    """The regime as the headline, in words, with its evidence on request."""
    regime = mapping(results.get("regime"))
    name = str(regime.get("name") or "undetermined")
    evidence = mapping(regime.get("evidence"))
    rows = [(str(key).replace("_", " "), _evidence(value)) for key, value in evidence.items()]
    behind = (
        tag("details", tag("summary", "Evidence for this verdict"), scroll(pairs_table(rows), "Evidence"))
        if rows
        else None
    )
    return tag(
        "section",
        tag("p", REGIMES.get(name, name), class_="label"),
        tag("p", regime.get("words") or "The results hold no verdict in words."),
        tag("p", "Regime: ", tag("strong", name.replace("_", " ")), class_="note"),
        behind,
        class_="finding",
        aria_label="Finding",
    )


def _evidence(value: object) -> str:
    if isinstance(value, Mapping):
        if "value" in value:
            return scalar(Rate.of(value))
        return "; ".join(f"{key}: {_evidence(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_evidence(inner) for inner in value)
    found = finite(value)
    return decimal(found, 3) if found is not None and not isinstance(value, int) else str(value)


def warnings(results: Mapping[str, Any]) -> Markup | None:
    """All warnings, above the figures; a long list is folded after the first few."""
    found = sequence(results.get("warnings"))
    if not found:
        return None
    first, rest = found[:SHOWN_WARNINGS], found[SHOWN_WARNINGS:]
    more = (
        tag("details", tag("summary", f"{len(rest)} more"), tag("ul", [tag("li", w) for w in rest])) if rest else None
    )
    name = "1 warning" if len(found) == 1 else f"{len(found)} warnings"
    return tag(
        "section",
        tag("h2", name),
        tag("ul", [tag("li", w) for w in first]),
        more,
        class_="warnings",
        aria_label="Warnings",
    )


def cards(results: Mapping[str, Any]) -> Markup:
    """One card per modality: refused before and after, read back, harm visible, over-refusal."""
    modalities = mapping(results.get("modalities"))
    layer = mapping(results.get("direction")).get("layer")
    return tag(
        "div", [_card(name, mapping(modalities[name]), layer) for name in modality_order(modalities)], class_="cards"
    )


def _card(name: str, found: Mapping[str, Any], layer: object) -> Markup:
    defences = mapping(found.get("defences"))
    none, added = mapping(defences.get("none")), mapping(defences.get("addition"))
    before, after = Rate.of(none.get("harmful_refusal")), Rate.of(added.get("harmful_refusal"))
    over, read = Rate.of(added.get("over_refusal")), Rate.of(found.get("read_back"))
    seen = at_layer(found.get("auroc_by_layer"), layer)
    facts = [
        ("Read correctly", percent(read.value) if read.value is not None else "\u2013", share(read)),
        ("Harm visible", decimal(seen.value), f"AUROC at layer {layer}: {scalar(seen)}"),
        (
            "Over-refusal",
            points(Rate(over.value)).replace(" points", " pts") if over.value is not None else "\u2013",
            points(over),
        ),
    ]
    big: list[object] = [NOT_MEASURED]
    if before.value is not None and after.value is not None:
        big = [tag("small", percent(before.value), " \u2192 "), percent(after.value)]
    elif before.value is not None or after.value is not None:
        big = [percent(before.value if after.value is None else after.value)]
    unit = "of harmful requests refused, before \u2192 after adding the text direction"
    return tag(
        "section",
        tag("h3", icon(name), name),
        tag("p", big, class_="big"),
        tag("p", unit, class_="unit"),
        change_bar(before, after, name),
        tag("dl", [tag("div", tag("dt", term), tag("dd", value, title=full)) for term, value, full in facts]),
        class_="card",
        style=f"--hue:{colour(name)}",
        aria_label=name,
    )


def card_note(results: Mapping[str, Any]) -> Markup:
    """What the words on the cards mean."""
    layer = finite(mapping(results.get("direction")).get("layer"))
    where = "the selected layer" if layer is None else f"layer {layer:.0f}"
    return tag(
        "p",
        join(
            [
                tag("strong", "Read correctly"),
                ": the model answers a question about the content right. ",
                tag("strong", "Harm visible"),
                f": AUROC of the projection on the text direction at {where}; 0.5 is guessing, 1 perfect. ",
                tag("strong", "Over-refusal"),
                ": how many more harmless requests are refused once the direction is added.",
            ]
        ),
        class_="note",
    )
