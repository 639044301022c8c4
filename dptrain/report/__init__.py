"""What a study found: chart, tables, TensorBoard. Reads the study folder and writes only what can be drawn again.

`write.write_report(path)` writes everything and returns the chart's path; `analysis.analyse(study)` returns the
figures; `table.summary_table(result)` is the table for the terminal. Nothing is imported here: the drawing and the
training libraries behind these modules take seconds to load.
"""
