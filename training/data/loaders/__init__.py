"""One file a data set: each loads its files into a :class:`~arn_purify.training.data.splits.Dataset`."""
