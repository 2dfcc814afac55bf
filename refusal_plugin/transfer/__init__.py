"""One modality's refusal direction in another: alike, readable, causal? And what is the modality gap made of?"""

from .analysis import Known, analyse_transfer
from .result import ModalityGap, TransferReport, load_transfer
from .streams import Streams

__all__ = ["Known", "ModalityGap", "Streams", "TransferReport", "load_transfer", "analyse_transfer"]
