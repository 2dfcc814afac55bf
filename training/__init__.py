"""How the embedded checkpoints were made: data, stages, schedules, measuring, cards.

`python -m training` (or `make organism`) trains them from nothing. Part of the sources, not of the installed package:
what runs a finished checkpoint is `refusal_plugin.organism`.
"""
