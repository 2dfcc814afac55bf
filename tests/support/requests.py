"""How many requests a recipe sends: one for each step, whatever the number of prompts, layers and directions."""

REQUESTS = {
    "direction_extraction": 1,
    "candidate_selection": 3,  # refusal tokens, directions, figures
    "refusal_heads": 2,  # direction, contributions
    "cross_modal_transfer": 3,  # streams, refusal tokens, scores
    "safe_space": 3,  # the same
    "defence": 3,  # refusal tokens, streams, answers
}

WITHIN = {"refusal_heads": 1e-4, "defence": 1e-5, "cross_modal_transfer": 1e-5}
"""How far a recipe's numbers may lie from those of a run on this machine, where that is more than 1e-6.

What heads write with is read off the weights here and called for there: float32 rounds a hundred at 8e-6. Blocks before
the first edited one run once here and with every arm there, and towers read media here alone and there in a batch."""
