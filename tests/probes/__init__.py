"""What a user once typed and lost something by, got a wrong answer to, or was shown a traceback for.

These tests use nothing but the command line, public names, and names that are as old as the faults, so that
they run against any commit: each of them fails where its fault is not mended. Docstrings say what happened.
"""
