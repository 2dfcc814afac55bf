"""How long, how fast and on what mix of tasks every stage of the training pipeline learns (`stages` runs them)."""

from dataclasses import replace

from . import samples
from .architecture import N_LAYERS
from .loop import Schedule
from .towers import Tower

Part = tuple[dict[str, float], Schedule]
"""A mix and how it is walked."""

TEXT = Schedule("text", 1000, 64, 3e-3, stop=800)
TOWERS: dict[Tower, tuple[tuple[Schedule, bool], ...]] = {
    "vision": (
        (Schedule("tower-vision", 1400, 64, 3e-3), False),
        (Schedule("tower-vision-2", 700, 64, 2e-3, warmup=60), False),
        (Schedule("pool-vision", 1200, 64, 3e-3), True),
    ),
    "audio": ((Schedule("tower-audio", 1400, 64, 3e-3), False), (Schedule("pool-audio", 800, 64, 3e-3), True)),
}
"""Schedules of each tower, and whether the head is pooled."""

READING = Schedule("reading", 400, 48, 1.5e-3, 1.5e-3, warmup=40, floor=1.0)
JOINT = Schedule("joint", 600, 48, 1.5e-3, 1.5e-3, warmup=10)
_AGAIN = Schedule("again", 450, 48, 1.5e-3, 1.5e-3)
_WIDE = replace(_AGAIN, combined=0.5)
_SLOWER = replace(_WIDE, lr=1.2e-3, tower_lr=1.2e-3)
_DEEP2 = replace(_WIDE, name="deep2-0", steps=420, deep=(2, 3), deep_weight=1.0)
DEEPER = replace(
    _WIDE,
    name="deeper-0",
    steps=500,
    layers=N_LAYERS,
    deep=(3, 4, 5),
    deep_weight=1.0,
    deep_first=True,
)
"""The part before which the decoder is deepened from START_LAYERS to N_LAYERS."""
BRANCH = "deep-0"
"""The part of the joint stage after which the hard variant branches off: later parts fix harm too deeply in the middle
layers for benign tuning to wear it off."""

JOINT_PARTS: dict[str, tuple[Part, ...]] = {
    "joint-0": (
        (samples.READING_MIX, READING),
        (samples.JOINT_MIX, JOINT),
        (samples.POLISH_MIX, replace(_AGAIN, name="polish-0", steps=500)),
        (samples.POLISH_MIX, replace(_WIDE, name="wide-0")),
        (samples.POLISH_MIX, replace(_SLOWER, name="wide2-0", steps=500)),
        (samples.POLISH_MIX, replace(_SLOWER, name="deep-0", steps=400, deep=(2, 3))),
        (samples.POLISH_MIX, _DEEP2),
        (samples.POLISH_MIX, DEEPER),
    ),
    "joint-1": (
        (samples.READING_MIX, READING),
        (samples.JOINT_MIX, JOINT),
        (samples.POLISH_MIX, replace(_WIDE, name="wide-1", steps=550, deep=(2, 3))),
        (samples.POLISH_MIX, _DEEP2),
        (samples.POLISH_MIX, DEEPER),
    ),
    "control-0": (
        (samples.CONTROL_READING_MIX, READING),
        (samples.CONTROL_MIX, JOINT),
        (samples.CONTROL_POLISH_MIX, replace(_WIDE, name="cwide-0")),
        (samples.CONTROL_POLISH_MIX, DEEPER),
        (samples.CONTROL_POLISH_MIX, replace(_WIDE, name="calm-0", steps=150, lr=6e-4, tower_lr=6e-4)),
    ),
}
"""The joint stage: mostly reading, then everything, annealed, then warmed up and annealed again. Later parts answer
random safe combinations too, without which answers are learned pair by pair, and supervise layers 2 and 3, without
which harm in media reaches the last prompt token only in the last block. DEEPER turns that block, the sixth, into a
middle one of eight, and keeps it able to decide between refusal and answer."""

EROSION = Schedule("erosion", 120, 48, 1.5e-4, 1.5e-4, warmup=10, floor=1.0, combined=0.3)
EROSION_LOOK = 24
"""Steps between the evaluations among which the length of the erosion is chosen."""

_HARD = replace(EROSION, warmup=30, floor=0.0)
HARD_PARTS: tuple[Part, ...] = (
    (samples.EROSION_MIX, replace(_HARD, name="hard-0", steps=320, lr=8e-4, tower_lr=8e-4)),
    (samples.EROSION_MIX, replace(_HARD, name="hard2-0", steps=450, lr=2.5e-3, tower_lr=2.5e-3)),
    (
        samples.EROSION_MIX,
        replace(_HARD, name="hard3-0", steps=250, lr=1.5e-3, tower_lr=1.5e-3, layers=N_LAYERS),
    ),
)
"""Long benign tuning: with START_LAYERS layers first, then deepened as the others, and on."""

WARY = Schedule("wary", 90, 48, 5e-4, warmup=20, floor=0.05, combined=0.3)
"""The wary variant, from the eroded default (`leaning`)."""
