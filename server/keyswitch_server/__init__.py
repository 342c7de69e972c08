"""The gRPC server: services, health, reflection, settings and logging around the engine."""
