"""The wall around `refusal_plugin/traced`: what runs beside the weights is plain functions over torch.

The folder travels to servers that have neither this package nor much else, so its source must hold nothing that is lost
or refused on the way. Each rule below was broken once and failed there.
"""

import ast
from pathlib import Path

import pytest

TRACED = Path(__file__).resolve().parents[2] / "refusal_plugin" / "traced"
MODULES = {"torch", "math", "typing"}


def breaches(source: str) -> list[tuple[int, str]]:
    """Line number and reason of everything in `source` that would not travel."""
    tree = ast.parse(source)
    found: list[tuple[int, str]] = []
    inner = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
        if node is not function
    }
    for node in ast.walk(tree):
        reason = ""
        if isinstance(node, ast.Import | ast.ImportFrom) and node in inner:
            reason = "import inside a function: the server runs it and has no such package"
        elif isinstance(node, ast.Import):
            names = sorted({a.name.split(".")[0] for a in node.names} - MODULES)
            reason = f"import of {', '.join(names)}: servers allow torch, math and typing" if names else ""
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            outside = (node.module or "").split(".")[0] not in MODULES
            reason = f"import from {node.module}: servers allow torch, math and typing" if outside else ""
        elif isinstance(node, ast.ImportFrom):
            if node.level > 1:
                reason = "import from outside this folder: only this folder travels"
            elif not node.module:
                reason = "import of a module: a call through it ships the whole module; write `from .x import f`"
            elif any(a.name == "*" for a in node.names):
                reason = "star import: name what travels"
        elif isinstance(node, ast.ClassDef):
            reason = "class: results come back as tensors, numbers, strings, lists, tuples, dicts"
        elif isinstance(node, ast.With | ast.AsyncWith) and not is_trace(node):
            reason = "context manager: a block inside a tracing context is read as one"
        elif isinstance(node, ast.AsyncFunctionDef):
            reason = "async function: nothing awaits it beside the weights"
        elif isinstance(node, ast.Global | ast.Nonlocal):
            reason = "shared state: batch rows and requests must be independent"
        if reason:
            found.append((node.lineno, reason))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.decorator_list:
            found.append((node.decorator_list[0].lineno, "decorator: it is dropped on the way, the function changes"))
    return sorted(found)


def is_trace(node: ast.AST) -> bool:
    """Whether a block is `with model.trace(...):`, a forward pass that a session makes through a function.

    `torch.enable_grad()` may stand before it: the switch holds for the pass.
    """
    items = node.items if isinstance(node, ast.With) else []
    calls = [item.context_expr for item in items]
    names = [ast.unparse(call.func) for call in calls if isinstance(call, ast.Call)]
    return len(names) == len(calls) and names in (["model.trace"], ["torch.enable_grad", "model.trace"])


@pytest.mark.parametrize("file", sorted(TRACED.glob("**/*.py")), ids=lambda p: p.name)
def test_what_travels_is_plain_functions(file: Path) -> None:
    found = [f"{file.name}:{line}: {reason}" for line, reason in breaches(file.read_text(encoding="utf-8"))]
    assert not found, "\n".join(found)


def test_the_folder_is_there() -> None:
    assert {"read.py", "write.py", "measure.py"} <= {file.name for file in TRACED.glob("*.py")}


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import numpy", "import of numpy"),
        ("from nnsight import save", "import from nnsight"),
        ("from . import read", "ships the whole module"),
        ("from ..models import load", "outside this folder"),
        ("from .read import *", "star import"),
        ("def f(x):\n    import torch\n    return x", "inside a function"),
        ("@staticmethod\ndef f(x): return x", "decorator"),
        ("class Edit: pass", "class"),
        ("def f(x):\n    with x: pass", "context manager"),
        ("def f(model):\n    with model.generate(): pass", "context manager"),
        ("async def f(): pass", "async"),
        ("n = 0\ndef f():\n    global n", "shared state"),
    ],
)
def test_each_breach_is_found(source: str, reason: str) -> None:
    assert any(reason in text for _, text in breaches(source))


def test_what_is_allowed_passes() -> None:
    source = "import math\nimport torch\nfrom torch import Tensor\nfrom typing import Any\nfrom .read import residual\n"
    assert breaches("def f(model, x):\n    with model.trace(**x):\n        y = model.output.save()\n    return y") == []
    assert breaches(source + "LIMIT = 3\ndef f(x, *, k=LIMIT):\n    return [residual(y) for y in x][:k]") == []


# -- what recipes say inside their sessions ---------------------------------------------------------------------------
SHIPPED = ("torch", "math", "typing", "nnsight", "refusal_plugin.traced")


def session_breaches(source: str) -> list[tuple[int, str]]:
    """Line number and reason of every imported name inside a session that would not travel."""
    tree = ast.parse(source)
    imported: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {(a.asname or a.name).split(".")[0]: a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    found = []
    for node in ast.walk(tree):
        sessions = isinstance(node, ast.With) and any(".session(" in ast.unparse(i.context_expr) for i in node.items)
        for part in (p for statement in node.body for p in ast.walk(statement)) if sessions else ():  # type: ignore[attr-defined]
            if isinstance(part, ast.Import | ast.ImportFrom):
                found.append((part.lineno, "import inside a session: the server has no such package"))
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load) and part.id in imported:
                origin = imported[part.id]
                if not any(origin == known or origin.startswith(known + ".") for known in SHIPPED):
                    found.append(
                        (part.lineno, f"{origin} inside a session: only torch and refusal_plugin.traced travel")
                    )
    return sorted(set(found))


@pytest.mark.parametrize("file", sorted((TRACED.parents[1] / "recipes").glob("*.py")), ids=lambda p: p.name)
def test_sessions_of_recipes_say_only_what_travels(file: Path) -> None:
    found = [f"{file.name}:{line}: {reason}" for line, reason in session_breaches(file.read_text(encoding="utf-8"))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "body", ["np.mean(x)", "anatomy(model)", "import json"], ids=["numpy", "the package outside traced", "an import"]
)
def test_each_breach_of_a_session_is_found(body: str) -> None:
    head = "import numpy as np\nimport torch\nfrom refusal_plugin.models import anatomy\n"
    source = head + f"with torch.no_grad(), model.session(remote=remote):\n    {body}\n"
    assert [line for line, _ in session_breaches(source)] == [5]


def test_what_a_session_may_say_passes() -> None:
    head = "import nnsight\nimport torch\nfrom refusal_plugin.traced.read import residuals\nimport numpy as np\n"
    source = (
        head + "with model.session():\n    found = nnsight.save([residuals(blocks, torch.tensor(1))])\nnp.mean(found)\n"
    )
    assert session_breaches(source) == []
