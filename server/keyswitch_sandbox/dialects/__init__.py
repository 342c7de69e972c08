"""How the sandbox spells what it says, one module a dialect."""
