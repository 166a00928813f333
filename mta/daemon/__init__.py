"""The processes: one master, its workers, and the registry for what all workers share."""
