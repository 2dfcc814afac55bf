"""What the study does not show, and where its numbers come from."""

from collections.abc import Mapping
from typing import Any

from refusal_plugin.report.markup import Markup, tag
from refusal_plugin.report.palette import modality_order
from refusal_plugin.report.table import pairs_table
from refusal_plugin.report.words import Rate, finite, mapping, sequence, significant


def limits(results: Mapping[str, Any]) -> Markup:
    """Honest limits that hold for every study, and those of this one."""
    return tag("ul", [tag("li", tag("strong", name), " ", said) for name, said in _limits(results)], class_="limits")


def _limits(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    modalities = mapping(results.get("modalities"))
    found: list[tuple[str, str]] = []
    if str(results.get("model", "")).startswith("organism"):
        found.append(
            (
                "The model is synthetic.",
                "It is a tiny model trained from scratch on generated data, with the gap between "
                "text and the other modalities built in by its training. It shows that the method works and can be "
                "checked; it says nothing about the size of the effect in large models.",
            )
        )
    counts = []
    for name in modality_order(modalities):
        m = mapping(modalities[name])
        counts.append(f"{name}: {', '.join(f'{_count(m.get(key))} {word}' for key, word in _SIZES)}")
    if counts:
        found.append(
            (
                "Samples are small.",
                f"{'; '.join(counts)}. Intervals cover the drawing of test items, not other models, "
                "seeds, wordings or renderings of the same items.",
            )
        )
    if finite(results.get("limit")) is not None:
        found.append(
            (
                "This run was cut short.",
                f"It was limited to {significant(finite(results.get('limit')))} items a group; "
                "use the full run before you quote a number.",
            )
        )
    missing = [name for name in modality_order(modalities) if _unmeasured(mapping(modalities[name]))]
    if missing:
        found.append(
            (
                "Some rates have no value.",
                f"In {', '.join(missing)} there was no headroom or too few items; the warnings "
                "say which. An empty cell is not a zero.",
            )
        )
    if len(modalities) == 1:
        found.append(
            ("Only text was tested.", "Nothing here says how the direction behaves in images, video or speech.")
        )
    found += [
        (
            "Visible is not used.",
            "A high AUROC says that harm can be read off along the text direction, not that the model acts on it; "
            "the steering and removal figures are the causal evidence.",
        ),
        (
            "One direction, one layer, one dose.",
            "Other layers, doses and defences can do better or worse; methods are only comparable at "
            "matched cost on harmless requests.",
        ),
        (
            "Labels are automatic.",
            "Refused, answered, off task and degenerate are assigned by rule; a refusal in unusual words can "
            "be missed.",
        ),
    ]
    return found


_SIZES = (("n_harmful", "harmful"), ("n_near_miss", "near-miss"), ("n_benign", "benign"))


def _count(found: object) -> str:
    count = finite(found)
    return "?" if count is None else f"{count:.0f}"


def _unmeasured(modality: Mapping[str, Any]) -> bool:
    added = mapping(mapping(modality.get("defences")).get("addition"))
    return any(
        Rate.of(added.get(key)).value is None for key in ("harmful_refusal", "benign_refusal", "near_miss_refusal")
    )


def provenance(results: Mapping[str, Any]) -> Markup:
    """Everything needed to make the page again, as small tables."""
    direction, prompts = mapping(results.get("direction")), mapping(results.get("prompts"))
    versions = sorted((str(k), v) for k, v in mapping(results.get("versions")).items())
    timings = [(k, f"{significant(finite(v))} s") for k, v in mapping(results.get("timings")).items()]
    cost = [
        (str(k).replace("_", " "), f"{finite(v):,.0f}" if finite(v) is not None else v)
        for k, v in mapping(results.get("cost")).items()
    ]
    run: list[tuple[object, object]] = [
        ("model", results.get("model")),
        ("weights", results.get("weight_hash")),
        ("chat template", results.get("template_hash")),
        ("prompts", prompts.get("hash")),
        ("seed", results.get("seed")),
        ("limit", results.get("limit") or "none"),
        ("made", results.get("created")),
        ("schema version", results.get("schema_version")),
    ]
    split: list[tuple[object, object]] = []
    for part in ("train", "val", "test"):
        sizes = mapping(prompts.get(part))
        if sizes:
            split.append(
                (
                    part,
                    ", ".join(
                        f"{_count(sizes.get(r))} {r.replace('_', '-')}" for r in ("harmful", "near_miss", "benign")
                    ),
                )
            )
    keys = (
        "layer",
        "n_layers",
        "position",
        "site",
        "method",
        "objective",
        "selection",
        "strength",
        "norm",
        "d_model",
    )
    chosen = [(key.replace("_", " "), _plain(direction.get(key))) for key in keys if direction.get(key) is not None]
    tokens = sequence(direction.get("refusal_tokens"))
    if tokens:
        chosen.append(("refusal tokens", ", ".join(f"\u201c{t}\u201d" for t in tokens)))
    tables: list[tuple[str, Any]] = [
        ("Run", run),
        ("Direction", chosen),
        ("Text prompts of the direction", split),
        ("Versions", versions),
        ("Time", timings),
        ("Cost", cost),
    ]
    return tag(
        "div", [tag("div", pairs_table(rows, caption=name)) for name, rows in tables if rows], class_="provenance"
    )


def _plain(value: object) -> str:
    found = finite(value)
    return significant(found) if found is not None else str(value).replace("_", " ")
