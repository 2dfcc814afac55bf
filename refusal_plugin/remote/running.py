"""Run a whole recipe on a server: continued where it stopped, cut smaller where the server's time runs out.

    from refusal_plugin.remote import run
    result = run(recipe("cross_modal_transfer"), model, prompts)

Finished requests are on disk under the run's name (`options.task`), so the same call after an interruption sends only
what is missing. A request that the server ended for its time is cut in half, and so are those behind it.
"""

import warnings
from collections.abc import Mapping
from typing import Any

from ..models.anatomy import anatomy
from .errors import RemoteTimeout
from .options import current, settings, task


class CutSmaller(UserWarning):
    """A request ran longer than the server allows: the job goes on in smaller requests."""


def run(recipe: Any, model: Any, prompts: Any, *, how: Mapping[str, Any] | None = None, **options: Any) -> Any:
    """Run a recipe with `remote=True`.

    Args:
        recipe: a module with `run(model, prompts, *, remote)`, see `refusal_plugin.recipe`.
        model: a loaded model.
        prompts: as the recipe takes them.
        how: how to run it again, for `refusal-plugin jobs resume`.
        options: further arguments of the recipe.

    Returns:
        what the recipe returns.

    Raises:
        RemoteTimeout: a single batch is too long for the server.
        RemoteError: the server refuses or fails; says why and what to do.
        Detached: after sending, under `settings(detach=True)`.
    """
    name = recipe.__name__.removeprefix("refusal_plugin_recipe_")
    facts = anatomy(model)
    said = [f"{key}={options[key]!r}" for key in sorted(options)]
    limit = current().max_tokens
    while True:
        named = task(name, facts.name, facts.config_hash, prompts.hash, *said, how=how)
        with settings(max_tokens=limit), named as going:
            try:
                return recipe.run(model, prompts, remote=True, **options)
            except RemoteTimeout as error:
                if going.heaviest <= 1:
                    raise
                limit = max(1, int(min(going.heaviest, limit) // 2))
                warnings.warn(
                    f"{error.found}. It goes on in requests of at most {limit} tokens.", CutSmaller, stacklevel=2
                )
