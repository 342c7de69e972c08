"""The engine: routing, dialects, dispatch and egress. It knows nothing of gRPC and keeps no global state."""
