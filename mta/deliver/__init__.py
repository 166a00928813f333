"""Mail going out: from a due mail in the spool to a reply for every recipient."""
