"""The verbs of the command `mta`, one file per noun, imported only when asked for."""
