"""The warm start: the projector learns to spell, without one pass of the decoder.

Every frame is read as the token of the decoder whose embedding it lies nearest to, or as blank:

    p(k | frame) = softmax_k( s cos(x, e_k) ),    x = projector(frame),    e_blank = embedding of a line break

and the loss is CTC (Graves et al. 2006) of a sentence's tokens, over the batch's tokens and some random others. The
decoder is to read x as it stands, and a cosine of 0.3 is enough for CTC; so x is also pulled to the embedding that CTC
expects there,

    |x - sum_k g_k e_k|^2,    g_k = p(k | frame) - dCTC / dlogit_k    (the posterior of k given the sentence)

which is one step of expectation and maximisation of Gaussians around the embeddings. (By distance instead of cosine in
the softmax, x runs off to twenty times an embedding's length.) A line break is the blank because the decoder reads past
line breaks: with one to five of them after every token of a sentence it repeats the sentence as well as without, which
holds of no other candidate that was tried (the zero vector, the mean of all embeddings, the end of text, a comma).
"""

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import ctc_loss, normalize

from .features import Spoken

BATCH, NEGATIVES, RATE, SHARPNESS = 24, 400, 2e-3, 20.0
BLANK = "\n"
NOISE, LEFT_OUT = 0.25, 0.15
PULL, LENGTH = 2.0, 0.55
"""About the length of an embedding."""


class Projector(nn.Module):
    """The class's own projector on its own: two layers with GELU between."""

    def __init__(self, heard: int = 512, width: int = 896) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(heard, width), nn.Linear(width, width)

    def forward(self, frames: Tensor) -> Tensor:
        """(..., encoder width) to (..., decoder width)."""
        found: Tensor = self.linear_2(nn.functional.gelu(self.linear_1(frames)))
        return found


def nearness(x: Tensor, embeddings: Tensor) -> Tensor:
    """Cosines: (..., d) and (k, d) to (..., k)."""
    return normalize(x, dim=-1) @ normalize(embeddings, dim=-1).T


class Spelling:
    """The CTC loss of random batches.

    Args:
        tokenizer: the decoder's.
        embeddings: (token, d), the decoder's.
        spoken: the training sentences; asked again after every pass, because more may have been spoken meanwhile.
        seed: of the order and of the negatives.
    """

    def __init__(
        self, tokenizer: Any, embeddings: Tensor, spoken: Callable[[], Sequence[Spoken]], seed: int = 0
    ) -> None:
        self.tokenizer, self.embeddings, self.spoken = tokenizer, embeddings, spoken
        self.sharpness = nn.Parameter(torch.tensor(SHARPNESS).log())
        self._rng, self._generator = random.Random(seed), torch.Generator().manual_seed(seed)
        self._left: list[list[Spoken]] = []
        self._known = torch.tensor(sorted({t for row in spoken() for t in tokenizer(row.sentence.text).input_ids}))

    def loss(self, projector: Projector) -> Tensor:
        """Of the next batch, in nats a token."""
        if not self._left:  # batches of sentences that are about as long as each other, in no order
            rows = list(self.spoken())
            self._rng.shuffle(rows)
            for at in range(0, len(rows), 16 * BATCH):
                alike = sorted(rows[at : at + 16 * BATCH], key=lambda row: len(row.frames))
                self._left += [alike[n : n + BATCH] for n in range(0, len(alike), BATCH)]
            self._rng.shuffle(self._left)
        batch = self._left.pop()
        blank = self.tokenizer(BLANK).input_ids[0]
        texts = [self.tokenizer(row.sentence.text).input_ids for row in batch]
        drawn = self._known[torch.randint(len(self._known), (NEGATIVES,), generator=self._generator)].tolist()
        chosen = list(dict.fromkeys([blank, *(t for text in texts for t in text), *drawn]))
        place = {token: n for n, token in enumerate(chosen)}
        lengths = torch.tensor([len(row.frames) for row in batch])
        counts = torch.tensor([len(text) for text in texts])
        targets = torch.tensor([place[t] for text in texts for t in text])
        heard = nn.utils.rnn.pad_sequence([row.frames.float() for row in batch], batch_first=True)
        heard = self._roughened(heard)
        x = projector(heard)
        logits = self.sharpness.exp() * nearness(x, self.embeddings[torch.tensor(chosen)])
        spelt = logits.log_softmax(-1)
        loss = ctc_loss(spelt.transpose(0, 1), targets, lengths, counts, reduction="sum", zero_infinity=True)
        (slope,) = torch.autograd.grad(loss, logits, retain_graph=True)
        expected = (spelt.exp() - slope).detach() @ self.embeddings[torch.tensor(chosen)]
        spoken = torch.arange(x.shape[1]) < lengths[:, None]
        away = (x - expected).square().sum(-1)[spoken].mean() / LENGTH**2
        return torch.as_tensor(loss / counts.sum() + PULL * away)

    def _roughened(self, heard: Tensor) -> Tensor:
        """Frames with noise, a shift that a whole sentence shares as a voice would, and features left out."""
        spread = NOISE * heard.std()
        noise = torch.randn(heard.shape, generator=self._generator)
        shift = torch.randn((len(heard), 1, heard.shape[-1]), generator=self._generator)
        kept = torch.rand((len(heard), 1, heard.shape[-1]), generator=self._generator) > LEFT_OUT
        return (heard + spread * (noise + shift)) * kept / (1 - LEFT_OUT)


def spell(
    projector: Projector, spelling: Spelling, until: Callable[[], float], told: Callable[[int, float], None]
) -> int:
    """Train the projector by CTC.

    Args:
        projector: trained in place.
        spelling: the loss.
        until: how much of the work is done, 0 to 1; the rate falls with it, and training ends at 1.
        told: called after every step with its number and its loss.

    Returns:
        how many steps were taken.
    """
    torch.set_flush_denormal(True)  # sharp softmaxes leave numbers that slow a processor down tenfold
    step = 0
    optimiser = torch.optim.AdamW([*projector.parameters(), spelling.sharpness], lr=RATE, weight_decay=1e-3)
    while (done := until()) < 1:
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 100) * max(0.02, min(1.0, 2 * (1 - done)))
        loss = spelling.loss(projector)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(projector.parameters(), 1.0)
        optimiser.step()
        step += 1
        told(step, float(loss.detach()))
    return step


@torch.inference_mode()
def read(projector: Projector, frames: Tensor, tokens: Tensor, embeddings: Tensor, blank: int) -> list[int]:
    """What the frames spell: the nearest token of each, repeats and blanks left out.

    Args:
        projector: the projector.
        frames: (frame, encoder width).
        tokens: (k,), ids that can be read, the blank among them.
        embeddings: (k, d), theirs.
        blank: id of the blank.
    """
    nearest = tokens[nearness(projector(frames.float()), embeddings).argmax(-1)].tolist()
    kept = [t for n, t in enumerate(nearest) if n == 0 or t != nearest[n - 1]]
    return [t for t in kept if t != blank]


def budget(seconds: float) -> Callable[[], float]:
    """How much of a time is over, 0 to 1."""
    begun = time.monotonic()
    return lambda: (time.monotonic() - begun) / seconds
