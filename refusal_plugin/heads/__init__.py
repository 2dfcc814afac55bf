"""Which heads write refusal: direct contributions, their sources, what removing them does, and how circuits compare.

attribution   exact direct contribution of every head, MLP and bias to a direction, prompt by prompt
sources       from which tokens, patches, frames or sounds a head takes what it writes
causal        what removing heads does to the refusal score and to answers; attribution patching to rank all of them
circuits      whether the same heads write it in text, image, video and audio, and which fall silent
graph         the circuit as a graph: part of the prompt, head, direction, answer; as a difference, in files
tracing       one prompt's circuit for attribution-graph viewers
logits        the same for the logit difference of refusing and complying
projection    where the tokens of a prompt and of an answer lie along the direction
depth         where its layers lie along it
pictures      the same over the image, the film strip or the spectrogram
attention_view   whole attention patterns, to be explored in a browser
"""

from .attention_view import AttentionView
from .attribution import attribute_heads
from .causal import HeadAblation
from .circuits import CircuitComparison, head_agreement
from .depth import LayerProjection, project_layers
from .graph import Circuit, circuit
from .logits import answer_tokens, attribute_logits
from .pictures import Overlay, overlay
from .projection import AnswerProjection, TokenProjection, project_answer, project_tokens
from .result import HeadAttribution, HeadRow
from .sources import SourceAttribution, attribute_sources

__all__ = [
    "AnswerProjection",
    "AttentionView",
    "HeadAblation",
    "Circuit",
    "CircuitComparison",
    "HeadAttribution",
    "HeadRow",
    "LayerProjection",
    "Overlay",
    "SourceAttribution",
    "TokenProjection",
    "answer_tokens",
    "attribute_heads",
    "attribute_logits",
    "attribute_sources",
    "circuit",
    "head_agreement",
    "overlay",
    "project_answer",
    "project_layers",
    "project_tokens",
]
