"""The study's defences at the same price per modality: a table, since two methods make no curve."""

from collections.abc import Mapping
from typing import Any

from .filling import fill
from .markup import Markup
from .numbers_in_words import decimal, points, short_share
from .palette import modality_order
from .records import Rate, at, finite, mapping
from .table import html_table

NAMES = {"addition": "addition (one strength for all)", "sarsteer": "SARSteer", "mars": "MARS", "random": "random"}
HEADS = ("defence", "harmful refused", "change", "harmless refused, change", "utility", "KL", "edit / residual")


def defences_section(results: Mapping[str, Any]) -> Markup | None:
    """The defence table of a study; None where neither SARSteer nor MARS was run."""
    modalities = mapping(results, "modalities")
    names = [m for m in modality_order(modalities) if {"sarsteer", "mars"} & set(mapping(modalities[m], "defences"))]
    return fill("defences.html", tables=[(m, _table(m, modalities[m])) for m in names]) if names else None


def _table(modality: str, found: object) -> Markup:
    refused, useful = (short_share(Rate.of(found, "defences", "none", k)) for k in ("harmful_refusal", "utility"))
    rows: list[list[object]] = [["no defence", refused, "", "", useful, "", ""]]
    for key, name in NAMES.items():
        arm = mapping(found, "defences", key)
        if not arm:
            continue
        refused, useful = (short_share(Rate.of(arm, k)) for k in ("harmful_refusal", "utility"))
        changes = [points(Rate.of(arm, k)) for k in ("gain", "over_refusal")]
        kl, norm = finite(arm, "kl"), finite(arm, "edit_norm")
        price = ["" if kl is None else decimal(kl, 3), "" if norm is None else decimal(norm, 2)]
        rows.append([name, refused, *changes, useful, *price])
    harmless = (at(found, "n_benign") or 0) + (at(found, "n_near_miss") or 0)
    caption = f"{modality}: {at(found, 'n_harmful')} harmful and {harmless} harmless test items."
    return html_table(HEADS, rows, caption=caption)
