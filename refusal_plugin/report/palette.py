"""Colours and names: one fixed colour for each modality and each role, in a light and a dark tuning.

The hues follow Okabe and Ito's colour-blind safe set; lightness is moved so that every colour reaches a contrast of 4.5
against the page in both themes (a test holds it). Colour is never the only sign: roles also differ in shape, modalities
are named where their line ends.
"""

MODALITIES = (
    "text", "image", "video", "audio", "image+video", "image+audio", "video+audio", "image+video+audio"
)  # fmt: skip
ROLES = ("harmful", "near_miss", "benign")
ROLE_NAMES = {"harmful": "harmful", "near_miss": "near-miss", "benign": "benign"}
ROLE_SHAPES = {"harmful": "triangle", "near_miss": "diamond", "benign": "circle"}

# name -> (light, dark)
COLOURS: dict[str, tuple[str, str]] = {
    "bg": ("#ffffff", "#12161b"),
    "surface": ("#f5f7f9", "#1a2027"),
    "ink": ("#161b21", "#e9edf1"),
    "muted": ("#55616d", "#a4b0bc"),
    "line": ("#cfd6dd", "#3a4550"),
    "grid": ("#e7ebef", "#272f38"),
    "accent": ("#0b5cad", "#79bcff"),
    "warn-bg": ("#fff5da", "#33290f"),
    "warn-line": ("#d9a514", "#a37c14"),
    "warn-ink": ("#5c4100", "#ffe0a0"),
    "text": ("#0069a8", "#5ab8f0"),
    "image": ("#a65b00", "#f2a93b"),
    "video": ("#007556", "#35c79b"),
    "audio": ("#9c3a7c", "#e692c8"),
    "image_video": ("#5a6300", "#c3cc4e"),
    "image_audio": ("#b0264a", "#ff95ad"),
    "video_audio": ("#5a4fc0", "#b5aaff"),
    "image_video_audio": ("#6b4a3a", "#d8b19c"),
    "harmful": ("#c23b06", "#ff8a5c"),
    "near_miss": ("#7d6a00", "#e6d24a"),
    "benign": ("#47626f", "#9fb7c4"),
    "control": ("#6b7680", "#8f9ba6"),
}


def modality_order(names: object) -> list[str]:
    """The modalities of a result in reading order: the known ones first, then any other by name."""
    present = [str(name) for name in names] if isinstance(names, (list, tuple, dict)) else []
    return [m for m in MODALITIES if m in present] + sorted(set(present) - set(MODALITIES))


def colour(name: str) -> str:
    """The CSS value of a modality's, role's or page colour; an unknown name gets the control grey."""
    key = name.replace("+", "_")
    return f"var(--rp-{key.replace('_', '-')})" if key in COLOURS else "var(--rp-control)"
