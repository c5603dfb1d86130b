"""Contract suites for tasks, backends, sources, schedules, trackers and plugins: subclass one and give it fixtures."""

import pytest

# Without it a failing assert of a suite that stands outside of the test files says "AssertionError" and no values.
pytest.register_assert_rewrite(
    *(f"{__name__}.{suite}_contract" for suite in ("backend", "schedule", "source", "task", "tracker"))
)
