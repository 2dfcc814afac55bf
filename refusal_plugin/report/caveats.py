"""What the study does not show, and where its numbers come from; the words stand in `templates/caveats.html`."""

from collections.abc import Mapping
from typing import Any

from .filling import fill
from .markup import Markup
from .numbers_in_words import significant, whole
from .palette import modality_order
from .records import Rate, finite, mapping, records, sequence
from .table import pairs_table

SIZES = (("n_harmful", "harmful"), ("n_near_miss", "near-miss"), ("n_benign", "benign"))
RATES = ("harmful_refusal", "benign_refusal", "near_miss_refusal")
KEYS = (
    "layer", "n_layers", "position", "site", "method", "objective", "selection", "strength", "norm", "d_model",
)  # fmt: skip


def caveats(results: Mapping[str, Any]) -> dict[str, object]:
    """The facts that decide which limits hold for this study."""
    modalities = mapping(results, "modalities")
    names = modality_order(modalities)
    sizes = {n: ", ".join(f"{whole(finite(modalities[n], key))} {word}" for key, word in SIZES) for n in names}
    return {
        "synthetic": str(results.get("model", "")).startswith("organism"),
        "sizes": [f"{name}: {said}" for name, said in sizes.items()],
        "limit": finite(results, "limit"),
        "unmeasured": [n for n in names if any(_added(modalities[n], key).value is None for key in RATES)],
        "one_modality": len(names) == 1,
    }


def _added(modality: object, key: str) -> Rate:
    return Rate.of(modality, "defences", "addition", key)


def provenance(results: Mapping[str, Any]) -> Markup:
    """Everything needed to make the page again, as small tables."""
    direction, prompts = mapping(results, "direction"), mapping(results, "prompts")
    split = {}
    for part in ("train", "val", "test"):
        sizes = mapping(prompts, part)
        if sizes:
            said = (f"{whole(finite(sizes, r))} {r.replace('_', '-')}" for r in ("harmful", "near_miss", "benign"))
            split[part] = ", ".join(said)
    chosen = {key.replace("_", " "): _plain(direction[key]) for key in KEYS if direction.get(key) is not None}
    tokens = sequence(direction, "refusal_tokens")
    if tokens:
        chosen["refusal tokens"] = ", ".join(f"\u201c{t}\u201d" for t in tokens)
    cost = mapping(results, "cost")
    passes = {"whole": cost.get("equivalents"), **mapping(cost, "stages")}
    tables: dict[str, Mapping[str, object]] = {
        "Run": run_facts(results, seed=results.get("seed"))
        | {"made": results.get("created"), "schema version": results.get("schema_version")},
        "Direction": chosen,
        "Text prompts of the direction": split,
        "Versions": dict(sorted(mapping(results, "versions").items())),
        "Time": {k: f"{significant(finite(v))} s" for k, v in mapping(results, "timings").items()},
        "Bare passes over the prompts": {k: significant(n) for k, v in passes.items() if (n := finite(v)) is not None},
    }
    return fact_tables(tables)


def run_facts(results: Mapping[str, Any], **more: object) -> dict[str, object]:
    """What a run was made with."""
    prompts = mapping(results, "prompts")
    contract = mapping(results, "contract")
    data = "; ".join(f"{r.get('name')} ({r.get('revision')}), {r.get('licence')}" for r in records(prompts, "data"))
    return {
        "model": results.get("model"),
        "weights": results.get("weight_hash"),
        "chat template": results.get("template_hash"),
        "prompts": prompts.get("hash"),
        **{key: contract[key] for key in ("judge", "max_new_tokens", "decoding", "system") if contract.get(key)},
        **({"data": data} if data else {}),
        **more,
        "limit": results.get("limit") or prompts.get("limit") or "none",
    }


def fact_tables(tables: Mapping[str, Mapping[str, object]]) -> Markup:
    """Small tables side by side; empty ones are left out."""
    made = [pairs_table(rows, caption=name) for name, rows in tables.items() if rows]
    return fill("provenance.html", tables=made)


def _plain(value: object) -> str:
    found = finite(value)
    return significant(found) if found is not None else str(value).replace("_", " ")
