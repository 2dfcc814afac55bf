"""Where the decoder layers are and what each one is made of, found from one recorded forward pass.

The language layers are the longest list of like or chained blocks that a text-only prompt runs through once each
(blocks of cross-attention to images among them are left out: a text prompt passes them by): the towers for images and
sound do not run on text, so they drop out without their names being known. Inside a block the attention is the child
called so that holds projections, and its output projection the last of them to finish; a norm of the attention output
is the child whose input IS the attention output. A wrong guess cannot pass: conservation is checked on what was found.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from ..errors import ModelError
from .capabilities import head_count
from .flow import PASSES_ON, below, holds_projection, input_width, is_projection, last_projection, leaf, norm_of
from .probe import PROBE_LENGTH, Call, Recording, same
from .writers import Writers, writers

_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_MLP = re.compile(r"mlp|ffn|feed_?forward|moe", re.IGNORECASE)


@dataclass(frozen=True)
class LayerParts:
    """The parts of one decoder layer, as paths relative to the layer.

    Attributes:
        attention: module that mixes positions ("self_attn"); None where a layer has none.
        attention_out: its output projection ("self_attn.o_proj"); the input of it is `z`, the concatenated heads.
        post_attention_norm: norm applied to the attention output before it is added to the stream; None without one.
        mlp: module that writes the rest ("mlp"; "fc2" in OPT, which has no MLP module, and "mlp.dense_4h_to_h" in
            Bloom, whose MLP also adds the stream); a mixture of experts counts as one.
        post_mlp_norm: norm applied to the MLP output; None if there is none.
        parallel: the MLP reads the stream of before the attention (GPT-J, Falcon, Cohere).
        d_attention: width of `z` = heads x d_head.
        residual_multiplier: factor on both outputs when they are added (Granite), else 1.
        others: further children that hold matrices: the suspects when conservation fails.
        writers: all that the layer adds to the stream, each with its factor.
    """

    attention: str | None
    attention_out: str | None
    post_attention_norm: str | None
    mlp: str | None
    post_mlp_norm: str | None
    parallel: bool
    d_attention: int
    residual_multiplier: float
    others: tuple[str, ...]
    writers: Writers


@dataclass(frozen=True)
class Structure:
    """The language path of a model, as dotted paths in the Hugging Face module; see `Anatomy` for the fields."""

    layers_path: str
    layer_indices: tuple[int, ...]
    d_model: int
    layer_class: str
    parts: tuple[LayerParts, ...]
    embed_path: str
    final_norm_path: str | None
    unembed_path: str | None

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return len(self.layer_indices)

    def copies(self, recording: Recording) -> int:
        """Vectors per token that the first layer hands on: 1, or the length of the axis beside (batch, position).

        Shapes are all it needs, so it works on the meta device too.
        """
        call = self.calls(recording)[0]
        handed_on = None if call is None else call.output_value
        if handed_on is None or handed_on.dim() != 4:
            return 1
        before, after = int(handed_on.shape[0]), int(handed_on.shape[2])
        return after if handed_on.shape[1] == PROBE_LENGTH else before

    def calls(self, recording: Recording) -> list[Call | None]:
        """The layers' calls, first to last."""
        return [recording.one(f"{self.layers_path}.{index}") for index in self.layer_indices]


def find(module: nn.Module, recording: Recording, name: str) -> Structure:
    """Find the language path of `module` in a recording of its probe.

    Raises:
        ModelError: no list of decoder blocks with attention ran.
    """
    layers_path, layer_calls = _layers(module, recording, name)
    last = layer_calls[-1]
    heads = head_count(module.config)
    parts = tuple(_parts(call, recording, heads) for call in layer_calls)
    assert last.output is not None
    return Structure(
        layers_path=layers_path,
        layer_indices=tuple(int(leaf(call)) for call in layer_calls),
        d_model=int(last.output.shape[-1]),
        layer_class=type(last.module).__name__,
        parts=parts,
        embed_path=_path_of(module, module.get_input_embeddings()) or "",  # type: ignore[operator]
        final_norm_path=_final_norm(last, recording),
        unembed_path=_path_of(module, module.get_output_embeddings()),  # type: ignore[operator]
    )


def _layers(module: nn.Module, recording: Recording, name: str) -> tuple[str, list[Call]]:
    for mixes in (_has_attention, _has_mixer):
        candidates = _candidates(module, recording, mixes)
        if candidates:
            return max(candidates, key=lambda item: (len(item[1]), _size(item[1])))
    found = f"{type(module).__name__} runs no list of decoder blocks on a text prompt"
    raise ModelError(f"examine {name!r}", found, "use a decoder-only language or multimodal model of transformers")


def _candidates(
    module: nn.Module, recording: Recording, mixes: Callable[[nn.Module], bool]
) -> list[tuple[str, list[Call]]]:
    """Lists of blocks that ran once each, some of which mix positions."""
    once = {call.path: call for call in recording.calls if recording.one(call.path) is not None}
    candidates: list[tuple[str, list[Call]]] = []
    for path, blocks in module.named_modules():
        if not isinstance(blocks, nn.ModuleList) or len(blocks) == 0:
            continue
        each = [once.get(f"{path}.{index}") for index in range(len(blocks))]
        calls = [call if call is not None and call.output is not None else None for call in each]
        ran = [call for call in calls if call is not None]
        nested = any(path.startswith(outer + ".") for outer, _ in candidates)
        # Blocks of cross-attention to images (Llama 3.2 Vision) do not run on text: the language is in those that do.
        skipped = [block for block, call in zip(blocks, calls, strict=True) if call is None]
        if not ran or nested or not all(map(_crosses, skipped)) or not any(map(mixes, blocks)):
            continue
        # Blocks of different classes (Jamba) are layers too if each is given what the one before returned.
        chained = all(same(left.output, right.input) for left, right in pairwise(ran))
        if chained or len({type(block) for block in blocks}) == 1:
            candidates.append((path, ran))
    return candidates


def _crosses(block: nn.Module) -> bool:
    return any(re.search("cross_?att", path, re.IGNORECASE) for path, _ in block.named_children())


def _has_attention(block: nn.Module) -> bool:
    return any(_is_attention(path, module) for path, module in block.named_children())


def _has_mixer(block: nn.Module) -> bool:
    """A part of several matrices, in models without any attention (Mamba)."""
    parts = [part for part in block.children() if not is_projection(part)]
    return any(sum(map(is_projection, part.modules())) >= 2 for part in parts)


def _is_attention(path: str, module: nn.Module) -> bool:
    """A child named for attention that holds projections; a norm or a gate named for it holds none, or only itself."""
    named = _ATTENTION.search(path) or _ATTENTION.search(type(module).__name__)
    return bool(named) and sum(is_projection(child) for child in module.modules() if child is not module) >= 2


def _size(calls: list[Call]) -> int:
    return sum(parameter.numel() for call in calls for parameter in call.module.parameters())


def _parts(layer: Call, recording: Recording, n_heads: int) -> LayerParts:
    children = recording.children(layer)
    attention = next((call for call in children if _is_attention(leaf(call), call.module)), None)
    out = last_projection(attention, recording) if attention is not None else None
    weighty = [call for call in children if call is not attention and holds_projection(call.module)]
    mlp = next((call for call in weighty if _MLP.search(leaf(call)) and call.output is not None), None)
    block = [mlp] if mlp is not None else weighty
    if mlp is None and weighty:
        mlp = weighty[-1]  # OPT keeps fc1 and fc2 in the layer itself
    writer = mlp
    if mlp is not None and same(mlp.output, layer.output):
        writer = last_projection(mlp, recording) or mlp  # Bloom and MPT add the stream inside the MLP
    after_attention = norm_of(attention, children, block[0] if block else None)
    after_mlp = norm_of(mlp, children, None)
    named = getattr(layer.module, "residual_multiplier", 1.0)
    multiplier = float(named) if isinstance(named, int | float) else 1.0
    known = {attention.module if attention else None, *(call.module for call in block)}
    rest = [path for path, part in layer.module.named_children() if part not in known and holds_projection(part)]
    return LayerParts(
        attention=below(layer, attention),
        attention_out=below(layer, out),
        post_attention_norm=below(layer, after_attention),
        mlp=below(layer, writer),
        post_mlp_norm=below(layer, after_mlp),
        parallel=_is_parallel(layer, attention, block[0] if block else None, children),
        d_attention=input_width(out),
        residual_multiplier=multiplier,
        others=tuple(rest),
        writers=writers(
            layer,
            recording,
            attention=attention,
            norm=after_attention,
            mlp=after_mlp or writer,
            multiplier=multiplier,
            n_heads=n_heads,
        ),
    )


def _is_parallel(layer: Call, attention: Call | None, mlp: Call | None, children: list[Call]) -> bool:
    """Whether the MLP reads what the layer was given, directly or through one norm, rather than the attention's sum."""
    if attention is None or mlp is None:
        return False
    sources = [layer.input, attention.input]
    feeding = [call for call in children if same(call.output, mlp.input)]
    return any(same(given, source) for given in (mlp.input, *(call.input for call in feeding)) for source in sources)


def _final_norm(last: Call, recording: Recording) -> str | None:
    for call in sorted(recording.calls, key=lambda call: call.started):
        after = call.started > last.ended and same(call.input, last.output)
        if after and not isinstance(call.module, PASSES_ON) and not holds_projection(call.module):
            return call.path
    return None


def _path_of(root: nn.Module, module: nn.Module | None) -> str | None:
    if module is None:
        return None
    return next((path for path, candidate in root.named_modules() if candidate is module), None)
