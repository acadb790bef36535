"""The API process: the port, the application behind it, and the worker it watches over."""
