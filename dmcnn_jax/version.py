"""The version, where the installer and the package both read it. Imports nothing."""

__version__ = "0.1.0"
