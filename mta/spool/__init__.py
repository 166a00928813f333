"""Mail at rest: durable when commit returns."""
