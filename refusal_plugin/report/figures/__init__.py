"""The figures: each takes a part of `results.json` as a mapping and returns markup. They draw and never compute."""
