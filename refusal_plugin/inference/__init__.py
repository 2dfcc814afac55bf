"""A model over many prompts: batches that fit, edits, streams, answers, scores."""
