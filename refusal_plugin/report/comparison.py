"""One comparison of defences as one page: what held, what failed, the Pareto figure, the table at the same price.

Drawn from compare.json; nothing is computed here. Self-contained like the study's page; the words stand in
`templates/comparison.html`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import StudyError
from .caveats import fact_tables, run_facts
from .figures.pareto import matched_table, pareto_figure
from .markup import Markup
from .numbers_in_words import decimal, percent, points, scalar
from .page import document, save, theme
from .palette import modality_order
from .records import Rate, at, finite, mapping, records, sequence
from .table import html_table, scroll

SCHEMA_VERSION = 1
VERDICTS = ("held", "failed", "underpowered")
ANSWERS = ("refusal", "late_refusal", "hedge", "off_task", "degenerate")
"""Labels of answers to harmful requests that are shown."""


def render_comparison(results: Mapping[str, Any]) -> str:
    """The page of one comparison.

    Args:
        results: compare.json, schema version 1.

    Raises:
        StudyError: another schema version, or no comparison.
    """
    if results.get("schema_version") != SCHEMA_VERSION or results.get("kind") != "comparison":
        found = f"schema version {results.get('schema_version')!r}, kind {results.get('kind')!r}"
        raise StudyError("draw the comparison", found, "give the content of a compare.json")
    verdicts = records(results, "verdicts")
    counts = {v: sum(len(sequence(line, v)) for line in verdicts) for v in VERDICTS} if verdicts else {}
    return document(
        "comparison.html",
        f"Which defence refuses more harm at the same price? {results.get('model', '')}".strip(),
        [theme()],
        model=results.get("model", "unnamed model"),
        seeds=len(sequence(results, "seeds")),
        counts=counts,
        failed=[(line.get("words"), sequence(line, "failed")) for line in verdicts if sequence(line, "failed")],
        warnings=sequence(results, "warnings"),
        pareto=pareto_figure(results),
        matched=[(name, matched_table(results, name)) for name in modality_order(mapping(results, "undefended"))],
        between=_between(results),
        answers=_answers(results),
        oracle=_oracle(results),
        price_tokens=finite(results, "price_tokens") or 1,
        same_strength=_same_strength(results),
        claims=_claims(results),
        control=_control(results),
        control_model=at(results, "control", "model"),
        provenance=_provenance(results),
    )


def write_comparison(results: Mapping[str, Any], path: str | Path) -> Path:
    """Render and write the page; a reader sees the old page or the new one, never half of one."""
    return save(render_comparison(results), path)


def _table(label: str, heads: Sequence[str], rows: Sequence[Sequence[object]], caption: str) -> Markup | None:
    """A wide table under its label; None without rows."""
    return scroll(html_table(heads, rows, caption=caption), label) if rows else None


def _claims(results: Mapping[str, Any]) -> Markup | None:
    rows: list[list[object]] = []
    for claim in records(results, "claims"):
        p, verdict = finite(claim, "p_holm"), str(claim.get("verdict"))
        sure = "" if claim.get("certain") or verdict != "held" else ", not certain"
        wanted = f"{claim.get('sense')} {decimal(100 * (finite(claim, 'threshold') or 0.0), 0)}"
        measured = points(Rate.of(claim, "estimate"))
        tested = ["" if p is None else decimal(p, 4), verdict + sure, claim.get("why") or ""]
        rows.append([claim.get("words"), claim.get("modality"), measured, wanted, *tested])
    heads = ["claim", "modality", "measured", "claimed (points)", "p (Holm)", "verdict", "why"]
    caption = (
        "Every claim with its estimate and 95% interval. Held but not certain: the interval crosses the threshold."
    )
    return _table("Claims", heads, rows, caption)


def _between(results: Mapping[str, Any]) -> Markup | None:
    """One method against another on the same items."""
    rows = [
        [
            f"{r.get('first')} minus {r.get('second')}",
            r.get("modality"),
            *(points(Rate.of(r, key)) for key in ("harmful", "over_refusal", "utility")),
            decimal(finite(r, "h")),
            *(decimal(finite(r, key), 4) for key in ("p_permutation", "p_holm")),
            f"{r.get('only_first')} / {r.get('only_second')}",
            decimal(finite(r, "p_mcnemar"), 4),
        ]
        for r in records(results, "between")
    ]
    heads = [
        "",
        "modality",
        "harmful refused",
        "harmless refused",
        "harmless answered exactly",
        "Cohen's h",
        "p (permutation)",
        "p (Holm)",
        "only one refuses",
        "p (McNemar)",
    ]
    caption = (
        "Paired differences at the same price, The permutation test swaps whole pair "
        "groups of all fits, Holm's adjustment is over all rows; McNemar's counts single items of the first fit. "
    )
    rows.sort(key=lambda row: str(row[1]))
    return _table("One method against another", heads, rows, caption + "Cohen's h: .2 is small, .5 medium, .8 large.")


def _oracle(results: Mapping[str, Any]) -> Markup | None:
    """Gated methods with the true label as their gate."""
    rows = [
        [
            r.get("defence"),
            r.get("modality"),
            percent(Rate.of(r, "harmful_refusal").value),
            *(points(Rate.of(r, key)) for key in ("gain", "gate_loss")),
            decimal(finite(r, "p_holm"), 4),
            r.get("fails"),
        ]
        for r in records(results, "oracle")
    ]
    heads = ["", "modality", "harmful refused", "gain", "lost by its own gate", "p (Holm)", "what fails"]
    caption = (
        "The same edit at the same strength on harmful items alone: what it would gain if its gate knew the label."
    )
    return _table("The true label as gate", heads, rows, caption)


def _answers(results: Mapping[str, Any]) -> Markup | None:
    """What whole answers are, without a defence and at the price."""
    plain = [{"defence": "no defence", "modality": m, **r} for m, r in mapping(results, "undefended").items()]
    rows = []
    for found in (*plain, *records(results, "matched")):
        if not mapping(found, "labels"):
            continue
        harm = [percent(finite(found, "labels", "harmful", key)) for key in (*ANSWERS, "late_share")]
        rest = [percent(finite(found, "labels", "harmless", key)) for key in ("compliance", "hedge", "degenerate")]
        rows.append([found.get("modality"), found.get("defence"), *harm, *rest])
    rows.sort(key=lambda row: str(row[0]))
    heads = ["modality", "", "refused early", "late", "hedged", "off task", "degenerate", "of refusals late"]
    caption = "Whole answers: first to harmful requests, then to harmless ones. Late: behind the first sentence."
    return _table("Whole answers", [*heads, "harmless answered", "hedged", "degenerate"], rows, caption)


def _same_strength(results: Mapping[str, Any]) -> Markup | None:
    """Ablations and controls at the strength of the method they belong to."""
    rows = [
        [
            f"{r.get('defence')} at the strength of {r.get('of')}",
            r.get("modality"),
            percent(Rate.of(r, "harmful_refusal").value),
            *(points(Rate.of(r, key)) for key in ("gain", "over_refusal", "utility_change")),
        ]
        for r in records(results, "same_strength")
    ]
    heads = ["", "modality", "harmful refused", "harmful, change", "harmless refused, change", "utility, change"]
    caption = "An ablation leaves one step out and changes nothing else; a control has the norm of what it controls. "
    return _table("Same strength", heads, rows, caption + "Changes are against no defence.")


def _control(results: Mapping[str, Any]) -> Markup | None:
    rows = [
        [f"{r.get('defence')}, {r.get('modality')}", *(points(Rate.of(r, key)) for key in ("gain", "over_refusal"))]
        for r in records(results, "control", "matched")
    ]
    caption = "On a model whose refusal was never trained to reach media nothing should be gained there."
    return _table("Control model", ["", "harmful refused, change", "harmless refused, change"], rows, caption)


def _provenance(results: Mapping[str, Any]) -> Markup:
    seeds, price = ", ".join(map(str, sequence(results, "seeds"))), f"{decimal(finite(results, 'target_kl'))} nats"
    power = {name: _power(found) for name, found in mapping(results, "undefended").items()}
    tables: dict[str, Mapping[str, object]] = {
        "Run": run_facts(results) | {"fit seeds": seeds, "price": price, "made": results.get("created")},
        "What the test sets can show": power,
        "Versions": dict(sorted(mapping(results, "versions").items())),
    }
    return fact_tables(tables)


def _power(found: object) -> str:
    least = finite(found, "power", "detectable")
    return (
        f"attack success {percent(finite(found, 'power', 'attack_success'))}, "
        f"{at(found, 'power', 'pairs')} pair groups, "
        f"smallest rise found with 80% power {'none' if least is None else percent(least)}, "
        f"harmful refused {scalar(Rate.of(found, 'harmful_refusal'))}"
    )
