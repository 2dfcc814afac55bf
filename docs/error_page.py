"""The page "Errors and what to do": every message of the package with its code, read from the source.

A row is a place where an error of the package is made: what was asked, what was found, what to do, as they are written
there. A part that only a run knows stands in italics under the name it has in the code; a part that is put together
further up is followed to where it is written, with " / " between its alternatives.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from refusal_plugin.errors import PACKAGE, RefusalPluginError, place_code

ROOT = Path(__file__).resolve().parents[1] / PACKAGE
LONGEST_HOLE = 24
SPECIAL = {ord(sign): f"&#{ord(sign)};" for sign in "\\`*_[]|~$"}
HEAD = """# Errors and what to do

A message of the package is one line: what was asked, what was found, what to do, and a code such as `(rp-0a1b2)`. Look
the code up here (the search of this site finds it, and so does `#rp-0a1b2` behind this page's address). One code is one
function of the source; several rows under a code are the errors that function can make. What only a run knows stands in
*italics*, under its name in the source. What a server says has its own table under
[From laptop to NDIF](remote.md#what-a-servers-message-means). The page is drawn from the source: it lists every
message of this version.
"""


@dataclass(frozen=True)
class Message:
    """An error as it is written: the function that makes it, its class, and its three parts as Markdown."""

    module: str
    function: str
    kind: str
    parts: tuple[str, ...]

    @property
    def code(self) -> str:
        """The code its text ends with."""
        return place_code(self.module, self.function)


def plain(text: str) -> str:
    """A text in which neither Markdown nor HTML finds anything."""
    return escape(text, quote=False).translate(SPECIAL)


def hole(node: ast.expr) -> str:
    """What only a run knows, under its name in the code; of a long expression, the names in it."""
    text = ast.unparse(node).replace("self.", "")
    if len(text) > LONGEST_HOLE:
        names = [n.id for n in ast.walk(node) if isinstance(n, ast.Name) and n.id != "self"]
        text = ", ".join(dict.fromkeys(n for n in names if not hasattr(builtins, n))) or "…"
    return f"<i>{plain(text)}</i>"


class Module:
    """One file of the package: its tree, and what encloses each node."""

    def __init__(self, name: str, source: str) -> None:
        self.name, self.tree = name, ast.parse(source)
        self.above = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}

    def owners(self, node: ast.AST) -> Iterator[ast.AST]:
        """What encloses a node, from the inside out."""
        while node in self.above:
            node = self.above[node]
            yield node

    def messages(self, kinds: set[str]) -> Iterator[Message]:
        """The errors made here, in the order of the file."""
        calls = [n for n in ast.walk(self.tree) if isinstance(n, ast.Call) and ast.unparse(n.func) in kinds]
        for call in sorted(calls, key=lambda n: n.lineno):
            named = [o.name for o in self.owners(call) if isinstance(o, ast.FunctionDef | ast.ClassDef)]
            words = {word.arg: word.value for word in call.keywords}
            parts = [*call.args, *(words[part] for part in ("asked", "found", "do")[len(call.args) :])]
            kind = ast.unparse(call.func)
            yield Message(self.name, ".".join(reversed(named)), kind, tuple(self.text(part) for part in parts))

    def written(self, name: ast.Name) -> Iterator[ast.expr]:
        """The values a name may have where it stands, the nearest first, back to one it was given for sure."""
        owners = list(self.owners(name))
        function = next((o for o in owners if isinstance(o, ast.FunctionDef)), self.tree)
        outer = [n for n in self.tree.body if isinstance(n, ast.Assign)]
        inner = [n for n in ast.walk(function) if isinstance(n, ast.Assign) and n.lineno < name.lineno]
        for one in [*sorted(inner, key=lambda n: -n.lineno), *outer]:
            pairs = [(one.targets[0], one.value)]
            if isinstance(one.targets[0], ast.Tuple) and isinstance(one.value, ast.Tuple):
                pairs = list(zip(one.targets[0].elts, one.value.elts, strict=True))
            values = [value for target, value in pairs if ast.unparse(target) == name.id]
            yield from values
            if values and self.above[one] in owners:
                return

    def text(self, node: ast.expr) -> str:
        """A part of a message as Markdown."""
        match node:
            case ast.Constant():
                return plain(str(node.value))
            case ast.FormattedValue():
                return hole(node.value)
            case ast.JoinedStr():
                return "".join(map(self.text, node.values))
            case ast.BinOp(op=ast.Add()):
                return self.text(node.left) + self.text(node.right)
            case ast.IfExp():
                return f"{self.text(node.body)} / {self.text(node.orelse)}"
            case ast.Name():
                return " / ".join(dict.fromkeys(map(self.text, self.written(node)))) or hole(node)
        return hole(node)


def messages() -> list[Message]:
    """Every error of the package, file by file."""
    names = {path: ".".join((PACKAGE, *path.relative_to(ROOT).with_suffix("").parts)) for path in ROOT.rglob("*.py")}
    modules = [Module(names[p].removesuffix(".__init__"), p.read_text(encoding="utf-8")) for p in sorted(names)]
    classes = [n for module in modules for n in ast.walk(module.tree) if isinstance(n, ast.ClassDef)]
    kinds, before = {RefusalPluginError.__name__}, 0
    while len(kinds) > before:
        before = len(kinds)
        kinds |= {c.name for c in classes if kinds & {ast.unparse(base) for base in c.bases}}
    return [message for module in modules for message in module.messages(kinds)]


def rows(found: Sequence[Message]) -> Iterator[str]:
    """The rows of one room; a code's first row is where a link to it leads."""
    seen: set[str] = set()
    for one in found:
        anchor = "" if one.code in seen else f' id="{one.code}"'
        seen.add(one.code)
        yield f"| <code{anchor}>{one.code}</code> {one.kind} | {' | '.join(one.parts)} |"


def page() -> str:
    """The page as Markdown, a table per room."""
    rooms: dict[str, list[Message]] = {}
    for one in messages():
        rooms.setdefault(one.module.split(".")[1], []).append(one)
    lines = [HEAD]
    for room, found in rooms.items():
        lines += [f"## {room}\n", "| code | asked | found | what to do |\n|---|---|---|---|", *rows(found), ""]
    return "\n".join(lines)
