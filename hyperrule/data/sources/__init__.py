"""Kinds of storage, a module each: every one lists its images by the contract of `hyperrule.data.listing`."""
