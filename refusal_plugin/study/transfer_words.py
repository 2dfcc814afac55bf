"""Transfer, gap and safe space in one sentence each, from measured figures only; what does not transfer is said too."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..report.numbers_in_words import NOT_MEASURED, change, counted, percent
from ..statistics import Estimate
from ..transfer import ModalityGap, TransferReport

CLEAR = 0.9
LITTLE = 0.10


def transfer_words(report: TransferReport) -> str:
    """What the first source's direction does in the other targets."""
    source = report.sources[0]
    others = [t for t in report.targets if t != source]
    if not others:
        return f"Only {source} was tested, so nothing can be said about transfer."
    read = [f"{t} {_two(report.estimate('auroc', source, t))}" for t in others]
    beyond = [t for t in others if report.marked("auroc", source, t)]
    said = [
        f"At layer {report.layer} the {source} direction tells harmful from safe requests with AUROC {_list(read)}; "
        f"{_which(beyond, others)} beyond what random directions reach there (Holm-corrected)."
    ]
    acts = [t for t in others if report.marked("induced_score", source, t)]
    needed = [t for t in others if report.marked("ablated_score", source, t)]
    said.append(
        f"Added to benign requests it moves the refusal score beyond random directions {_in(acts, others)}; "
        f"set to its benign mean in harmful ones it does so {_in(needed, others)}."
    )
    restored = [(t, report.estimate("restored", source, t)) for t in others]
    control = [(t, report.estimate("restored", "random", t)) for t in others]
    if all(e.value is not None for _, e in (*restored, *control)):
        own, random = (_list([f"{t} {change(e.value)}" for t, e in arm]) for arm in (restored, control))
        said.append(
            f"Generated refusals of harmful requests change by {own}, with a random direction of the same length by "
            f"{random}."
        )
    less = [t for t in others if t in report.sources and _less(report, source, t)]
    if less:
        said.append(
            f"What does not transfer: {_list(less)} {'has' if len(less) == 1 else 'have'} a direction of "
            f"{'its' if len(less) == 1 else 'their'} own that differs from {source}'s (the interval of the cosine "
            f"excludes {CLEAR:g})."
        )
    return " ".join(said)


def _less(report: TransferReport, source: str, target: str) -> bool:
    cosine = report.estimate("cosine", source, target)
    return cosine.high is not None and cosine.high < CLEAR


def gap_words(gap: ModalityGap) -> str:
    """How far the modalities lie from the reference, and how much of the refusal gap survives the gate."""
    others = [m for m in gap.modalities if m != gap.reference]
    if not others:
        return f"Only {gap.reference} was tested, so there is no gap."
    far = [f"{m} {_two(gap.estimate('shift', m))}" for m in others]
    along = [f"{m} {_percent(gap.estimate('share_along', m))}" for m in others]
    same = [f"{m} {_percent(gap.estimate('translation', m))}" for m in others]
    said = [
        f"At layer {gap.layer} matched content lies {_list(far)} refusal directions away from {gap.reference}; "
        f"{_list(along)} of the squared shift runs along the refusal direction, and one common translation accounts "
        f"for {_list(same)} of it."
    ]
    if lost := [_lost(gap, m) for m in others if "kept" in gap.values and gap.estimate("kept", m).value is not None]:
        said.append(f"Of the length of {gap.reference}'s direction {_list(lost, '; ')}.")
    parts = []
    for m in others:
        whole, gated = gap.estimate("ungated", m), gap.estimate("gated", m)
        dropped = gap.dropped[gap.modalities.index(m)]
        if whole.value is None:
            continue
        kept = f"{change(gated.value)} on items read correctly, {dropped} dropped"
        gate = "no read-back" if gated.value is None else kept
        parts.append(f"{m} {change(whole.value)} ({gate})")
    if parts:
        said.append(f"Harm is refused less than in {gap.reference} by {_list(parts)}.")
    wrong = [m for m in others if _side(gap, m)]
    if wrong:
        said.append(
            f"Re-centring alone is no cure: it leaves the mean harmful request of {_list(wrong)} on the answering side "
            "of the midpoint."
        )
    return " ".join(said)


def _lost(gap: ModalityGap, m: str) -> str:
    """What a modality keeps of the reference's direction, and how it loses the rest."""
    kept, length, turn = (gap.estimate(name, m) for name in ("kept", "lost_magnitude", "lost_turn"))
    cosine, share = gap.estimate("cosine", m), gap.estimate("magnitude_share", m)
    said = f"{m} keeps {_percent(kept)} along it"
    if length.value is None:
        return f"{said}, and its own direction cannot be told from noise"
    said += f" and loses {_percent(length)} in magnitude and {_percent(turn)} by turning away (cosine {_two(cosine)})"
    if share.value is None or share.low is None or share.high is None:
        return f"{said}, so that no clear loss is left to split"
    if share.low > 0.5:
        return f"{said}: mostly a loss of magnitude"
    return f"{said}: " + ("mostly a turn" if share.high < 0.5 else "which of the two is larger is not settled")


def _side(gap: ModalityGap, modality: str) -> bool:
    after = gap.estimate("harmful_after", modality)
    return after.high is not None and after.high < 0


def safe_space_words(record: Mapping[str, Any]) -> str:
    """How much of the direction lies in the safe spaces, and what removing it does."""
    modalities: Mapping[str, Any] = record["modalities"]
    k = record["k"]
    shares = [f"{m} {_percent(_of(r['share_inside'][r['k'] - 1]))}" for m, r in modalities.items()]
    chance = max(r["chance"] for r in modalities.values())
    said = [
        f"At layer {record['layer']} the first {k} directions in which safe requests differ hold {_list(shares)} of "
        f"the squared refusal direction (a random direction: {percent(chance)})."
    ]
    parts = []
    for m, r in modalities.items():
        plain = next((s for s in r["sweep"] if s["k"] == 0), None)
        clean = next(
            (s for s in r["sweep"] if s["k"] == r["k"] and s["strength"] == 1 and s["kind"] == "safe_space"), None
        )
        if plain is None or clean is None or m == "text":
            continue
        parts.append(
            f"{m} {plain['kl']['value']:.3f} to {clean['kl']['value']:.3f} nats and refusal of harm from "
            f"{_counted(plain['refusal'])} to {_counted(clean['refusal'])}"
        )
    if parts:
        said.append(f"Removing that part changes the price on safe requests of {_list(parts, '; ')}.")
        said.append("It also lowers the strength, so only a comparison at equal price says whether that is a gain.")
    return " ".join(said)


def _of(record: Mapping[str, Any]) -> Estimate:
    return Estimate(record["value"], record["low"], record["high"], record["n"])


def _list(words: Sequence[str], separator: str = ", ") -> str:
    if len(words) < 2:
        return "".join(words)
    return f"{separator.join(words[:-1])} and {words[-1]}"


def _which(found: Sequence[str], every: Sequence[str]) -> str:
    if len(found) == len(every):
        return "all of these are"
    return f"only {_list(found)} {'is' if len(found) == 1 else 'are'}" if found else "none of these is"


def _in(found: Sequence[str], every: Sequence[str]) -> str:
    if not found:
        return f"in none of {_list(every)}"
    return f"in {_list(found)}" + (
        "" if len(found) == len(every) else f", not in {_list(sorted(set(every) - set(found)))}"
    )


def _counted(record: Mapping[str, Any]) -> str:
    return counted(record["value"], record["n"], missing=NOT_MEASURED)


def _two(found: Estimate) -> str:
    return NOT_MEASURED if found.value is None else f"{found.value:.2f}"


def _percent(found: Estimate) -> str:
    return percent(found.value, missing=NOT_MEASURED)
