"""The processes: a master that holds the sockets, workers that do the work, a registry for what they share."""
