"""Long work tells where it is: lines with the time in a log, nothing where nobody asked."""

import re
import time
from collections.abc import Iterator

import pytest

from refusal_plugin import progress
from refusal_plugin.progress import duration, say, speak, track

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (.+)")


@pytest.fixture
def lines() -> Iterator[None]:
    speak("lines")
    yield
    speak("bars")


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Every line on stderr without its time, which each must have; nothing on stdout."""
    found = capsys.readouterr()
    assert found.out == ""
    matches = [LINE.fullmatch(line) for line in found.err.splitlines()]
    assert all(matches), found.err
    return [match.group(1) for match in matches if match]


@pytest.mark.usefixtures("lines")
def test_work_in_a_log_begins_beats_and_ends(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "HEARTBEAT", 0.05)
    with track(4, "study") as advance:
        advance(1)
        with track(7, "answers") as inner:
            inner(2)
            time.sleep(0.3)
        say("stage one: done")
    first, *beats, stage, last = said(capsys)
    assert (first, stage) == ("study: begins, 4 steps", "stage one: done") and last.startswith("study: done in 0 s")
    assert beats and all(
        re.match(r"study: 1 of 4 done, 3 left, about [0-3] s; now answers: 2 of 7 done", b) for b in beats
    )


@pytest.mark.usefixtures("lines")
def test_a_heart_that_stopped_does_not_beat(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "HEARTBEAT", 0.05)
    with pytest.raises(KeyboardInterrupt), track(4, "study"):
        raise KeyboardInterrupt
    time.sleep(0.2)
    assert said(capsys) == ["study: begins, 4 steps"]
    with track(4, "next", progress=False):
        time.sleep(0.2)
    assert said(capsys) == [], "False is silent whatever the voice"


@pytest.mark.parametrize("voice", ["bars", "quiet"])
def test_nothing_is_said_where_nobody_looks(capsys: pytest.CaptureFixture[str], voice: progress.Voice) -> None:
    speak(voice)
    with track(4, "study") as advance:
        advance(4)
        say("stage")
    speak("bars")
    assert said(capsys) == []


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (12000, "3 h 20 min")]
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
