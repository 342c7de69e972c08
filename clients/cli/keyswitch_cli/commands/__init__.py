"""One module a command; none is imported before it is asked for."""
