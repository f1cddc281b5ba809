"""Text of a report: the findings, the tables, and the HTML and Markdown pages that contain them."""
