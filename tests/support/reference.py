"""The selection of Arditi et al. (2024, arXiv 2406.11717, section 2.3 and appendix C) from its equations.

By plain hooks, one prompt at a time, no padding, three full passes per candidate; shares nothing with the package but
the tokens of a prompt. Candidates are named as the package names them: layer l is read from and added to what block l
leaves.

    score    log p(refusal tokens) - log (1 - p(refusal tokens)), next token
    r_l      mean stream of harmful - mean stream of harmless training prompts, last token
    bypass   mean score of harmful prompts with r ablated: x - u (u.x) before every block and of all that blocks write
    induce   mean score of harmless prompts with r added behind block l
    KL       KL(untouched || ablated), harmless prompts
    choice   the smallest bypass with KL <= 0.1, induce >= 0 and l < 0.8 L
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Figures:
    """Of one candidate, in nats; `error` is the standard error of the bypass over prompts."""

    bypass: float
    error: float
    induce: float
    kl: float


class Reference:
    """A plain decoder under plain hooks.

    Args:
        module: takes input_ids, returns logits.
        blocks: its decoder blocks.
        writers: per block the modules whose outputs are added to the stream.
        ids: refusal tokens.
    """

    def __init__(self, module: Any, blocks: Sequence[Any], writers: Sequence[Sequence[Any]], ids: Tensor) -> None:
        self.module, self.blocks, self.writers, self.ids = module, blocks, writers, ids

    @torch.no_grad()
    def streams(self, prompts: Sequence[Tensor]) -> Tensor:
        """What every block leaves at the last token: (prompt, layer, d)."""
        rows = []
        for prompt in prompts:
            seen: list[Tensor] = []

            def keep(x: Tensor, seen: list[Tensor] = seen) -> Tensor:
                seen.append(x[0, -1].float())
                return x

            with hooked([(block, "out", keep) for block in self.blocks]):
                self.module(input_ids=prompt[None])
            rows.append(torch.stack(seen))
        return torch.stack(rows)

    @torch.no_grad()
    def next_tokens(self, prompts: Sequence[Tensor], hooks: Sequence[tuple[Any, str, Callable[[Tensor], Tensor]]] = ()):
        """Log probabilities of the next token: (prompt, token)."""
        with hooked(hooks):
            return torch.stack([self.module(input_ids=p[None]).logits[0, -1].double().log_softmax(-1) for p in prompts])

    def score(self, log_probabilities: Tensor) -> Tensor:
        refusal = log_probabilities[:, self.ids].exp().sum(-1)
        return refusal.log() - (1 - refusal).log()

    def figures(self, direction: Tensor, layer: int, harmful: Sequence[Tensor], harmless: Sequence[Tensor]) -> Figures:
        """Three passes over the validation prompts for one candidate."""
        unit = direction / direction.norm()

        def ablate(x: Tensor) -> Tensor:
            return x - (x @ unit.to(x.dtype))[..., None] * unit.to(x.dtype)

        removed = [(block, "in", ablate) for block in self.blocks]
        removed += [(writer, "out", ablate) for some in self.writers for writer in some]
        added = [(self.blocks[layer], "out", lambda x: x + direction.to(x.dtype))]
        plain, without = self.next_tokens(harmless), self.next_tokens(harmless, removed)
        bypassed = self.score(self.next_tokens(harmful, removed))
        return Figures(
            float(bypassed.mean()),
            float(bypassed.std() / len(bypassed) ** 0.5),
            float(self.score(self.next_tokens(harmless, added)).mean()),
            float((plain.exp() * (plain - without)).sum(-1).mean()),
        )

    def choice(self, figures: Mapping[int, Figures]) -> int | None:
        """The chosen layer; None where no candidate passes the filters."""
        kept = [
            (found.bypass, layer)
            for layer, found in figures.items()
            if layer < 0.8 * len(self.blocks) and found.kl <= 0.1 and found.induce >= 0
        ]
        return min(kept)[1] if kept else None


@contextmanager
def hooked(hooks: Sequence[tuple[Any, str, Callable[[Tensor], Tensor]]]) -> Iterator[None]:
    """Change the stream at the input or the output of modules while it runs."""

    def before(change: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
        return lambda module, args, options: (
            ((change(args[0]), *args[1:]), options)
            if args
            else (args, options | {"hidden_states": change(options["hidden_states"])})
        )

    def after(change: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
        return lambda module, args, out: (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)

    handles = [
        module.register_forward_pre_hook(before(change), with_kwargs=True)
        if where == "in"
        else module.register_forward_hook(after(change))
        for module, where, change in hooks
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
