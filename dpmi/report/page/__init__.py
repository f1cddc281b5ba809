"""What a report writes: the conclusion, the tables, and the page and the summary that hold them."""
