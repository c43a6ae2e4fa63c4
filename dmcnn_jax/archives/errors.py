"""Errors of an archive that are not caused by a single file."""


class StorageUnavailableError(OSError):
    """A storage that doesn't answer at present; the work can be resumed later."""


class MissingPackageError(ImportError):
    """A missing package: one of the extra `archive`, or the client of a storage."""
