"""Files as documents: each format, from plain text to PDF, is read or refused with a reason."""
