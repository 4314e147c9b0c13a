"""Words, tables, charts, page and workbooks of one analysis."""
