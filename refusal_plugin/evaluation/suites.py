"""A steered model as a model class of lm-eval and lmms-eval: their task suites show what a defence costs elsewhere.

    lm = suite_model(model, defence.edit(strength))
    lm_eval.simple_evaluate(lm, tasks=["mmlu"])
    lm = suite_model(model, defence.edit(strength), suite="lmms-eval")
    lmms_eval.evaluator.simple_evaluate(lm, tasks=["mme"])

A context is one user turn behind the task's media, or the task's own conversation, rendered as users ask, and a
continuation is how the answer begins (spaces before it left out, since an answer begins behind the template):

    loglikelihood     sum_k log p_edit( y_k | chat(context), y_1 ... y_(k-1) )    the edit acts as while decoding
    generate_until    the greedy answer, up to the first of the strings that end it

Leave `apply_chat_template` off. `loglikelihood_rolling`, the likelihood of running text, has no turns and is refused.
"""

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
from PIL import Image

from ..errors import DataError, OptionalDependencyError
from ..inference.answer_logits import answer_logits, rows_at_once
from ..inference.answers import generate
from ..inference.edits import Edit, require_edit
from ..inference.loop import re_encoder
from ..models import anatomy
from ..prompts import Prompt, batches
from ..prompts.input_spec import input_spec_of
from ..prompts.media import KIND_OF, SAMPLE_RATE
from ..prompts.sound import mix
from ..prompts.waveforms import resample

LMMS = "lmms_eval.api.model:lmms"
BASES = {"lm-eval": "lm_eval.api.model:LM", "lmms-eval": LMMS, "lmms-eval-simple": LMMS}
"""The class that each suite wants its models to be."""
SHARE = 256
"""Requests to answer whose media are held at once."""


class SteeredModel:
    """What the suites ask of a model, answered by a loaded one under an edit; `suite_model` makes it a class of theirs.

    The `args` of a request are (context, what), of lmms-eval (context, what, doc_to_visual, number, task, split) or
    (context, doc_to_messages, what, number, task, split), the document being `task_dict[task][split][number]`.

    Args:
        model: a loaded model.
        edit: what to change while it answers; None for the model as it is.
        system: system text of every request, a prompt defence's for example.
        max_new_tokens: longest answer where a task names none.
        token_budget: most tokens of one batch, padding included.

    Raises:
        DirectionError: the edit does not fit the model.
    """

    task_dict: dict[str, Any]

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
            requests: whose `what` is the continuation.

        Raises:
            DataError: a continuation without a token.
        """
        tokenizer = input_spec_of(self.model).tokenizer
        asked = [self._asked(one.args, f"{row}") for row, one in enumerate(requests)]
        said = [str(text).lstrip() or str(text) for _, text in asked]
        answers = [list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in said]
        for number, ids in enumerate(answers):
            if not ids:
                raise DataError(f"likelihood of request {number}", "its continuation has no token", "mend the task")
        if not answers:
            return []
        rows = rows_at_once(self.model, max(map(len, answers)))
        limits: dict[str, Any] = {"token_budget": self.token_budget, "max_rows": min(64, rows), "system": self.system}
        work = list(batches(self.model, [prompt for prompt, _ in asked], **limits))
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
            requests: whose `what` is {"until": ..., "max_gen_toks" or "max_new_tokens": ...}.

        Raises:
            DataError: a task asks for sampling or for beams.
        """
        found = [""] * len(requests)
        for first in range(0, len(requests), SHARE):
            lengths: dict[int, list[tuple[int, Prompt, list[str]]]] = {}
            for row, one in enumerate(requests[first : first + SHARE], first):
                asked, how = self._asked(one.args, f"{row}")
                if how.get("do_sample") or how.get("temperature") or (how.get("num_beams") or 1) > 1:
                    raise DataError("answer a suite", "its task asks for sampling", "set do_sample: false in its file")
                until = how.get("until") or []
                length = int(how.get("max_gen_toks") or how.get("max_new_tokens") or self.max_new_tokens)
                lengths.setdefault(length, []).append((row, asked, [until] if isinstance(until, str) else until))
            for length, some in lengths.items():
                options: dict[str, Any] = {"max_new_tokens": length, "token_budget": self.token_budget}
                prompts = [asked for _, asked, _ in some]
                answers = generate(self.model, prompts, self.edit, system=self.system, progress=False, **options)
                for (row, _, until), answer in zip(some, answers, strict=True):
                    ends = [answer.text.find(end) for end in until if end]
                    found[row] = answer.text[: min((at for at in ends if at >= 0), default=len(answer.text))]
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Refused, by a DataError."""
        raise DataError("likelihood of running text", "a chat model answers turns", "use tasks of choices or answers")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[Any]:
        """Refused, by a DataError."""
        raise DataError("answer in several rounds", "a request is answered once", "use tasks of one round")

    def _asked(self, args: Sequence[Any], name: str) -> tuple[Prompt, Any]:
        """The conversation of a request, and what is wanted of it."""
        context, what, *rest = args
        if not rest:
            return Prompt(str(context), id=name), what
        show, number, task, split = rest
        doc = self.task_dict[task][split][number]
        if callable(show):
            # Their models take this placeholder out of a context, too: the media stand before it.
            said = {"type": "text", "text": str(context).replace("<image>", "")}
            turns = [{"role": "user", "content": [*(show(doc) or []), said]}]
            what = what(doc) if callable(what) else what
        else:
            turns, what = what(doc), show
        turns = [{**turn, "content": list(filter(None, map(_shown, turn["content"])))} for turn in turns]
        return Prompt(messages=turns, id=name), what


def suite_model(model: Any, edit: Edit | None = None, *, suite: str = "lm-eval", **options: Any) -> Any:
    """`SteeredModel` as a model of a suite, for its `simple_evaluate` and `evaluate`.

    Args:
        model, edit, options: see `SteeredModel`.
        suite: "lm-eval" (an `lm_eval.api.model.LM`), "lmms-eval" (an `lmms_eval.api.model.lmms` that is given
            conversations) or "lmms-eval-simple" (one that is given a context and media, as its tasks of choices ask).

    Raises:
        DataError: no such suite.
        OptionalDependencyError: the suite is not installed.
    """
    if suite not in BASES:
        raise DataError(f"run the suite {suite!r}", "no such suite", f"use one of {', '.join(BASES)}")
    module, _, name = BASES[suite].partition(":")
    try:
        base = getattr(import_module(module), name)
    except ImportError as error:
        found = f"{suite.removesuffix('-simple')} cannot be imported ({error})"
        do = f'pip install "refusal-plugin[evals{"" if suite == "lm-eval" else "-media"}]"'
        raise OptionalDependencyError("run a suite", found, do) from None
    return type("SteeredLM", (SteeredModel, base), {"is_simple": suite != "lmms-eval"})(model, edit, **options)


def _shown(value: Any, kind: str = "") -> dict[str, Any] | None:
    """A medium or a part as a task gives it, as a part of a turn; None for a text without a word."""
    if isinstance(value, Mapping) and "text" in value:
        return dict(value) if value["text"].strip() else None
    if isinstance(value, Mapping) and value.get("array") is None and ("url" in value or "path" in value):
        if any(value.get(end) is not None for end in ("start_time", "end_time", "video_start", "video_end")):
            raise DataError("answer a suite", "its task shows a section of a video", "cut the video before")
        return _shown(value.get("url") or value["path"], value.get("type") or kind)
    if isinstance(value, (str, os.PathLike)):
        kind = kind or KIND_OF.get(os.path.splitext(value)[1].lower(), "video")
    elif isinstance(value, (Image.Image, list)):
        kind = kind or ("video" if isinstance(value, list) else "image")
    else:  # a sound with its rate, channels first where there are several
        try:
            samples, rate = np.atleast_2d(np.asarray(value["array"], np.float32)).T, int(value["sampling_rate"])
        except (KeyError, IndexError, TypeError, ValueError):
            found = f"its task shows a {type(value).__name__}"
            raise DataError("answer a suite", found, "give files, Pillow images, or sounds with their rate") from None
        kind, value = "audio", resample(mix(samples), rate, SAMPLE_RATE)
    return {"type": kind, kind: value}
