"""The Open Inference Protocol (KServe V2): one codec for REST and gRPC, for the server and for the client.

Source: https://github.com/kserve/open-inference-protocol and the extensions of Triton,
https://github.com/triton-inference-server/server/tree/main/docs/protocol
"""
