"""One modality's refusal direction in another: alike, readable, causal? And what is the modality gap made of?"""

from ..inference.streams import Streams
from .analysis import Known, analyse_transfer
from .result import ModalityGap, TransferReport

__all__ = ["Known", "ModalityGap", "Streams", "TransferReport", "analyse_transfer"]
