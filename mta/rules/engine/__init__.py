"""How rules run: files are loaded into a sandbox of Lua, and at each stage the rules speak until one decides."""
