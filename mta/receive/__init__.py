"""Mail coming in: from a connection to the 250 after which the mail is ours."""
