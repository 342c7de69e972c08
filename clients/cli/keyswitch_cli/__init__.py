"""The `keyswitch` command."""
