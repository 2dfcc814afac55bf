"""The parts of a loaded model that head attribution reads: traced sites of every layer, and their read vectors.

Where the weights are here, a read vector is one matrix-vector product per layer. Where they are not (NDIF), the sites
are the same and `traced.heads.read_by_calling` makes the vectors inside the session.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..traced.heads import no_heads
from .anatomy import Anatomy, anatomy, hf_layers, hf_module, layers
from .conservation import TOLERANCE, head_reader
from .norms import Norm, measure

Site = dict[str, Any]
Read = dict[str, Any]


def head_sites(model: Any, layer_ids: Sequence[int]) -> list[Site]:
    """The traced modules of some layers, as `traced.heads` wants them.

    Args:
        model: a loaded model.
        layer_ids: decoder layers.

    Raises:
        ModelError: heads cannot be attributed on this model; the error names what is left over.
    """
    facts = anatomy(model)
    require_heads(facts)
    blocks = layers(model)
    return [_site(blocks[index], facts, index) for index in layer_ids]


def require_heads(facts: Anatomy) -> None:
    """Raise ModelError unless the model's stream is the sum of its parts.

    Two cases pass beside a finished check: a remote model, which cannot be checked before it runs, and one whose text
    prompts add up while media write between the layers (DeepStack). In both what is left over is in the result.
    """
    found = facts.conservation
    conserves = found.error == found.error and found.error <= max(TOLERANCE.values()) and found.layer is None
    if not (found.ok or facts.remote or conserves):
        facts.require_heads()


def _site(block: Any, facts: Anatomy, index: int) -> Site:
    layer = facts.parts[index].writers

    def module(path: str | None) -> Any:
        return None if path is None else _below(block, path)

    return {
        "layer": block,
        "attention": module(layer.mixer),
        "projection": module(layer.projection),
        "norm": module(layer.norm),
        "factor": layer.factor,
        "early": [(_below(block, path), factor) for path, factor in layer.early],
        "late": [(_below(block, path), factor) for path, factor in layer.late],
        "keep": layer.keep,
        "heads": (layer.n_heads, layer.d_head),
    }


def _below(block: Any, path: str) -> Any:
    for name in path.split("."):
        block = block[int(name)] if name.isdigit() else getattr(block, name)
    return block


@torch.no_grad()
def head_reads(model: Any, directions: Tensor, layer_ids: Sequence[int]) -> list[Read]:
    """Read vectors of some layers along directions, from the weights.

    Args:
        model: a loaded model, on this machine.
        directions: (d_model, k).
        layer_ids: decoder layers.

    Returns:
        per layer `{read (head, d_head, k), constant (k,), scaled (k,), epsilon, centred}`, float32.

    Raises:
        ModelError: the model is remote.
    """
    facts = anatomy(model)
    hf_module(model)  # says in one line that a remote model has no weights here
    blocks = hf_layers(model)
    found = []
    for index in layer_ids:
        layer = facts.parts[index].writers
        if layer.projection is None:
            found.append(no_heads(directions))
            continue
        projection: nn.Module = _below(blocks[index], layer.projection)
        parameter = next(projection.parameters())
        like = parameter if parameter.is_floating_point() else torch.zeros(1, device=parameter.device)
        norm: Norm | None = None
        if layer.norm is not None:
            module: nn.Module = _below(blocks[index], layer.norm)
            norm = measure(module, facts.d_model, like)
        readers = [
            head_reader(projection, norm, r.to(parameter.device), layer.n_heads, layer.factor)
            for r in directions.unbind(-1)
        ]
        found.append(
            {
                "read": torch.stack([reader.read for reader in readers], dim=-1),
                "constant": torch.tensor([reader.constant for reader in readers]),
                "scaled": torch.tensor([reader.scaled_constant for reader in readers]),
                "epsilon": 0.0 if norm is None else norm.epsilon,
                "centred": norm is not None and norm.centred,
            }
        )
    return found


def norm_epsilons(model: Any, layer_ids: Sequence[int]) -> list[float]:
    """The epsilon of the norm behind each layer's attention, by the name the module gives it; 0 without such a norm.

    Needs no weight, so that it works where a model is remote.
    """
    facts = anatomy(model)
    blocks = hf_layers(model._module, facts)
    found = []
    for index in layer_ids:
        path = facts.parts[index].writers.norm
        norm = None if path is None else _below(blocks[index], path)
        named = (getattr(norm, name, None) for name in ("variance_epsilon", "eps", "epsilon"))
        found.append(next((float(value) for value in named if isinstance(value, int | float)), 0.0))
    return found


@contextmanager
def eager_attention(model: Any) -> Iterator[None]:
    """Inside the block the language layers compute attention step by step, so that patterns can be read.

    Raises:
        ModelError: the model is remote: its attention is the server's choice.
    """
    config: Any = hf_module(model).config
    language = config.get_text_config()
    before = language._attn_implementation
    try:
        language._attn_implementation = "eager"
        yield
    finally:
        language._attn_implementation = before


def attention_call(site: Site, name: str) -> Any:
    """The call inside a traced attention that mixes values: its inputs hold them, its output the pattern.

    Raises:
        ModelError: this architecture's attention is not written that way.
    """
    try:
        return site["attention"].source.attention_interface_1
    except AttributeError:
        raise ModelError(
            f"read the attention of {name!r}",
            "its attention does not go through the common interface of transformers",
            "everything but source attribution is available on this model",
        ) from None


def final_read(model: Any, tokens: Tensor) -> tuple[Tensor, Tensor, Norm | None]:
    """Logits as directions of the stream behind the last layer: the final norm pulled back, at a fixed scale.

        raw[t] = g * <x, w[t]> + constant[t]         g: the scale of the final norm at that position

    Args:
        model: a loaded model, on this machine.
        tokens: (k,) token ids.

    Returns:
        w (d_model, k), constant (k,), the measured norm (None without one).

    Raises:
        ModelError: the model has no output head, or is remote.
    """
    facts, module = anatomy(model), hf_module(model)
    if facts.unembed_path is None:
        raise ModelError("attribute logits", f"{facts.architecture} has no output head", "load a …ForCausalLM class")
    head: Any = module.get_submodule(facts.unembed_path)
    rows = head.weight.detach()[tokens.to(head.weight.device)].float().mT
    offset = torch.zeros(len(tokens), device=rows.device)
    bias = getattr(head, "bias", None)
    if isinstance(bias, Tensor):
        offset = bias.detach()[tokens.to(bias.device)].float()
    if rows.shape[0] != facts.d_model:
        found = f"its head reads {rows.shape[0]} numbers, the stream has {facts.d_model}"
        raise ModelError(f"attribute the logits of {facts.name!r}", found, "attribute along a direction instead")
    if facts.final_norm_path is None:
        return rows.cpu(), offset.cpu(), None
    norm = measure(module.get_submodule(facts.final_norm_path), facts.d_model, head.weight)
    back = torch.stack([norm.pull_back(row) for row in rows.unbind(-1)], dim=-1)
    return back.cpu(), (offset + norm.bias @ rows).cpu(), norm


def media_grid(inputs: Mapping[str, Tensor], modality: str, n: int) -> tuple[int, int, int]:
    """How the soft tokens of one prompt's medium lie: (frames, rows, columns), with frames * rows * columns = n.

    Args:
        inputs: of a batch of one prompt.
        modality: of the prompt.
        n: number of its media tokens.
    """
    grid = inputs.get(f"{modality}_grid_thw")
    if grid is not None and len(grid) == 1:
        frames, rows, columns = (int(x) for x in grid[0])
        merged = round((frames * rows * columns / max(n, 1)) ** 0.5)  # patches that became one token, per side
        if merged and frames * (rows // merged) * (columns // merged) == n:
            return frames, rows // merged, columns // merged
    side = math.isqrt(n)
    return (1, side, side) if modality == "image" and side * side == n else (1, 1, n)
