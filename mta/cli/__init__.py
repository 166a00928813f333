"""The commands a person types, one file per noun; each is imported only when asked for."""
