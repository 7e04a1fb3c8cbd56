"""The report: its content as data, then Markdown, HTML and plots of it."""
