"""The report of a run: ``write.write_report`` makes one self-contained HTML file from a run folder."""
