"""An edit in one pass over a prompt and the answer to it: what generation would do token by token.

    columns   0 ... prompt - 1      the prompt, left padded
              prompt ...            the answer's tokens
    step 0    the prompt, of which `where="last"` is column prompt - 1
    step s    column prompt - 1 + s

A column sees the columns before it only, so that all steps may run at once.
"""

from .gate import recall, remember
from .write import on_rows


def through_answer(x, prompt, where, when, function, tensors):
    """An edit function at the columns where generation would run it.

    Args:
        x: (batch, pos, d_model), all columns.
        prompt: number of columns of the prompt.
        where: "last" or "all" of what a step brings.
        when: "every_step", or "prefill" for step 0 only.
        function: an edit function that treats columns independently, or one that keeps a memory (`gate`).
        tensors: its keyword arguments.
    """
    nested = function is on_rows
    inner = tensors["tensors"] if nested else tensors
    kind = tensors["function"] if nested else function
    if kind is remember:
        function(x[:, :prompt], **tensors)
        return x
    first, last = 0, None
    if kind is recall:
        first, last = inner["first"], inner["last"]
        inner["memory"]["step"] = first
    if when == "prefill":
        last = 0
    begin = prompt - 1 + first if first > 0 or where == "last" else 0
    end = x.shape[1] if last is None else prompt + last
    out = x.clone()
    if begin < end and not (first > 0 and when == "prefill"):
        out[:, begin:end] = function(x[:, begin:end], **tensors)
    return out
