"""A steered model as a model class of lm-eval, so that its task suites show what a defence costs elsewhere.

    lm = suite_model(model, defence.edit(strength))
    lm_eval.simple_evaluate(lm, tasks=["mmlu"])

A context is one user turn, rendered as users ask, and a continuation is how the answer begins (spaces before it left
out, since an answer begins behind the template):

    loglikelihood     sum_k log p_edit( y_k | chat(context), y_1 ... y_(k-1) )    the edit acts as while decoding
    generate_until    the greedy answer, up to the first of the strings that end it

Leave `apply_chat_template` of lm-eval off. `loglikelihood_rolling`, the likelihood of running text, has no turns and is
refused.
"""

from collections.abc import Sequence
from typing import Any

from ..errors import DataError, OptionalDependencyError
from ..inference.answer_logits import answer_logits, rows_at_once
from ..inference.answers import generate
from ..inference.edits import Edit, require_edit
from ..inference.loop import re_encoder
from ..models import anatomy
from ..prompts import Prompt, batches
from ..prompts.input_spec import input_spec_of


class SteeredModel:
    """What lm-eval asks of a model, answered by a loaded one under an edit; `suite_model` makes it a class of theirs.

    Args:
        model: a loaded model.
        edit: what to change while it answers; None for the model as it is.
        system: system text of every request, a prompt defence's for example.
        max_new_tokens: longest answer where a task names none.
        token_budget: most tokens of one batch, padding included.

    Raises:
        DirectionError: the edit does not fit the model.
    """

    def __init__(
        self,
        model: Any,
        edit: Edit | None = None,
        *,
        system: str | None = None,
        max_new_tokens: int = 256,
        token_budget: int = 8192,
    ) -> None:
        super().__init__()
        require_edit(edit, "run a suite")
        if edit is not None:
            edit.check(anatomy(model))
        self.model, self.edit, self.system = model, edit, system
        self.max_new_tokens, self.token_budget = max_new_tokens, token_budget

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Log-probability of each continuation in nats, and whether it is what the model itself would say.

        Args:
            requests: with `args` = (context, continuation).

        Raises:
            DataError: a continuation without a token.
        """
        tokenizer = input_spec_of(self.model).tokenizer
        said = [str(one.args[1]).lstrip() or str(one.args[1]) for one in requests]
        answers = [list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in said]
        for number, ids in enumerate(answers):
            if not ids:
                raise DataError(f"likelihood of request {number}", "its continuation has no token", "mend the task")
        if not answers:
            return []
        rows = rows_at_once(self.model, max(map(len, answers)))
        asked = [_turn(one.args[0]) for one in requests]
        limits: dict[str, Any] = {"token_budget": self.token_budget, "max_rows": min(64, rows), "system": self.system}
        work = list(batches(self.model, asked, **limits))
        found = [(0.0, False)] * len(answers)
        again = re_encoder(self.model, system=self.system)
        # Reading token k gives the prediction of token k + 1: the last one need not be read.
        every = answer_logits(self.model, work, lambda row: answers[row][:-1], lambda _: self.edit, again)
        for numbers, logits in every:
            for row, one in zip(numbers, logits, strict=True):
                ids, steps = answers[row], one[: len(answers[row])].float().log_softmax(-1).cpu()
                total = sum(float(step[token]) for step, token in zip(steps, ids, strict=True))
                found[row] = total, steps.argmax(-1).tolist() == ids
        return found

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Greedy answers, each up to the first of its task's `until`.

        Args:
            requests: with `args` = (context, {"until": ..., "max_gen_toks": ...}).

        Raises:
            DataError: a task asks for sampling.
        """
        found = [""] * len(requests)
        lengths: dict[int, list[int]] = {}
        for row, one in enumerate(requests):
            how = one.args[1]
            if how.get("do_sample") or how.get("temperature"):
                raise DataError("answer a suite", "its task asks for sampling", "set do_sample: false in its file")
            lengths.setdefault(int(how.get("max_gen_toks") or self.max_new_tokens), []).append(row)
        for length, rows in lengths.items():
            prompts = [_turn(requests[row].args[0], f"{row}") for row in rows]
            options: dict[str, Any] = {"max_new_tokens": length, "token_budget": self.token_budget, "progress": False}
            answers = generate(self.model, prompts, self.edit, system=self.system, **options)
            for row, answer in zip(rows, answers, strict=True):
                until = requests[row].args[1].get("until") or []
                ends = [answer.text.find(end) for end in ([until] if isinstance(until, str) else until) if end]
                found[row] = answer.text[: min((at for at in ends if at >= 0), default=len(answer.text))]
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Refused.

        Raises:
            DataError: always.
        """
        do = "use tasks of choices or answers"
        raise DataError("likelihood of running text", "a steered chat model answers turns", do)


def suite_model(model: Any, edit: Edit | None = None, **options: Any) -> Any:
    """`SteeredModel` as an `lm_eval.api.model.LM`, for `lm_eval.simple_evaluate` and `evaluate`.

    Args:
        model, edit, options: see `SteeredModel`.

    Raises:
        OptionalDependencyError: lm-eval is not installed.
    """
    try:
        from lm_eval.api.model import LM
    except ImportError as error:
        found = f"lm-eval cannot be imported ({error})"
        raise OptionalDependencyError("run a suite", found, 'pip install "refusal-plugin[evals]"') from None
    return type("SteeredLM", (SteeredModel, LM), {})(model, edit, **options)


def _turn(context: Any, name: str = "") -> Prompt:
    text = str(context)
    return Prompt(text, id=name or f"request {hash(text):x}")
