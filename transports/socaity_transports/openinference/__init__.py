"""The Open Inference Protocol (KServe V2) on the client's side: Triton, KServe, MLServer and others, over REST and gRPC."""
