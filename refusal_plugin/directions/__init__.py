"""The refusal direction: fitted, chosen, given a strength."""
