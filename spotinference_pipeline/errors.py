"""The error tree. Every message says what, which, expected against found, and the next step, in one line.

SpotinferenceError
├── OursError                 something here must be mended: settings, files, database
│   ├── SettingsError         a setting is missing or wrong
│   ├── RawFileError          a raw file or segment cannot be read or written
│   ├── InvoiceError          an invoice contradicts one that was loaded
│   │   └── InvoiceFormError  an invoice's file, or what is told beside it, is not in its form
│   ├── SnapshotRunningError  another snapshot is running: nothing is wrong, and nothing to do
│   ├── WarehouseError        the DuckDB file is damaged, or a table is missing
│   │   └── WarehouseLockedError  another process has the DuckDB file open
│   ├── PublicationError      a publication would break its own rules
│   └── VerificationError     published files do not fit together
└── TheirsError               an outside service did not answer as described
    └── HyperstackError       Hyperstack's API refused, failed, or sent something unreadable
"""

from collections.abc import Sequence


class SpotinferenceError(Exception):
    """Base of every error that this package raises on purpose."""


class OursError(SpotinferenceError):
    """Something on our side must be mended before trying again."""


class SettingsError(OursError):
    """A setting is missing or wrong."""


class RawFileError(OursError):
    """A raw file or a log segment cannot be read or written."""


class InvoiceError(OursError):
    """An invoice is not in its form, or contradicts one that was loaded; nothing was loaded."""


class InvoiceFormError(InvoiceError):
    """An invoice's file, or what is told beside it, is not in its form. `faults`: all of them, the first is in the message."""

    def __init__(self, message: str, faults: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.faults = tuple(faults)


class SnapshotRunningError(OursError):
    """Another snapshot is running: nothing is wrong, and nothing to do."""


class WarehouseError(OursError):
    """The DuckDB file is damaged or incomplete, or may not be touched now."""


class WarehouseLockedError(WarehouseError):
    """Another process has the DuckDB file open."""


class PublicationError(OursError):
    """A publication would break its own rules; nothing was published."""


class VerificationError(OursError):
    """Published files do not fit together."""


class TheirsError(SpotinferenceError):
    """An outside service did not do what it says it does."""


class HyperstackError(TheirsError):
    """Hyperstack's API refused, failed, or sent something unreadable."""
