"""Version 1 of the keyswitch contract."""
