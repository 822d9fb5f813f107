"""The version, where the build and every manifest read it."""

__version__ = "0.1.0"
