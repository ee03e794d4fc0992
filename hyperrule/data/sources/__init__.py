"""One module for each way in which data is stored; all list images by the contract of `data.listing`."""
