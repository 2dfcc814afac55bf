from .loading import load as load
from .loading import load_sets as load_sets
from .loading import provenance as provenance
from .registry import Dataset as Dataset
from .registry import dataset as dataset
from .registry import registered as registered
