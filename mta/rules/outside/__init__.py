"""What rules learn beyond the mail, through one World: the store, rates, lists, keys, services, settings."""
