"""Before and behind the thinking block of a model that thinks before it answers.

    before    prompts            their last token is what the thinking begins at
    behind    thought(prompts)   the same, continued by the model's own thinking: the last token closes the block

Everything that reads or edits at the last prompt token (directions, scores, edits of the newest token) therefore works
before the block with the one set, and behind it with the other; the token role "after_thinking" names the same place in
any prompt with a block. The thinking is part of the prompt then, so an edit of the answer leaves it as it is.
"""

from collections.abc import Iterable
from typing import Any

from ..errors import PromptError
from ..models import anatomy
from ..progress import Progress
from ..prompts import Prompt, PromptSet
from ..prompts.conversation import asked_turn
from ..prompts.encoding import as_prompts
from ..prompts.thinking import thinking_block
from .answers import generate
from .edits import Edit


def thought(
    model: Any,
    prompts: Prompt | str | Iterable[Prompt | str],
    edit: Edit | None = None,
    *,
    max_new_tokens: int = 512,
    remote: bool | str = False,
    progress: Progress = None,
) -> PromptSet:
    """Prompts with the model's greedy thinking about them as the beginning of the answer.

    Args:
        model: a loaded model.
        prompts: one or several; ask with `Prompt(..., thinking=True)` where the template has to be told.
        edit: what to change in the residual stream while it thinks.
        max_new_tokens: longest thinking.
        remote, progress: as for `generate`.

    Returns:
        the prompts in their order, ids with "#thought" behind, each ending with the mark that closes the block.

    Raises:
        PromptError: a model that does not think, or not to an end within `max_new_tokens`.
        Others as `generate`.
    """
    chosen = as_prompts(prompts)
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "remote": remote, "progress": progress}
    return PromptSet(
        _continued(prompt, anatomy(model).tokenizer.decode(answer.ids, skip_special_tokens=False), max_new_tokens)
        for prompt, answer in zip(chosen, generate(model, chosen, edit, label="thinking", **options), strict=True)
    )


def _continued(prompt: Prompt, said: str, most: int) -> Prompt:
    block = thinking_block(said, 0)
    if block is None or block[1] is None:
        found = "it does not think" if block is None else f"its thinking does not end within {most} tokens"
        do = "use thinking=True or a model that thinks" if block is None else "raise max_new_tokens"
        raise PromptError(f"think about prompt '{prompt.id}'", found, do)
    begun = {"role": "assistant", "content": prompt.prefill + said[: block[1]]}
    before = (prompt.messages or ())[: asked_turn(prompt.turns) + 1]
    return prompt.replace(messages=[*before, begun], id=f"{prompt.id}#thought")
