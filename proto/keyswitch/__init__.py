"""The keyswitch contract: protobuf messages and gRPC stubs of every published version."""
