"""One prompt's circuit as the JSON that attribution-graph viewers read (circuit-tracer, schema version 1).

    embedding   a token, patch, frame or stretch of sound at its position
    feature     a head, or a layer's MLP, at the token where the direction is read
    logit       the direction: the one target

    link token -> head     what the head takes from there and writes into the direction
    link head -> target    the sum of the links into it: exact

Weights are shares of the direction's length. A viewer's features are learned ones, these are heads: the names say so.
MLPs have no link into them, because what they read is not split here.
"""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from .result import HeadAttribution
from .sources import SourceAttribution


def tracer_graph(
    found: HeadAttribution, sources: SourceAttribution, row: int, mlp: Float[Tensor, " layer"], places: Sequence[str]
) -> dict[str, Any]:
    """The graph of one prompt.

    Args:
        found: for the length of the direction and the model's name.
        sources: of the prompt.
        row: the prompt's.
        mlp: what the MLP of each layer writes on this prompt.
        places: names of the positions of its medium, in order.
    """
    norm, layer = float(found.norms[0]), sources.layer
    named, words = iter(places), []
    for word, span in zip(sources.tokens[row], sources.spans[row], strict=True):
        words.append(next(named, word) if span == "media" else word)
    last, target = len(words) - 1, f"{layer + 1}_0_{len(words) - 1}"
    nodes = [_node(f"E_{at}_{at}", at, "E", at, "embedding", word) for at, word in enumerate(words)]
    links = []
    for (at, head), values in zip(sources.heads, sources.values[row], strict=True):
        key, written = f"{at}_{head}_{last}", float(values.sum()) / norm
        nodes.append(_node(key, _pair(at, head), str(at), last, FEATURE, f"attention head L{at} H{head}", written))
        links += [_link(f"E_{s}_{s}", key, float(v) / norm) for s, v in enumerate(values)]
        links.append(_link(key, target, written))
    n_heads = int(found.heads.shape[2])
    for at, value in enumerate((mlp[: layer + 1] / norm).tolist()):
        key = f"{at}_{n_heads}_{last}"
        nodes.append(_node(key, _pair(at, n_heads), str(at), last, FEATURE, f"MLP of layer {at}", value))
        links.append(_link(key, target, value))
    nodes.append(_node(target, 0, str(layer + 1), last, "logit", f"refusal direction behind layer {layer}"))
    nodes[-1]["is_target_logit"] = True
    name = sources.labels.ids[row]
    return {
        "metadata": {
            "slug": name,
            "scan": found.model,
            "transcoder_list": [],
            "prompt_tokens": words,
            "prompt": " ".join(words),
            "node_threshold": None,
            "schema_version": 1,
            "info": {"generator": {"name": "refusal-plugin"}, "unit": "share of the direction's length"},
        },
        "qParams": {"linkType": "both", "pinnedIds": [], "clickedId": target, "supernodes": [], "sg_pos": ""},
        "nodes": nodes,
        "links": links,
    }


FEATURE = "cross layer transcoder"
"""The only kind of inner node that viewers of this schema know."""


def _pair(layer: int, index: int) -> int:
    """Cantor's number of a layer and what is in it, as the schema numbers features."""
    return (layer + index) * (layer + index + 1) // 2 + index


def _node(
    key: str, feature: int, layer: str, position: int, kind: str, words: str, activation: float | None = None
) -> dict[str, Any]:
    return {
        "node_id": key, "feature": feature, "layer": layer, "ctx_idx": position, "feature_type": kind,
        "token_prob": 0.0, "is_target_logit": False, "run_idx": 0, "reverse_ctx_idx": 0, "jsNodeId": f"{key}-0",
        "clerp": words, "influence": None if activation is None else abs(activation), "activation": activation,
    }  # fmt: skip


def _link(source: str, target: str, weight: float) -> dict[str, Any]:
    return {"source": source, "target": target, "weight": weight}
