"""Where the decoder layers are and what each one is made of, found from one recorded forward pass.

The language layers are the longest list of like or chained blocks that a text-only prompt runs through once each
(blocks of cross-attention to images among them are left out: a text prompt passes them by): the towers for images and
sound do not run on text, so they drop out without their names being known. Inside a block the attention is the child
called so that holds projections, and its output projection the last of them to finish; a norm of the attention output
is the child whose input IS the attention output. A wrong guess cannot pass: conservation is checked on what was found.
"""

import re
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from ..errors import ModelError
from .probe import PROBE_LENGTH, Call, Recording, is_expert_stack, same

_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_MLP = re.compile(r"mlp|ffn|feed_?forward|moe", re.IGNORECASE)
_PASSES_ON = (nn.Dropout, nn.Identity)


@dataclass(frozen=True)
class LayerParts:
    """The parts of one decoder layer, as paths relative to the layer.

    Attributes:
        attention: module that mixes positions ("self_attn"); None where a layer has none.
        mixer: what mixes positions in a layer without attention and adds to the stream in its place (a state-space or
            convolution block: "mamba", "conv"); None beside attention, and in a layer that mixes none.
        attention_out: its output projection ("self_attn.o_proj"); the input of it is `z`, the concatenated heads.
        post_attention_norm: norm applied to the attention output before it is added to the stream; None without one.
        mlp: module that writes the rest ("mlp"; "fc2" in OPT, which has no MLP module, and "mlp.dense_4h_to_h" in
            Bloom, whose MLP also adds the stream); a mixture of experts counts as one.
        post_mlp_norm: norm applied to the MLP output; None if there is none.
        parallel: the MLP reads the stream of before the attention (GPT-J, Falcon, Cohere).
        d_attention: width of `z` = heads x d_head.
        residual_multiplier: factor on both outputs when they are added (Granite), else 1.
        others: further children that hold matrices: the suspects when conservation fails.
    """

    attention: str | None
    mixer: str | None
    attention_out: str | None
    post_attention_norm: str | None
    mlp: str | None
    post_mlp_norm: str | None
    parallel: bool
    d_attention: int
    residual_multiplier: float
    others: tuple[str, ...]


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


def is_projection(module: nn.Module) -> bool:
    """Whether a module is one matrix (torch Linear, its quantised kin, or the Conv1D of GPT-2)."""
    weight = getattr(module, "weight", None)
    has_matrix = isinstance(weight, Tensor) and weight.dim() == 2 and not isinstance(module, nn.Embedding)
    return has_matrix or isinstance(module, nn.Linear) or hasattr(module, "base_layer")


def find(module: nn.Module, recording: Recording, name: str) -> Structure:
    """Find the language path of `module` in a recording of its probe.

    Raises:
        ModelError: no list of decoder blocks with attention ran.
    """
    layers_path, layer_calls = _layers(module, recording, name)
    last = layer_calls[-1]
    parts = tuple(_parts(call, recording) for call in layer_calls)
    assert last.output is not None
    return Structure(
        layers_path=layers_path,
        layer_indices=tuple(int(_leaf(call)) for call in layer_calls),
        d_model=int(last.output.shape[-1]),
        layer_class=type(last.module).__name__,
        parts=parts,
        embed_path=_path_of(module, module.get_input_embeddings()) or "",  # type: ignore[operator]
        final_norm_path=_final_norm(last, recording),
        unembed_path=_path_of(module, module.get_output_embeddings()),  # type: ignore[operator]
    )


def _layers(module: nn.Module, recording: Recording, name: str) -> tuple[str, list[Call]]:
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
        if not ran or nested or not all(map(_crosses, skipped)) or not any(_has_attention(block) for block in blocks):
            continue
        # Blocks of different classes (Jamba) are layers too if each is given what the one before returned.
        chained = all(same(left.output, right.input) for left, right in pairwise(ran))
        if chained or len({type(block) for block in blocks}) == 1:
            candidates.append((path, ran))
    if not candidates:
        found = f"{type(module).__name__} runs no list of decoder blocks with attention on a text prompt"
        raise ModelError(f"examine {name!r}", found, "use a decoder-only language or multimodal model of transformers")
    return max(candidates, key=lambda item: (len(item[1]), _size(item[1])))


def _crosses(block: nn.Module) -> bool:
    return any(re.search("cross_?att", path, re.IGNORECASE) for path, _ in block.named_children())


def _has_attention(block: nn.Module) -> bool:
    return any(_is_attention(path, module) for path, module in block.named_children())


def _is_attention(path: str, module: nn.Module) -> bool:
    """A child named for attention that holds projections; a norm or a gate named for it holds none, or only itself."""
    named = _ATTENTION.search(path) or _ATTENTION.search(type(module).__name__)
    return bool(named) and sum(is_projection(child) for child in module.modules() if child is not module) >= 2


def _size(calls: list[Call]) -> int:
    return sum(parameter.numel() for call in calls for parameter in call.module.parameters())


def _parts(layer: Call, recording: Recording) -> LayerParts:
    children = recording.children(layer)
    attention = next((call for call in children if _is_attention(_leaf(call), call.module)), None)
    out = _last_projection(attention, recording) if attention is not None else None
    weighty = [call for call in children if call is not attention and _holds_projection(call.module)]
    mlp = next((call for call in weighty if _MLP.search(_leaf(call)) and call.output is not None), None)
    block = [mlp] if mlp is not None else weighty
    if mlp is None and weighty:
        mlp = weighty[-1]  # OPT keeps fc1 and fc2 in the layer itself
    mixer = next((call for call in weighty if call is not mlp), None) if attention is None else None
    writer = mlp
    if mlp is not None and same(mlp.output, layer.output):
        writer = _last_projection(mlp, recording) or mlp  # Bloom and MPT add the stream inside the MLP
    after_attention = _norm_of(attention, children, block[0] if block else None)
    after_mlp = _norm_of(mlp, children, None)
    multiplier = getattr(layer.module, "residual_multiplier", 1.0)
    known = {*(call.module for call in (attention, mixer) if call), *(call.module for call in block)}
    rest = [path for path, part in layer.module.named_children() if part not in known and _holds_projection(part)]
    return LayerParts(
        attention=_below(layer, attention),
        mixer=_below(layer, mixer),
        attention_out=_below(layer, out),
        post_attention_norm=_below(layer, after_attention),
        mlp=_below(layer, writer),
        post_mlp_norm=_below(layer, after_mlp),
        parallel=_is_parallel(layer, attention, block[0] if block else None, children),
        d_attention=int(out.input.shape[-1]) if out is not None and out.input is not None else 0,
        residual_multiplier=float(multiplier) if isinstance(multiplier, int | float) else 1.0,
        others=tuple(rest),
    )


def _last_projection(block: Call, recording: Recording) -> Call | None:
    """The last projection to finish inside a block: in an attention, all before it is upstream of the heads' `z`."""
    projections = [call for call in recording.inside(block) if is_projection(call.module)]
    # A LoRA or otherwise wrapped projection records its inner matrices too: take the outermost module of the last one.
    last = projections[-1] if projections else None
    for call in projections:
        if last is not None and call.started < last.started and call.ended > last.ended:
            last = call
    return last


def _norm_of(source: Call | None, siblings: list[Call], following: Call | None) -> Call | None:
    """The sibling that is given exactly what `source` returned, dropouts and identities looked through.

    A norm whose result is what the `following` block reads is that block's pre-norm: in Bloom the attention adds the
    stream itself, so its output IS the stream.
    """
    if source is None:
        return None
    flowing = [source.output]
    for call in sorted(siblings, key=lambda call: call.started):
        if call.started < source.ended or not any(same(call.input, tensor) for tensor in flowing):
            continue
        if isinstance(call.module, _PASSES_ON):
            flowing.append(call.output)
        elif not _holds_projection(call.module):
            return None if following is not None and same(call.output, following.input) else call
    return None


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
        if after and not isinstance(call.module, _PASSES_ON) and not _holds_projection(call.module):
            return call.path
    return None


def _holds_projection(module: nn.Module) -> bool:
    return any(is_projection(part) or is_expert_stack(part) for part in module.modules())


def _leaf(call: Call) -> str:
    return call.path.rsplit(".", 1)[-1]


def _below(layer: Call, call: Call | None) -> str | None:
    return call.path[len(layer.path) + 1 :] if call is not None else None


def _path_of(root: nn.Module, module: nn.Module | None) -> str | None:
    if module is None:
        return None
    return next((path for path, candidate in root.named_modules() if candidate is module), None)
