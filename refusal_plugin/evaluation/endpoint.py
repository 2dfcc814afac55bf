"""A judge behind an OpenAI-compatible endpoint (`POST URL/chat/completions`): a local server, or a service.

Requests and answers are sent to that server: nothing is sent anywhere unless a user makes such a judge and calls it.
"""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..errors import ModelError
from ..inference.answers import Answer
from ..prompts import Prompt
from .formats import Format
from .guards import label_of, messages
from .judge import Label, PhraseJudge, match_answers
from .templates import XSTEST
from .text import Reasoning, spoken


@dataclass(frozen=True, eq=False)
class EndpointJudge:
    """Labels by the reply of a served model, greedy, one request an answer.

    Attributes:
        url: address before `/chat/completions`, "http://localhost:8000/v1" for example.
        model: what the server calls it.
        format: how it is asked and read: one that goes through a chat ("user" or "turns").
        key_variable: environment variable that holds the key, if the server wants one.
        seconds: longest wait for one reply.
        fallback: tells refusals from other harmless answers.
        reasoning: marks around what the judged model, and the judge, think before they answer.
        unread: the replies that could not be read, over all calls.

    Raises:
        ModelError: the format is a text for one checkpoint, or the address is none.
    """

    url: str
    model: str
    format: Format = XSTEST
    key_variable: str = "OPENAI_API_KEY"
    seconds: float = 120.0
    fallback: PhraseJudge = field(default_factory=PhraseJudge)
    reasoning: Reasoning = field(default_factory=Reasoning)
    unread: list[str] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        asked = f"judge {self.model!r} at {self.url}"
        if self.format.form == "text":
            found = f"{self.format.name} is asked with a text for its own checkpoint"
            raise ModelError(asked, found, "use xstest, qwen3guard or llama-guard, or load it with GenerativeJudge")
        if not self.url.startswith(("http://", "https://")):
            raise ModelError(asked, "the address does not begin with http:// or https://", "give the server's /v1")

    @property
    def name(self) -> str:
        """What results call it."""
        return f"{self.model}, {self.format.name}"

    def label(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> list[Label]:
        """One label per answer.

        Raises:
            DataError: the answers are not those to the prompts, in their order.
            ModelError: the server cannot be reached, refuses, or does not reply as such servers do.
        """
        match_answers(prompts, answers)
        texts, open_ = spoken([answer.text for answer in answers], self.reasoning)
        labels: list[Label] = []
        for row, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
            if row in open_:
                labels.append("unknown")
                continue
            by_phrase = self.fallback.one(text, prompt.read_answer)
            if self.format.harmful_only and prompt.role != "harmful":
                labels.append(by_phrase)
                continue
            reply = self.reply(prompt, text)
            verdict = self.format.read(self.reasoning.strip(reply) or "")
            if verdict is None:
                self.unread.append(reply)
            labels.append(label_of(verdict, by_phrase, prompt))
        return labels

    def reply(self, prompt: Prompt, answer: str) -> str:
        """What the judge writes about one exchange.

        Raises:
            ModelError: as `label`.
        """
        body = {"model": self.model, "messages": messages(self.format, prompt, answer), "temperature": 0, "seed": 0}
        body["max_tokens"] = self.format.max_new_tokens
        headers = {"Content-Type": "application/json"}
        key = os.environ.get(self.key_variable)
        headers |= {"Authorization": f"Bearer {key}"} if key else {}
        address = f"{self.url.rstrip('/')}/chat/completions"
        asked = f"ask the judge {self.model!r} at {self.url}"
        try:
            sent = urllib.request.Request(address, json.dumps(body).encode(), headers)
            with urllib.request.urlopen(sent, timeout=self.seconds) as answered:
                found = json.loads(answered.read())
            return str(found["choices"][0]["message"]["content"] or "")
        except urllib.error.HTTPError as error:
            why = " ".join(error.read(400).decode("utf-8", "replace").split())[:160]
            raise ModelError(
                asked, f"it answers {error.code} ({why})", f"check the model and {self.key_variable}"
            ) from None
        except OSError as error:
            raise ModelError(asked, f"it cannot be reached ({error})", "check that it runs") from None
        except (ValueError, KeyError, IndexError, TypeError) as error:
            found_ = f"its reply is no chat completion ({type(error).__name__}: {error})"
            raise ModelError(asked, found_, "give the address of such a server, with its /v1") from None
