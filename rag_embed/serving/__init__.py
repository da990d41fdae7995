"""What other programs talk to: an index as tools of the Model Context Protocol, and who is let in."""
