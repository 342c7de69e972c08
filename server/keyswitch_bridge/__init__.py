"""The bridge between contract and engine: validation, protobuf to and from the model, errors to statuses.

It opens no port, so that the server and a client that dispatches locally run the very same code.
"""
