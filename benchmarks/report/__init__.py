"""Reports: their data, and Markdown, HTML and plots of it."""
