"""The supported data formats, one module each. Each returns a `data.listing.Listing`."""
