"""Images of requests: fetching, decoding, processors."""
