"""Where do the pictures of requests come from, and are they fit to be looked at?"""
