"""A mail transfer agent scripted in Lua."""

__version__ = "0.1.0"
