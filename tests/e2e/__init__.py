"""Whole flows with the embedded encoder and real stores."""
