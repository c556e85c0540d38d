"""How answers are made fit to leave: a file for each way, and `modes`, the table of them."""
