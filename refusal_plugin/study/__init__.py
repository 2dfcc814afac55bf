"""The pieces of the study: stages that survive an interruption, summaries with intervals, the regime in words."""
