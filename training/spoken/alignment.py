"""Alignment with the frozen decoder: it is to do with a sentence it hears what it does with the same sentence in text.

Two tasks, both on benign speech, all frames fed as the class feeds them:

    transcription   cross entropy of the sentence, asked to be repeated
    instruction     KL(text || speech) of the decoder's next tokens: the first few of its own answer to the sentence in
                    text, so that speech is followed as text is

and the warm start's CTC stays beside them, so that frames stay near the embeddings they spell. Gradients reach the
projector alone. What stands before the sound is the same for all sentences and is computed once.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, nll_loss

from .features import Spoken
from .spelling import Projector

REPEAT = (
    "Repeat what was said, word by word.",
    "Write down what you heard.",
    "What was said?",
    "Transcribe the recording.",
)
FOLLOW = ("Answer what was said.", "Follow the spoken instruction.", "Please answer.", "Respond to the recording.")
ANSWER_TOKENS, POOL, RATE, WARM, BESIDE = 6, 600, 1e-3, 4, 0.2
PLAIN = {"repetition_penalty": 1.0, "temperature": None, "top_p": None, "top_k": None}
BEFORE = (
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n"
)
AFTER = "\n{asked}<|im_end|>\n<|im_start|>assistant\n"


class Decoder:
    """The frozen decoder, read from embeddings.

    Args:
        module: the decoder with its head, of any class of transformers with `.model` and `.lm_head`.
        tokenizer: its tokenizer.
    """

    def __init__(self, module: Any, tokenizer: Any) -> None:
        self.module, self.tokenizer = module, tokenizer
        self.embeddings: Tensor = module.model.embed_tokens.weight
        with torch.no_grad():
            before = module.model(inputs_embeds=self.embed(BEFORE)[None], use_cache=True).past_key_values
        self._before = [(layer.keys, layer.values) for layer in before.layers]

    def embed(self, text: str) -> Tensor:
        """(token, d) embeddings of a text."""
        return self.embeddings[torch.tensor(self.tokenizer(text).input_ids)]

    def states(self, rows: Sequence[Tensor]) -> Tensor:
        """Last hidden states of rows that follow `BEFORE`, padded on the right: (row, token, d)."""
        from transformers import DynamicCache

        cache = DynamicCache()
        for n, (keys, values) in enumerate(self._before):
            cache.update(keys.expand(len(rows), -1, -1, -1), values.expand(len(rows), -1, -1, -1), n)
        padded = nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
        found: Tensor = self.module.model(inputs_embeds=padded, past_key_values=cache, use_cache=True).last_hidden_state
        return found

    @torch.no_grad()
    def answers(self, texts: Sequence[str], count: int = ANSWER_TOKENS) -> tuple[Tensor, Tensor]:
        """The first tokens of the greedy answers to user turns, and the states that foretell them.

        Returns:
            (row, count) tokens, and (row, count, d) last hidden states; `lm_head` makes log odds of them.
        """
        turns = [f"{BEFORE}{text}{AFTER.format(asked='')[1:]}" for text in texts]
        given = self.tokenizer(turns, return_tensors="pt", padding=True, padding_side="left")
        found = self.module.generate(**given, max_new_tokens=count, min_new_tokens=count, do_sample=False, **PLAIN)
        mask = nn.functional.pad(given.attention_mask, (0, count), value=1)
        states = self.module.model(input_ids=found, attention_mask=mask).last_hidden_state
        return found[:, -count:], states[:, -count - 1 : -1]


@dataclass(frozen=True)
class Followed:
    """An instruction that was heard, and what the decoder does with it in text.

    Attributes:
        spoken: the sentence.
        carrier: the text beside it.
        tokens: (count,) its own first tokens in answer to the text.
        states: (count, d) the states that foretell them.
    """

    spoken: Spoken
    carrier: str
    tokens: Tensor
    states: Tensor


def answered(decoder: Decoder, spoken: Sequence[Spoken], rng: random.Random, at_once: int = 32) -> list[Followed]:
    """What the decoder does with instructions in text, a batch at a time; done once, before the alignment."""
    out = []
    for start in range(0, len(spoken), at_once):
        some = spoken[start : start + at_once]
        carriers = [rng.choice(FOLLOW) for _ in some]
        turns = [f"{row.sentence.text}\n{carrier}" for row, carrier in zip(some, carriers, strict=True)]
        found = zip(some, carriers, *decoder.answers(turns), strict=True)
        out += [Followed(row, carrier, tokens, states) for row, carrier, tokens, states in found]
    return out


def align(
    projector: Projector,
    decoder: Decoder,
    spoken: Callable[[], Sequence[Spoken]],
    until: Callable[[], float],
    beside: Callable[[], Tensor],
    told: Callable[[int, float, float], None],
    batch: tuple[int, int] = (5, 3),
    seed: int = 0,
) -> int:
    """Train the projector by the decoder's behaviour.

    Args:
        projector: trained in place.
        decoder: frozen.
        spoken: training sentences.
        until: how much of the work is done, 0 to 1; the rate falls with it, and training ends at 1.
        beside: a loss that is added, times `BESIDE` (the warm start's CTC).
        told: called after every step with its number and its two losses.
        batch: how many transcriptions and how many instructions a step holds; no instructions is a quarter cheaper, and
            reading comes first.
        seed: of the order.

    Returns:
        how many steps were taken.
    """
    rng, step = random.Random(seed), 0
    known = [row for row in spoken() if row.sentence.kind == "instruction"]
    pool = answered(decoder, rng.sample(known, min(POOL, len(known))), rng) if batch[1] else []
    optimiser = torch.optim.AdamW(projector.parameters(), lr=RATE, weight_decay=0.0)
    while (done := until()) < 1:
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / WARM) * max(0.1, min(1.0, 1.6 * (1 - done)))
        repeated, followed = rng.sample(spoken(), batch[0]), rng.sample(pool, batch[1])
        losses = behaviour(projector, decoder, repeated, followed, rng)
        optimiser.zero_grad()
        torch.autograd.backward(losses[0] + losses[1] + BESIDE * beside())
        nn.utils.clip_grad_norm_(projector.parameters(), 1.0)
        optimiser.step()
        step += 1
        told(step, float(losses[0].detach()), float(losses[1].detach()))
    return step


def behaviour(
    projector: Projector,
    decoder: Decoder,
    repeated: Sequence[Spoken],
    followed: Sequence[Followed],
    rng: random.Random,
) -> tuple[Tensor, Tensor]:
    """The two losses of a batch, in nats a token: of repeating sentences, and of following instructions."""
    token, head = decoder.tokenizer, decoder.module.lm_head
    heard = [*repeated, *(one.spoken for one in followed)]
    asked = [*(rng.choice(REPEAT) for _ in repeated), *(one.carrier for one in followed)]
    ends = [torch.tensor(token(f"{row.sentence.text}<|im_end|>").input_ids) for row in repeated]
    ends += [one.tokens for one in followed]
    rows = [
        torch.cat([projector(row.frames.float()), decoder.embed(AFTER.format(asked=a)), decoder.embeddings[end]])
        for row, a, end in zip(heard, asked, ends, strict=True)
    ]
    states = decoder.states(rows)
    kept = [h[len(row) - len(end) - 1 : len(row) - 1] for h, row, end in zip(states, rows, ends, strict=True)]
    logits = head(torch.cat(kept)).log_softmax(-1)
    count = sum(len(end) for end in ends[: len(repeated)])
    reading = nll_loss(logits[:count], torch.cat(ends[: len(repeated)]))
    if not followed:
        return reading, torch.zeros(())
    with torch.no_grad():
        wanted = head(torch.cat([one.states for one in followed])).log_softmax(-1)
    return reading, kl_div(logits[count:], wanted, log_target=True, reduction="batchmean")
