"""Every table and figure of a data set, from the data, in one command."""
