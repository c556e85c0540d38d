"""Every error that fedkd raises on purpose, drawn as a tree. It knows nothing else.

    FedkdError                      one line: what came, what was expected, what to do
    ├── SettingsError               an experiment, a policy or a command says something impossible
    │   └── NeedsError              a method needs a signal that an institution does not release
    ├── DataError                   data or weights that cannot be opened
    ├── ProtocolError               a session broke its law
    │   ├── LocalProtocolError      by us: a defect, never sent
    │   └── RemoteProtocolError     by them: their session ends, the run goes on
    ├── QuorumLost                  fewer institutions answer than the run needs
    └── RunsFailed                  some runs of a comparison came to no end; the others did

A command prints any of them as one line and exits with status 2.
"""


class FedkdError(Exception):
    """The root; never raised itself."""


class SettingsError(FedkdError):
    """A setting cannot be honoured; nothing was asked yet, unless there is nothing new to ask."""


class NeedsError(SettingsError):
    """A term needs a signal that some institution does not release."""


class DataError(FedkdError):
    """Data or weights cannot be opened, or are not what they should be."""


class ProtocolError(FedkdError):
    """A message that the law of the session does not allow."""


class LocalProtocolError(ProtocolError):
    """This side was about to break the law."""


class RemoteProtocolError(ProtocolError):
    """The other side broke the law."""


class QuorumLost(FedkdError):  # noqa: N818 -- an event of the run, named as one speaks of it
    """Too few institutions answered a question to go on."""


class RunsFailed(FedkdError):  # noqa: N818 -- an event too
    """Runs of a comparison that came to no end, beside others that did."""
