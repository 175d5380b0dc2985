"""The error tree: ours to tell the operator, never a vLLM answer (those pass through untouched).

ProxyError
├── SettingsError    the operator's settings or keys file are wrong
├── RecordError      a line of the request log is not what was written
└── LogError         the request log cannot be written now
"""


class ProxyError(Exception):
    """Base of every error raised on purpose in this distribution."""


class SettingsError(ProxyError):
    """A setting is missing or wrong; the message is one line with the next step."""


class RecordError(ProxyError):
    """A line of the log is damaged, too long or of another version."""


class LogError(ProxyError):
    """A row did not become durable; whoever waits for it must not act as if it had."""
