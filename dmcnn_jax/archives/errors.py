"""Errors of archives that are no fault of a single file."""


class StorageUnavailableError(OSError):
    """Storage that doesn't answer for the time being: the work can be taken up again later."""


class MissingPackageError(ImportError):
    """A package of the extra `archive`, or a client of a storage, that is not installed."""
