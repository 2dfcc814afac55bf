"""How many requests a recipe sends: one for each step, whatever the number of prompts, layers and directions."""

REQUESTS = {
    "direction_extraction": 1,
    "candidate_selection": 3,  # refusal tokens, directions, figures
    "refusal_heads": 2,  # direction, contributions
    "cross_modal_transfer": 3,  # streams, refusal tokens, scores
    "safe_space": 3,  # the same
    "defence": 3,  # refusal tokens, streams, answers
}
