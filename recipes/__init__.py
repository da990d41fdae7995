"""How the shipped adapters were made."""
