"""The sandbox: a provider's double on real HTTP, for demos, users' own tests and ours.

The model name chooses the behaviour; `scenarios` lists them.
"""

from keyswitch_sandbox.journal import Entry, Journal
from keyswitch_sandbox.replay import Recordings
from keyswitch_sandbox.server import Sandbox

__all__ = ["Entry", "Journal", "Recordings", "Sandbox"]
