"""The admin's Lua: which words there are, how they run, and what they decide."""
