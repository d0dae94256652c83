"""Tables, pages and figures, written from the records."""
