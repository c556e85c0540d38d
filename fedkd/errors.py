"""Exceptions that fedkd raises on purpose, as one hierarchy.

    FedkdError                      one line: what came, what was expected, what to do
    ├── SettingsError               an experiment, a policy or a command says something impossible
    │   └── NeedsError              a method needs a signal that an institution does not release
    ├── DataError                   data or weights that cannot be opened
    ├── ProtocolError               a message that the session state machine does not allow
    │   ├── LocalProtocolError      from this side: a defect, never sent
    │   └── RemoteProtocolError     from the other side: its session ends, the run goes on
    ├── QuorumLost                  fewer institutions answer than the run needs
    └── RunsFailed                  some runs of a comparison failed; the others finished

A command prints any of them as one line and exits with status 2.
"""


class FedkdError(Exception):
    """The base class; never raised itself."""


class SettingsError(FedkdError):
    """A setting is impossible; mostly found before any query is sent."""


class NeedsError(SettingsError):
    """A term needs a signal that some institution does not release."""


class DataError(FedkdError):
    """Data or weights cannot be opened, or are not what they should be."""


class ProtocolError(FedkdError):
    """A message violates the session protocol."""


class LocalProtocolError(ProtocolError):
    """This side was about to send such a message."""


class RemoteProtocolError(ProtocolError):
    """The other side sent such a message."""


class QuorumLost(FedkdError):  # noqa: N818 -- an event of the run
    """Too few institutions answered a query to continue."""


class RunsFailed(FedkdError):  # noqa: N818 -- an event too
    """Some runs of a comparison failed, others finished."""
