"""How much a fuzz test tries: 500 examples in all with the other tests, as many as `FUZZ_EXAMPLES` says at night."""

import os

from hypothesis import HealthCheck, settings

VARIABLE = "FUZZ_EXAMPLES"


def tried(share: float) -> settings:
    """Settings of a test that takes this share of one area's examples; by day the same ones every time."""
    total = int(os.environ.get(VARIABLE, "500"))
    return settings(
        max_examples=max(1, round(share * total)),
        derandomize=VARIABLE not in os.environ,
        print_blob=True,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
