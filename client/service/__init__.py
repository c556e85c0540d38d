"""The institution's daemon: configuration, sessions, logs, metrics, state folder."""
