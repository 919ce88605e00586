"""vLLM as a decoder; the only place that imports vllm."""
