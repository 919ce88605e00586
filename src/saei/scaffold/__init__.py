"""New packages with a strategy: the texts of their files, for every kind."""

from saei.scaffold.package import NewPackage, write

__all__ = ["NewPackage", "write"]
