"""Running a whole test inside the runtime."""

import functools

import ferrule


def in_fiber(test):
    """Decorate a test so that it runs in a fiber; its fixtures are made outside."""

    @functools.wraps(test)
    def run(**fixtures):
        return ferrule.run(functools.partial(test, **fixtures))

    return run
