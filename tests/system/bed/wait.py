# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bounded waiting on a condition: the bed's only way to synchronise."""

import time

POLL_S = 0.02
POLL_MAX_S = 0.25


class Timeout(AssertionError):
    """A condition did not come true in time. An assertion: the test has failed, it was not skipped or broken."""


def wait_until(fn, timeout, what, poll=None):
    """Call fn() until it returns something true and return that.

    Polls fast at first, then slower. An exception from fn counts as "not yet"; the last one is shown if time runs out.
    """
    deadline = time.monotonic() + timeout
    pause = poll or POLL_S
    while True:
        last = None
        try:
            value = fn()
            if value:
                return value
        except Exception as e:  # pylint: disable=broad-except
            last = e
        if time.monotonic() >= deadline:
            raise Timeout(f"not within {timeout} s: {what}" + (f" (last: {last!r})" if last else ""))
        time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
        if not poll:
            pause = min(pause * 1.3, POLL_MAX_S)


def holds_for(fn, seconds, what, poll=0.1):
    """Assert that fn() stays true for a while, for things that must NOT happen."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert fn(), f"no longer true: {what}"
        time.sleep(poll)
