"""The one place where nnsight is imported, because the order of imports matters.

nnsight hangs a method `save` on every object, and anyio refuses to define its socket classes after that ("Attribute
'save' is missing its type annotation"): uploads above 1 MB, asynchronous results and pytest's anyio plugin then
break. nnsight imports anyio first for this reason, but anyio imports its asyncio backend, where those classes are,
only at its first use.
"""

import importlib
import importlib.util
import sys


def import_anyio() -> None:
    """Import anyio's asyncio backend; if nnsight is here already, its `save` is taken off for that moment."""
    if importlib.util.find_spec("anyio") is None or "anyio._backends._asyncio" in sys.modules:
        return
    mounted = "save" in vars(object)
    if mounted:
        from nnsight import save  # type: ignore[import-untyped]
        from nnsight._c import mount, unmount  # type: ignore[import-untyped]

        unmount("save")
    try:
        importlib.import_module("anyio._backends._asyncio")
    finally:
        if mounted:
            mount(save, "save")


import_anyio()

from nnsight import Envoy, TransformersModel, register  # noqa: E402

__all__ = ["Envoy", "TransformersModel", "import_anyio", "register"]
