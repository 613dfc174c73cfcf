"""The Open Inference Protocol (KServe V2) on top of the data plane, for REST and gRPC alike."""
