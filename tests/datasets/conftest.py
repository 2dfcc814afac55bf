"""The library's cache and this project's, in a folder of the test session."""

import os
import tempfile

CACHE = tempfile.mkdtemp(prefix="refusal-plugin-datasets-")
os.environ.setdefault("HF_DATASETS_CACHE", CACHE)  # read once, when the library is imported
os.environ.setdefault("REFUSAL_PLUGIN_DATA", CACHE)
