"""The report's pages: one document in, HTML, Markdown and pictures out. Nothing here computes a statistic."""
