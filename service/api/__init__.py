"""The HTTP interface: one file a resource, and what they share."""
