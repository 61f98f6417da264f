"""A fake Sutro service for tests, examples and demos: real HTTP, no account, no network.

The pytest fixtures are in `sutro_async.testing.fixtures`: this module does not need pytest.
"""

from sutro_async.testing._http import RecordedRequest
from sutro_async.testing._server import FakeSutro

__all__ = ["FakeSutro", "RecordedRequest"]
