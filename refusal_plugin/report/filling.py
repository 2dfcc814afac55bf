"""Templates and the values that fill them: Jinja2 with autoescape; the HTML, CSS and scripts lie in `templates/`.

A value from elsewhere is only ever printed by a template, never read as one. A name that a template asks for and that
was not given is an error.
"""

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from .icons import icon
from .markup import Markup, printable
from .numbers_in_words import decimal, percent, points, scalar, share, significant
from .palette import COLOURS, MODALITIES, ROLE_NAMES, ROLE_SHAPES, colour
from .svg import glyph

if TYPE_CHECKING:
    from jinja2 import Environment


@cache
def _environment() -> "Environment":
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {"glyph": glyph, "icon": icon, "hue": colour, "COLOURS": COLOURS, "MODALITIES": MODALITIES}
    made.globals |= {"ROLE_NAMES": ROLE_NAMES, "ROLE_SHAPES": ROLE_SHAPES}
    made.filters |= {f.__name__: f for f in (decimal, percent, points, scalar, share, significant)}
    return made


def fill(template: str, **values: object) -> Markup:
    """A template with these values in it, each escaped unless it is `Markup`."""
    return Markup(_environment().get_template(template).render(values))


def script(name: str) -> Markup:
    """A script of ours as it stands in `templates/`: its text is what the page's policy lists by its hash."""
    return Markup((files(__package__) / "templates" / name).read_text(encoding="utf-8"))
