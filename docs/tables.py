"""The tables of README and docs, each a function of the JSON in docs/data. See `measured`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import partial

import measured
from measured import Data, markdown, percent, plain, points, read, table

__all__ = ["measured"]


@table("study")
def study() -> str:
    """One row per modality of the study on the embedded default model."""
    found = read("study-organism")
    if not found:
        return markdown([], [])
    layer = found["direction"]["layer"]
    rows = []
    for name, m in found["modalities"].items():
        arms = m["defences"]
        before, after, random = arms["none"], arms["addition"], arms["random"]

        def change(key: str, before: Data = before, after: Data = after) -> str:
            return f"{100 * before[key]['value']:.0f} → {percent(after[key])}"

        rows.append(
            [
                name,
                percent(m["read_back"]),
                plain(next(x for x in m["auroc_by_layer"] if x["layer"] == layer)),
                percent(before["harmful_refusal"]),
                percent(after["harmful_refusal"]),
                percent(random["harmful_refusal"]),
                change("benign_refusal"),
                change("near_miss_refusal"),
                change("utility"),
            ]
        )
    head = ["", "read back", f"AUROC, layer {layer}", "harmful refused", "+ text direction", "+ random direction"]
    head += ["benign refused", "near miss refused", "answers right"]
    counts = (
        f"{name} {m['n_harmful']} / {m['n_benign']} / {m['n_near_miss']}" for name, m in found["modalities"].items()
    )
    return (
        markdown(head, rows)
        + f"\n\n*Harmful / benign / near-miss test items: {', '.join(counts)} (media in two renderings).*"
    )


@table("study/short")
def study_short() -> str:
    """The four rows of the README: a gain, its control and its price."""
    return _short("study-organism")


@table("spoken/study")
def spoken_study() -> str:
    """The same of the real model."""
    return _short("study-spoken")


def _short(study: str) -> str:
    rows = []
    for name, m in read(study).get("modalities", {}).items():
        before, after, random = (m["defences"][arm] for arm in ("none", "addition", "random"))
        harmless = [
            "–" if (was := before[key]["value"]) is None else f"{100 * was:.0f}→{percent(after[key])}"
            for key in ("near_miss_refusal", "utility")
        ]
        refused = [percent(arm["harmful_refusal"]) for arm in (before, after, random)]
        rows.append([f"{name}, n = {m['n_harmful']}", percent(m["read_back"], interval=False), *refused, *harmless])
    head = ["", "read", "harm refused", "+ direction", "+ random", "near miss", "answers right"]
    return markdown(head, rows)


@table("study/regimes")
def regimes() -> str:
    """The embedded models side by side."""

    def span(values: Iterable[float], form: str) -> str:
        found = sorted(values)
        low, high = form.format(found[0]), form.format(found[-1])
        return low if low == high else f"{low.removesuffix(' %')} to {high}"

    rows = []
    for model in ("organism", "organism-hard", "organism-control", "organism-wary"):
        found = read(f"study-{model}")
        if not found:
            continue
        media = {k: v for k, v in found["modalities"].items() if k != "text"}.values()
        rows.append(
            [
                f"`{model}`",
                span((m["defences"]["none"]["harmful_refusal"]["value"] * 100 for m in media), "{:.0f} %"),
                span((m["defences"]["addition"]["harmful_refusal"]["value"] * 100 for m in media), "{:.0f} %"),
                span((max(x["value"] for x in m["auroc_by_layer"]) for m in media), "{:.2f}"),
                f"*{found['regime']['name']}*",
            ]
        )
    head = ["", "media refused", "with the text direction", "AUROC in media, best layer", "regime"]
    return markdown(head, rows)


@table("study/causal")
def causal() -> str:
    """The causal tests in text."""
    words = {
        "text": "coordinate along the direction set to its benign mean",
        "random": "the same along a random direction",
        "projected_out": "direction projected out of every layer and position",
    }
    found = read("study-organism").get("ablation", {})
    rows = [[words[k], percent(v["harmful_refusal"]), percent(v["utility"])] for k, v in found.items()]
    return markdown(["in text", "harmful refused", "answers right"], rows)


@table("remote")
def remote() -> str:
    """The same call here and on an NDIF server, sandboxed and trusted (written by `make test-remote`)."""
    found: dict[str, dict[str, Data]] = {}
    for row in read("remote").get("rows", []):
        found.setdefault(row["what"], {})[row["mode"]] = row
    rows = []
    for what, modes in found.items():
        cells = [what, f"{modes['local']['seconds']:.1f} s"]
        for mode in ("sandboxed", "trusted"):
            one = modes.get(mode)
            cells += (
                ["–", "–"]
                if one is None
                else [
                    f"{one['difference']:.1g}",
                    f"{one['requests']} × {one['bytes_up'] / 1000:.0f} kB up, {one['bytes_down'] / 1000:.0f} kB down, "
                    f"{one['seconds']:.0f} s",
                ]
            )
        rows.append(cells)
    head = ["", "here", "sandboxed: max difference", "requests", "trusted: max difference", "requests"]
    return markdown(head, rows)


@table("heads/agreement")
def heads_agreement() -> str:
    """Whether the same heads write the direction in two modalities."""
    rows = [
        [
            f"{row['one']} and {row['other']}",
            f"{row['rho']:.2f} (p = {row['rho_p']:.3f})",
            f"{100 * row['overlap']:.0f} % of {row['k']}",
            f"{100 * row['overlap_null']:.0f} % (p = {row['overlap_p']:.3f})",
        ]
        for row in read("study-organism").get("heads", {}).get("overlap", [])
    ]
    return markdown(["", "rank correlation of all heads", "strongest heads shared", "by chance"], rows)


@table("heads/top")
def heads_top() -> str:
    """The strongest heads of every modality: direct and total effects are different columns."""
    found = read("study-organism").get("heads", {})
    rows = [
        [
            f"{row['modality']}, layer {row['layer']} head {row['head']}",
            percent({key: row[name] / found["norm"] for key, name in _CONTRAST}),
            plain(row["total"]),
        ]
        for row in found.get("top", [])
    ]
    return markdown(["", "direct, of the distance in text", "total effect of removing it, nats"], rows)


_CONTRAST = (("value", "contrast"), ("low", "low"), ("high", "high"))


@table("transfer/matrix")
def transfer_matrix() -> str:
    """Text's direction in every modality, from the study."""
    head = ["text's direction in", "cosine", "AUROC", "against near misses"]
    head += ["restored", "induced", "ablated", "restored, random"]
    rows = [
        [
            target,
            *(plain(found[key]) for key in ("cosine", "auroc", "auroc_near_miss")),
            *(points(found[key]) for key in ("restored", "induced", "ablated")),
            points(found["random"]["restored"]),
        ]
        for target, found in read("study-organism").get("transfer", {}).get("text", {}).items()
    ]
    return markdown(head, rows)


@table("transfer/gap")
def transfer_gap() -> str:
    """The modality gap, from the study."""
    head = ["", "shift", "along the direction", "one translation", "CKA", "harmful, re-centred"]
    head += ["refusal gap", "gated", "dropped"]
    rows = []
    for modality, found in read("study-organism").get("modality_gap", {}).items():
        gap = found["refusal_gap"]
        row = [modality, plain(found["shift"]), percent(found["share_along"]), percent(found["translation"])]
        row += [plain(found["cka"]), plain(found["harmful_after"]), points(gap["ungated"]), points(gap["gated"])]
        rows.append([*row, "–" if gap["dropped"] is None else str(gap["dropped"])])
    return markdown(head, rows)


@table("transfer/split")
def transfer_split() -> str:
    """How much of text's direction a medium keeps, and how the rest is lost, from the studies."""
    head = ["", "", "length of its own direction", "cosine", "kept along text's", "the same, labels shuffled"]
    head += ["lost in magnitude", "lost by turning", "magnitude's share of the loss"]
    keys = ("kept", "kept_shuffled", "lost_magnitude", "lost_turn", "magnitude_share")
    rows = [
        [f"`{model}`", modality]
        + [plain(found[key]) for key in ("norm_ratio", "cosine")]
        + [percent(found[key]) for key in keys]
        for model in ("organism", "organism-wary", "organism-hard", "organism-control")
        for modality, found in read(f"study-{model}").get("modality_gap", {}).items()
        if modality != found["reference"] and "norm_ratio" in found
    ]
    return markdown(head, rows)


@table("transfer/safe_space")
def transfer_safe_space() -> str:
    """Share of text's direction inside the safe spaces, and what taking it out does, from the study."""
    head = ["", "direction inside", "", "length left", "harm refused", "over-refusal", "price, nats"]
    rows = []
    for modality, found in ((read("study-organism").get("safe_space") or {}).get("modalities") or {}).items():
        for arm in found["sweep"]:
            if arm["k"] not in (0, found["k"]) or arm["strength"] not in (0.0, 1.0):
                continue
            what = "random directions out" if arm["kind"] == "random" else f"safe space out, k = {arm['k']}"
            inside = "" if arm["k"] else percent(found["share_inside"][found["k"] - 1])
            effect = [plain(arm["left"]), percent(arm["refusal"]), points(arm["over_refusal"]), plain(arm["kl"], 3)]
            rows.append([modality, inside, what if arm["k"] else "plain", *effect])
    return markdown(head, rows)


def _names(modality: str, source: str = "compare") -> list[Data]:
    """Matched rows of one modality, strongest balanced refusal rate first."""
    rows = [row for row in read(source).get("matched", []) if row["modality"] == modality]
    return sorted(rows, key=lambda row: -(row["brr"]["value"] or 0.0))


def _price(row: Data) -> str:
    """What a method costs; "bound": its largest allowed strength costs no more."""
    return plain(row["kl"], 3) + (" (bound)" if row.get("at_bound") else "")


def _sizes(source: str = "compare") -> str:
    """A line under a table: of how many items and fits it is made."""
    found = read(source)
    rates = next(iter(found.get("undefended", {}).values()), None)
    if rates is None:
        return ""
    n = ", ".join(f"{rates[f'{role}_refusal']['n']} {words}" for role, words in _ROLES)
    return f"\n\n*Per medium {n} items; {len(found['seeds'])} fits; 95 % intervals over pairs.*"


_ROLES = (("harmful", "harmful"), ("benign", "benign"), ("near_miss", "near-miss"))


@table("compare/matched")
def compare_matched() -> str:
    """Every method at the same price in every medium."""
    head = ["", "method", "sees", "harmful refused", "gain", "benign", "near miss", "utility", "BRR", "price, nats"]
    methods = read("compare").get("methods", {})
    rows = []
    for modality in ("image", "video", "audio"):
        plain_rates = read("compare").get("undefended", {}).get(modality)
        if plain_rates is None:
            continue
        shown = ("benign_refusal", "near_miss_refusal", "utility", "brr")
        rest = [percent(plain_rates[k]) for k in shown]
        refused = percent(plain_rates["harmful_refusal"])
        rows.append([f"**{modality}**", "*no defence*", "", refused, "", *rest, ""])
        for row in _names(modality):
            rest = [percent(row[k]) for k in shown]
            sees = methods.get(row["defence"], {}).get("sees", "")
            rows.append(
                ["", row["defence"], sees, percent(row["harmful_refusal"]), points(row["gain"]), *rest, _price(row)]
            )
    return markdown(head, rows) + _sizes()


def _central(source: str, names: tuple[str, ...]) -> str:
    head = ["", "method", "harmful refused", "gain over no defence", "near miss", "utility", "price, nats"]
    rows = []
    for modality in ("image", "video", "audio"):
        found = {row["defence"]: row for row in _names(modality, source)}
        for name in names:
            if name in found:
                row = found[name]
                rest = [percent(row[k]) for k in ("near_miss_refusal", "utility")]
                rows.append([modality, name, percent(row["harmful_refusal"]), points(row["gain"]), *rest, _price(row)])
    return markdown(head, rows) + _sizes(source)


@table("compare/central")
def compare_central() -> str:
    """The two methods of the project, plain addition and the random control, at the same price."""
    return _central("compare", ("addition", "sarsteer", "mars", "random"))


@table("compare/price")
def compare_price() -> str:
    """At which price the tables of a page were made, and which share of it the first token pays."""
    found = read("compare")
    tokens = found.get("price_tokens", 1)
    what = "of the first answer token alone" if tokens == 1 else f"per answer, over its first {tokens} tokens"
    looks = sorted(n for r in found.get("matched", []) for n in r.get("looks", []))
    taken = f" A price took {looks[len(looks) // 2]} looks in the median of {len(looks)}." if looks else ""
    said = f"*These tables were made at {plain(found.get('target_kl'))} nats {what}.{taken}*"
    rows = [
        [r["defence"], r["modality"], plain(r["kl"], 3), plain(r["kl_by_token"][0], 3)]
        for name in ("addition", "sarsteer", "mars")
        for r in found.get("matched", [])
        if r["defence"] == name and r.get("kl_by_token")
    ]
    return said + ("\n\n" + markdown(["method", "", "price, nats", "of its first token"], rows) if rows else "")


@table("compare/answers")
def compare_answers() -> str:
    """What whole answers of the central methods are."""
    head = ["", "method", "harm refused early", "late", "hedged", "off task", "degenerate", "harmless answered"]
    rows = []
    for m, plain_rates in read("compare").get("undefended", {}).items():
        rates = {"no defence": plain_rates, **{row["defence"]: row for row in _names(m)}}
        for name in ("no defence", "addition", "sarsteer", "mars", "random"):
            if name in rates and "labels" in rates[name]:
                harm, rest = (rates[name]["labels"][role] for role in ("harmful", "harmless"))
                kinds = ("refusal", "late_refusal", "hedge", "off_task", "degenerate")
                cells = [f"{100 * share:.0f} %" for share in (*(harm[k] for k in kinds), rest["compliance"])]
                rows.append([m, name, *cells])
    return markdown(head, rows)


@table("compare/oracle")
def compare_oracle() -> str:
    """Gated methods with the true label as their gate."""
    head = ["method", "", "gain with the true label", "lost by its own gate", "p (Holm)", "what fails"]
    rows = [
        [r["defence"], r["modality"], points(r["gain"]), points(r["gate_loss"]), plain(r.get("p_holm"), 3), r["fails"]]
        for r in read("compare").get("oracle", [])
    ]
    return markdown(head, rows)


@table("compare/effects")
def compare_effects() -> str:
    """Every method against plain addition."""
    head = ["method", "", "harm refused", "harmless refused", "answers right", "Cohen's h", "p (Holm)"]
    rows = []
    for r in read("compare").get("between", []):
        if r["second"] == "addition" and "h" in r and r["modality"] != "text":
            shown = [points(r[key]) for key in ("harmful", "over_refusal", "utility")]
            rows.append([r["first"], r["modality"], *shown, plain(r["h"]), plain(r.get("p_holm"), 3)])
    return markdown(head, rows)


@table("compare/wary")
def compare_wary() -> str:
    """The same on the model whose benign media lie near refusal, with what the papers add left out in turn."""
    return _central("compare-organism-wary", ("addition", "sarsteer", "mars", "mars_selected", *ABLATIONS, "random"))


ALONE = ("ace", "cast", "adasteer", "alphasteer", "ras", "shiftdc", "false_refusal", "prompt")
METHODS: dict[str, tuple[str, ...]] = {
    "addition": ("addition", "addition_all", "random", "shuffled"),
    "sarsteer": ("sarsteer", "sarsteer_v1", "sarsteer_v2"),
    "mars": ("mars", "mars_no_recentring", "mars_no_gate", "mars_selected"),
    "omnisteer": ("omnisteer", "omnisteer_no_gate", "omnisteer_text"),
    "mdsteer": ("mdsteer_h2s", "mdsteer_c2r"),
    **{
        name: (name,) for name in ("ace", "cast", "adasteer", "alphasteer", "ras", "shiftdc", "false_refusal", "prompt")
    },
}
"""Page of docs/methods to the rows of the comparison that it shows."""


def _method(names: tuple[str, ...]) -> str:
    """What a method gained and cost at the same price, on every model on which it was compared."""
    head = ["model", "method", "", "harmful refused", "gain", "benign", "near miss", "answers right", "price, nats"]
    rows = [
        [read(source)["model"], row["defence"], row["modality"], percent(row["harmful_refusal"]), points(row["gain"])]
        + [percent(row[key]) for key in ("benign_refusal", "near_miss_refusal", "utility")]
        + [_price(row)]
        for source in ("compare", "compare-organism-wary")
        for name in names
        for row in read(source).get("matched", [])
        if row["defence"] == name and row["modality"] != "text"
    ]
    if not rows:
        return f"*Not in the published comparison; `refusal-plugin compare {names[0]}` measures it.*"
    return markdown(head, rows)


for _page, _rows in METHODS.items():
    table(f"method/{_page}")(partial(_method, _rows))


@table("compare/claims")
def compare_claims() -> str:
    """Every claim with its estimate and verdict."""
    head = ["claim", "", "estimate, points", "verdict", "whole interval on that side"]
    rows = [
        [c["words"], c["modality"], points(c["estimate"]), f"**{c['verdict']}**", "yes" if c["certain"] else "no"]
        for c in read("compare").get("claims", [])
    ]
    return markdown(head, rows)


@table("bench")
def bench() -> str:
    """Ratios against the bare forward pass and the usual ways (written by `make bench`)."""
    return _ratios(lambda _row: True)


@table("bench/targets")
def bench_targets() -> str:
    """Those that have a target."""
    return _ratios(lambda row: bool(row["target"]))


def _ratios(wanted: Callable[[Data], bool]) -> str:
    path = measured.ROOT / "benchmarks" / "results.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    rows = [
        [r["name"], r["shape"], f"{r['ratio']:.2f} [{r['low']:.2f}, {r['high']:.2f}]", r["target"], _kept(r)]
        for r in found
        if wanted(r)
    ]
    return markdown(["what", "model", "ratio [quartiles]", "target", ""], rows)


def _kept(row: Data) -> str:
    """Whether a ratio keeps its target; nothing where it has none."""
    if not row["target"]:
        return ""
    sign, limit = row["target"].split()
    held = row["ratio"] <= float(limit) if sign == "<=" else row["ratio"] >= float(limit)
    return "kept" if held else "**missed**"


@table("scale/plan")
def scale_plan() -> str:
    """What larger models would take, from counted passes and their shapes."""
    rows = []
    for r in read("scale").get("plan", []):
        hours = f"{r['hours']:.2g} h" if r["hours"] >= 0.1 else f"{3600 * r['hours']:.2g} s"
        sizes = [f"{r[k]:,.1f} GB" for k in ("weights_gb", "working_gb", "result_gb")]
        rows.append(
            [r["model"], r["job"], str(r["devices"]), f"{r['passes']:,.4g}", f"{r['tokens']:,.3g}", hours, *sizes]
        )
    return markdown(["model", "job", "devices", "passes", "tokens", "time", "weights", "working", "result"], rows)


def _verdicts(source: str, wanted: Callable[[Data], bool] = lambda claim: True) -> str:
    head = ["claim", "held", "failed", "undecided", "estimates, points"]
    found: dict[str, list[Data]] = {}
    for claim in read(source).get("claims", []):
        if wanted(claim):
            found.setdefault(claim["words"], []).append(claim)
    rows = []
    for words, each in found.items():
        counts = [sum(c["verdict"] == v for c in each) for v in ("held", "failed", "underpowered")]
        values = ", ".join(f"{c['modality']} {points(c['estimate'])}" for c in each)
        rows.append([words, *(str(n) for n in counts), values])
    return markdown(head, rows)


@table("compare/verdicts")
def compare_verdicts() -> str:
    """One line per claim, over the media."""
    return _verdicts("compare")


@table("compare/wary_verdicts")
def compare_wary_verdicts() -> str:
    """What the papers' own steps are worth where benign media lie near refusal."""
    return _verdicts("compare-organism-wary", lambda claim: claim["defence"] in ABLATIONS)


ABLATIONS = (
    "sarsteer_v1",
    "sarsteer_v2",
    *(f"{base}_{step}" for base in ("mars", "mars_selected") for step in ("no_recentring", "no_gate")),
)


FINDINGS = """
- **Harm is seen but not refused.** The media are read correctly ({read} %), and along the direction found in text
  harmful media stand apart from harmless ones (AUROC {auroc} at layer {layer} of 0 to {last}); yet only {refused} % of
  them are refused.
- **Text alone restores it.** Adding the text direction refuses {gain} points more harmful media and {cost} points more
  harmless ones; a random direction of the same length changes {random} points.
- **The direction is causal in text.** With the coordinate along it set to its benign mean at the last prompt token,
  refusal of harmful text falls from {whole} to {without} and harmless answers stay right ({right}); a random direction
  treated likewise leaves {control}. Projecting the direction *out* (the usual ablation) leaves {projected}: the stream
  has an offset along it, and zero is not neutral.
- **The strength was priced, not tuned.** It is the largest that costs {price} nats of KL on *harmless* validation
  prompts of every modality. No harmful medium is used before the test split.
"""


@table("study/findings")
def findings() -> str:
    """What the study of the default model found, in sentences with its numbers."""
    found = read("study-organism")
    if not found:
        return markdown([], [])
    direction, causal_test = found["direction"], found["ablation"]
    layer = direction["layer"]
    media = [m for name, m in found["modalities"].items() if name != "text"]

    def span(values: Iterable[float], form: str = "{:.0f}", scale: float = 100) -> str:
        kept = sorted(scale * value for value in values)
        low, high = form.format(kept[0]), form.format(kept[-1])
        return low if low == high else f"{low} to {high}"

    def arm(name: str, key: str, form: str = "{:.0f}") -> str:
        return span((m["defences"][name][key]["value"] for m in media), form)

    text = found["modalities"]["text"]["defences"]["none"]
    return FINDINGS.strip().format(
        read=span(m["read_back"]["value"] for m in media),
        auroc=span((x["value"] for m in media for x in m["auroc_by_layer"] if x["layer"] == layer), "{:.2f}", 1),
        layer=layer,
        last=direction["n_layers"] - 1,
        refused=arm("none", "harmful_refusal"),
        gain=arm("addition", "gain"),
        cost=arm("addition", "over_refusal"),
        random=arm("random", "gain", "{:.0f}"),
        whole=percent(text["harmful_refusal"], interval=False),
        without=percent(causal_test["text"]["harmful_refusal"]),
        right=percent(causal_test["text"]["utility"], interval=False),
        control=percent(causal_test["random"]["harmful_refusal"], interval=False),
        projected=percent(causal_test["projected_out"]["harmful_refusal"]),
        price=direction["calibration"]["target_kl"],
    )


_TRIED = ("residuals", "padding", "steering", "heads", "selection", "bfloat16", "remote")


@table("models/summary")
def models_summary() -> str:
    """How many families pass everything, by kind."""
    found = read("models").get("summary", {})
    words = ("all", "one refusal", "several refusals", "fails")
    rows = [[kind, str(counts["n"]), *(str(counts.get(word, 0)) for word in words)] for kind, counts in found.items()]
    head = ["families", "n", "all holds", "one thing is refused", "several are refused", "something fails"]
    return markdown(head, rows)


@table("models/text")
def models_text() -> str:
    """One row per text family."""
    rows = [row for row in read("models").get("rows", []) if not row["media"]]
    cells = [[_class(row), *(_mark(row, check) for check in _TRIED), _whatever(row)] for row in rows]
    return markdown(["family", *_TRIED, "what does not work"], cells)


@table("models/media")
def models_media() -> str:
    """One row per family with media."""
    rows = [row for row in read("models").get("rows", []) if row["media"]]
    cells = [
        [
            _class(row),
            ", ".join(row["media"]),
            _plainly(row),
            *(_mark(row, check) for check in _TRIED),
            _whatever(row),
        ]
        for row in rows
    ]
    return markdown(["family", "media", "by default", *_TRIED, "what does not work"], cells)


def _plainly(row: Data) -> str:
    """What loads without torchvision; a dash for text alone."""
    found = row.get("without_torchvision")
    return "untried" if found is None else ", ".join(medium for medium in found if medium != "text") or "–"


def _class(row: Data) -> str:
    name = f"`{row['class'] or row['family']}`"
    return f"{name}<br>{row['hub']}" if row["hub"] else name


def _mark(row: Data, check: str) -> str:
    """The worst of a check over text and media."""
    said = [text for name, text in row["checks"].items() if name.split(".")[0] == check]
    if not said:
        return "–"
    return "✗" if any(s.startswith("fails") for s in said) else "·" if any(s != "ok" for s in said) else "✓"


def _whatever(row: Data) -> str:
    """What is refused or fails, every line once."""
    lines = dict.fromkeys(text.split(": ", 1)[1] for text in row["checks"].values() if text != "ok" and ": " in text)
    for medium, why in row.get("left_out", {}).items():
        lines[f"{medium} not tried: {why}"] = None
    return "<br>".join(line.replace("|", "&#124;").replace("<", "&lt;") for line in lines) or ""


@table("judge/first_sight")
def judge_first_sight() -> str:
    """Precision and recall of refusal on every round of answers, before the grammars learned from it."""
    return _judged("at first sight")


@table("judge/now")
def judge_now() -> str:
    """The same on all rounds as the grammars stand: a floor that tests hold, no estimate."""
    return _judged("as they stand")


def _judged(kept: str) -> str:
    rows = []
    for part, groups in read("judge").get(kept, {}).items():
        for name, one in groups.items():
            figures = [_share(one.get(key, {})) for key in ("precision", "recall", "wordings", "right")]
            rows.append([part, name, str(one["n"]), *figures])
    head = ["precision of refusal", "recall of refusal", "recall of wordings", "same label"]
    return markdown(["round", "language", "answers", *head], rows)


def _share(found: Data) -> str:
    """`98 % [90, 100], n = 40`, or a dash."""
    return f"{percent(found)}, n = {found['n']}" if found.get("n") else "–"


@table("judge/confusion")
def judge_confusion() -> str:
    """Labels by hand against labels found, in the last round at first sight."""
    rounds = list(read("judge").get("at first sight", {}).items())
    rows = []
    for name, one in rounds[-1][1].items() if rounds else ():
        rows += [[name, row["true"], row["found"], str(row["n"])] for row in one["table"]]
    return markdown(["language", "by hand", "found", "answers"], rows)


@table("spoken/curve")
def spoken_curve() -> str:
    """The real model: what refusal and the coordinate along the text direction become as reading improves."""
    found = read("spoken")
    rows = [[row["checkpoint"], plain(row["recall"]), *_heard(row)] for row in found.get("checkpoints", ())]
    if rows:
        rows.insert(0, ["text", "–", *_heard(found["text"])])
    head = [
        "",
        "words read back",
        "harmful refused",
        "safe twins refused",
        "coordinate, harmful",
        "safe",
        "AUROC on twins",
    ]
    return markdown(head, rows)


def _heard(row: Data) -> list[str]:
    harmful, safe = row["harmful"], row["near_miss"]
    shares = [percent(harmful["refused"]), percent(safe["refused"])]
    return [*shares, plain(harmful["coordinate"]), plain(safe["coordinate"]), plain(row["auroc"])]
