"""The study folder: a run is a pure function of a frozen configuration, a report is a pure function of the folder."""
