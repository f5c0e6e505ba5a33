"""How a release reaches a device: plumbing that nobody trusts. The device verifies, decides and installs on its own."""

from edgekd.ship.transport.session import Answer, Need, Session, Transport
from edgekd.ship.transport.ssh import AgentPlace, SshTransport

__all__ = ["AgentPlace", "Answer", "Need", "Session", "SshTransport", "Transport"]
